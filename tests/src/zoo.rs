//! The zoo as rows of tests: its folders, PyTorch's records of them, and copies with a tokenizer of words.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::{Records, root};

/// A model of the zoo (`tests/zoo/README.md` tells what it is and what its record holds).
pub struct Row {
    /// The folder's name, `FAMILY-EXPORTER`.
    pub name: String,
    /// The family: all rows of one have the same weights and the same record.
    pub family: String,
}

/// Every row of the zoo, sorted by name.
///
/// # Panics
/// If a folder has no record.
pub fn rows() -> Vec<Row> {
    let entries = fs::read_dir(folder()).expect("the zoo is there").map(|e| e.expect("the zoo is readable").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.join("model.onnx").is_file()).collect();
    paths.sort();
    let row = |path: PathBuf| {
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        let mut ends: Vec<usize> = name.match_indices('-').map(|(at, _)| at).collect();
        ends.retain(|&at| record(&name[..at]).is_file());
        let family = ends.last().map(|&at| name[..at].to_owned());
        Row { family: family.unwrap_or_else(|| panic!("no record beside `{name}`")), name }
    };
    paths.into_iter().map(row).collect()
}

fn folder() -> PathBuf {
    root().join("tests/zoo")
}

fn record(family: &str) -> PathBuf {
    folder().join(format!("{family}.safetensors"))
}

impl Row {
    /// Why the row is not tested yet, if it is not.
    pub fn left_out(&self) -> Option<&'static str> {
        self.name
            .ends_with("-f16")
            .then_some("float16: `host/src/model/tests/halves.rs` tests it, with the tolerances of float16")
    }

    /// The model's own folder.
    pub fn folder(&self) -> PathBuf {
        folder().join(&self.name)
    }

    /// What PyTorch says of the family.
    pub fn records(&self) -> Records {
        Records::open(&record(&self.family))
    }

    /// A copy of the model with a tokenizer beside it: token 1 is `is`, token 2 is `a`, any other token N is `wN`.
    pub fn with_words(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("there is room for a folder");
        for entry in fs::read_dir(self.folder()).expect("the zoo is readable") {
            let path = entry.expect("the zoo is readable").path();
            let name = path.file_name().expect("an entry has a name").to_owned();
            fs::copy(&path, copy.path().join(name)).expect("the model can be copied");
        }
        write_words(copy.path());
        copy
    }
}

fn write_words(folder: &Path) {
    let word = |id: usize| match id {
        1 => "is".to_owned(),
        2 => "a".to_owned(),
        _ => format!("w{id}"),
    };
    let vocab: serde_json::Map<_, _> = (0..128).map(|id| (word(id), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("the copy is writable");
}
