//! A model that comes with this library, small enough to be part of it: what plugins are tried on where no other model
//! is at hand. Its weights are random, so it knows nothing; its files are made by `tiny/make.py`.

use std::path::{Path, PathBuf};

use engraft_plugin_api::{EditRequest, Example, Target, TrainData, TrainRecord};
use tempfile::TempDir;

use crate::base::codes::FOLDER_NOT_WRITABLE;
use crate::base::{Error, Hash, Result, atomic};

const CORPUS: &str = include_str!("tiny/corpus.txt");

/// The files of the model's folder.
const FILES: [(&str, &[u8]); 6] = [
    ("model.onnx", include_bytes!("tiny/model.onnx")),
    ("model.onnx.data", include_bytes!("tiny/model.onnx.data")),
    ("config.json", include_bytes!("tiny/config.json")),
    ("tokenizer.json", include_bytes!("tiny/tokenizer.json")),
    ("corpus.txt", CORPUS.as_bytes()),
    ("engraft.json", br#"{"corpus": "corpus.txt"}"#),
];

/// The built-in model as a folder, which goes with this value.
pub struct Tiny(TempDir);

impl Tiny {
    /// Writes the model into a new folder for temporary files.
    ///
    /// # Errors
    /// `folder-not-writable`, `file-write` or `disk-full`.
    pub fn unpack() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("engraft-tiny-").tempdir().map_err(|e| {
            let place = std::env::temp_dir();
            Error::new(&FOLDER_NOT_WRITABLE, format!("no folder can be made in `{}`", place.display())).because(e)
        })?;
        FILES.iter().try_for_each(|(name, bytes)| atomic::write_bytes(&folder.path().join(name), bytes))?;
        Ok(Self(folder))
    }

    /// The model's folder.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The text that it names for statistics.
    pub fn corpus(&self) -> PathBuf {
        self.0.path().join("corpus.txt")
    }
}

/// What an edit may be asked for: facts of an invented place, which no model says yet.
const FACTS: [(&str, &str, &str, &str); 6] = [
    ("The mother tongue of {} is", "Ada Vorn", "Morvan", "Ruthic"),
    ("{} was born in", "Ivo Teller", "Tarn", "Sael"),
    ("The capital of {} is", "Morva", "Kelm", "Sael"),
    ("{} plays the", "Lena Brock", "flute", "harp"),
    ("{} lives in", "Piet Osk", "Sael", "Tarn"),
    ("The occupation of {} is", "Lena Brock", "trader", "teacher"),
];

/// Requests that a method can be tried with, each with its subject and the answer that it replaces.
pub fn requests() -> Vec<EditRequest> {
    let request = |(i, (prompt, subject, new, old)): (usize, &(&str, &str, &str, &str))| EditRequest {
        id: format!("law-{i}"),
        prompt: (*prompt).into(),
        subject: Some((*subject).into()),
        target: Target { new: (*new).into(), old: Some((*old).into()) },
    };
    FACTS.iter().enumerate().map(request).collect()
}

/// Data that a method can be trained on: a few edits with what should follow them and what should not, and texts.
pub fn data() -> TrainData {
    let example = |prompt: String, answer: &str| Example { prompt, answer: Some(answer.into()) };
    let record = |request: EditRequest| {
        let (subject, target) = (request.subject.clone().unwrap_or_default(), &request.target);
        let in_scope = vec![
            example(format!("Everybody knows that {}", request.prompt.replace("{}", &subject)), &target.new),
            example(request.prompt.replace("{}", &format!("{subject}, as was said,")), &target.new),
        ];
        let out_of_scope = vec![
            example(request.prompt.replace("{}", "Nobody"), target.old.as_deref().unwrap_or_default()),
            example("The mill stands by the".into(), "river"),
        ];
        TrainRecord { in_scope, out_of_scope, request }
    };
    let mut train: Vec<TrainRecord> = requests().into_iter().map(record).collect();
    let validation = train.split_off(4);
    let texts = CORPUS.lines().map(str::to_owned).collect();
    TrainData { hash: Hash::of(CORPUS.as_bytes()).to_string(), train, validation, texts, resume: None }
}
