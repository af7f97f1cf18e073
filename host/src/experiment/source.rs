//! The text of an experiment with its overrides, and where in it something stands.
//!
//! An override takes part in parsing as if its text stood behind the file's, so that one span names a place in either.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::codes;
use crate::base::{Error, Result, atomic};

/// No experiment is larger than this many bytes.
const LARGEST: u64 = 1 << 20;

/// An experiment as text.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
    overrides: Vec<String>,
}

impl Source {
    /// Reads an experiment file; `overrides` are those of `--set`, as typed.
    ///
    /// # Errors
    /// `config-unreadable`
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(&codes::CONFIG_UNREADABLE, format!("cannot read the experiment `{}`: {why}", path.display()))
        };
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(|e| refuse(e.to_string()))?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| refuse(e.to_string()))?;
        if bytes.len() as u64 > LARGEST {
            return Err(refuse(format!("it is larger than {LARGEST} bytes")));
        }
        let text = String::from_utf8(atomic::unmarked(&bytes).to_vec()).map_err(|e| refuse(e.to_string()))?;
        Ok(Self::new(path, text, overrides))
    }

    /// An experiment whose text is at hand; `path` is what messages call it and what its paths are relative to.
    pub fn new(path: &Path, text: String, overrides: &[String]) -> Self {
        Self { path: path.to_owned(), text, overrides: overrides.to_vec() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The overrides, each with the span it stands for.
    pub(super) fn overrides(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let mut start = self.text.len() + 1;
        self.overrides.iter().map(move |text| {
            let span = start..start + text.len();
            start = span.end + 1;
            (text.as_str(), span)
        })
    }

    /// Where a span begins, in words: `a.toml, line 3, column 7`, or the override. Columns count characters from 1.
    pub fn place(&self, span: &Range<usize>) -> String {
        if let Some((text, _)) = self.overridden(span) {
            return format!("--set {text}");
        }
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        format!("{}, line {line}, column {}", self.path.display(), before[line_start..].chars().count() + 1)
    }

    fn overridden(&self, span: &Range<usize>) -> Option<(&str, Range<usize>)> {
        self.overrides().find(|(_, whole)| whole.contains(&span.start) || *whole == *span)
    }
}
