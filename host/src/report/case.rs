//! The line of a case in `cases.jsonl`.

use serde::{Deserialize, Serialize};

use crate::base::Error;
use crate::data::Record;
use crate::metrics::Scores;

/// One case under one method, measured at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseLine {
    /// Which `[[method]]` of the experiment, counted from 0.
    pub method: usize,
    /// What the method is called in tables.
    pub label: String,
    /// The record's id.
    pub case: String,
    /// When it was measured.
    pub stage: Stage,
    /// What was edited.
    pub request: RequestLine,
    /// The seconds of the edit, its share of the call where several were made by one.
    pub seconds: Option<f64>,
    /// The greatest memory during the edit, where it is known.
    pub peak_bytes: Option<u64>,
    /// The unedited model; absent if it could not be measured.
    pub before: Option<Scores>,
    /// The edited model; absent for a failed case.
    pub after: Option<Scores>,
    /// What the model wrote after the prompt; absent if the run writes no text or the case failed.
    pub text: Option<TextPair>,
    /// What the host or the method remarked.
    pub notes: Vec<String>,
    /// Why the case failed.
    pub error: Option<Failure>,
}

/// When a case is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// After the edit (or the batch of edits) that it belongs to.
    Edit,
    /// After the last edit of a sequence.
    End,
}

/// A request as it is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// The prompt with its subject filled in.
    pub prompt: String,
    /// The subject.
    pub subject: Option<String>,
    /// What the model should say.
    pub target_new: String,
    /// What it said by the data set.
    pub target_old: Option<String>,
}

impl RequestLine {
    /// The request of a record.
    pub fn of(record: &Record) -> Self {
        Self {
            prompt: record.prompt.clone(),
            subject: record.request.subject.clone(),
            target_new: record.request.target.new.clone(),
            target_old: record.request.target.old.clone(),
        }
    }
}

/// What the model wrote after the prompt of the request, by the decoding that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPair {
    /// The unedited model.
    pub before: String,
    /// The edited one.
    pub after: String,
}

/// Why a case failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The code of the error.
    pub code: String,
    /// Its message and those of its causes.
    pub message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let mut message = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(source) = next {
            message.push_str(": ");
            message.push_str(&source.to_string());
            next = source.source();
        }
        Self { code: error.code().id.to_owned(), message }
    }
}
