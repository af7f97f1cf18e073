//! The registry of data sets: from `[data] kind` and a path to records.

use std::fmt;
use std::fs;
use std::path::Path;

use engraft_plugin_api::params::nearest;

use super::{Record, codes, counterfact};
use crate::base::{Error, Result, atomic};

/// The schema of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// CounterFact (Meng et al. 2022): `counterfact.json`.
    CounterFact,
}

impl DataKind {
    /// Every kind.
    pub const ALL: [Self; 1] = [Self::CounterFact];

    /// The word in `[data] kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CounterFact => "counterfact",
        }
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// `data-kind`, with the nearest name.
    pub fn named(name: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = names.join(", ");
            Error::new(&codes::DATA_KIND, format!("there is no kind of data `{name}`")).help(
                match nearest(name, names.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`? known: {known}"),
                    None => format!("known: {known}"),
                },
            )
        })
    }
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A data file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The records that can be used, in the order of the file; their ids are unique.
    pub records: Vec<Record>,
    /// The records that cannot.
    pub skipped: Vec<Skipped>,
    /// BLAKE3 of the file's bytes, in hexadecimal digits.
    pub hash: String,
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the file, counted from 0.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// Reads the first `limit` records of a file (all of them without a limit). The rest of the file is checked for being
/// JSON and otherwise ignored.
///
/// # Errors
/// `data-unreadable`, `data-malformed`, `data-schema`, or `data-empty` if no record can be used.
pub fn load(kind: DataKind, path: &Path, limit: Option<usize>) -> Result<Dataset> {
    let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(&codes::DATA_UNREADABLE, format!("cannot read the data file `{}`", path.display())).because(e)
    };
    let bytes = fs::read(path).map_err(|e| unreadable(e.into()))?;
    let text = std::str::from_utf8(atomic::unmarked(&bytes)).map_err(|e| unreadable(e.into()))?;
    let (records, skipped) = match kind {
        DataKind::CounterFact => counterfact::parse(text, path, limit)?,
    };
    if records.is_empty() {
        let why = match skipped.first() {
            Some(first) => format!("{} skipped, the first because {}", skipped.len(), first.reason),
            None => "it is an empty list".to_owned(),
        };
        let message = format!("`{}` holds no record that can be used: {why}", path.display());
        return Err(Error::new(&codes::DATA_EMPTY, message));
    }
    Ok(Dataset { records, skipped, hash: blake3::hash(&bytes).to_hex().to_string() })
}
