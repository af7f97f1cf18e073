//! The rows that are run: from a JSON file of token ids, or from texts. Every defect is named by its row.

use std::path::Path;

use super::super::codes;
use crate::anatomy::Anatomy;
use crate::base::{Error, Result, atomic};
use crate::runtime::Tokenizer;

/// Rows of token ids from a file.
///
/// # Errors
/// `file-missing`, `file-read`, `rows-file` with line and column, or `rows-empty`
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u32>>> {
    let bytes = atomic::read_bytes(path)?;
    let rows: Vec<Vec<u32>> = serde_json::from_slice(atomic::unmarked(&bytes)).map_err(|e| {
        let text = format!(
            "`{}`, line {}, column {}: expected a list of rows of token ids",
            path.display(),
            e.line(),
            e.column()
        );
        Error::new(&codes::ROWS_FILE, text).help("for example [[12, 7, 88], [5, 9]]").because(e)
    })?;
    filled(&rows, &path.display().to_string())?;
    Ok(rows)
}

/// Rows of token ids from texts.
///
/// # Errors
/// `rows-empty`, and what the tokenizer meets.
pub(super) fn encode(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let rows = texts.iter().map(|text| Ok(tokenizer.encode(text)?.ids)).collect::<Result<Vec<_>>>()?;
    filled(&rows, "--text")?;
    Ok(rows)
}

fn filled(rows: &[Vec<u32>], source: &str) -> Result<()> {
    let text = match rows.iter().position(Vec::is_empty) {
        Some(row) => format!("row {row} of `{source}` holds no token"),
        None if rows.is_empty() => format!("`{source}` holds no row"),
        None => return Ok(()),
    };
    Err(Error::new(&codes::ROWS_EMPTY, text))
}

/// Refuses rows, and a target, that the model cannot take.
///
/// # Errors
/// `rows-long` or `token-range`, naming row and position, from 0.
pub(super) fn check(anatomy: &Anatomy, rows: &[Vec<u32>], target: Option<u32>) -> Result<()> {
    let vocab = anatomy.vocab;
    for (r, row) in rows.iter().enumerate() {
        if let Some(context) = anatomy.context.filter(|&context| row.len() > context) {
            let text = format!("row {r} has {} tokens, the model has {context} positions", row.len());
            return Err(Error::new(&codes::ROWS_LONG, text));
        }
        if let Some(at) = row.iter().position(|&token| token as usize >= vocab) {
            let text = format!("row {r}, position {at}: the token {} is not below {vocab}", row[at]);
            return Err(Error::new(&codes::TOKEN_RANGE, text));
        }
    }
    match target.filter(|&token| token as usize >= vocab) {
        Some(token) => Err(Error::new(&codes::TOKEN_RANGE, format!("--nll {token} is not below {vocab}"))),
        None => Ok(()),
    }
}
