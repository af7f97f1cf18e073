//! What a child tells its parent: a line of JSON behind a mark, on a standard output that the plugin may write to too.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::Listed;
use crate::base::{Error, Result};
use crate::cli::codes;

/// A message.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// From here on code of the plugin runs, until this ends or another begins.
    Begins(String),
    /// The library was loaded, and says this of itself.
    Plugin(Box<Listed>),
    /// Parameters that nobody gave.
    Taken(Vec<String>),
    /// What became of a law.
    Ends(Outcome),
    /// There is no more to be tried.
    Done,
    /// What the plugin cannot be blamed for, or what makes an end of everything.
    Failed(Fault),
}

/// What became of the law that began.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Kept,
    /// And why.
    NotApplicable(String),
    /// And what was found.
    Broken(String),
}

/// An error on its way between processes.
#[derive(Serialize, Deserialize)]
pub(super) struct Fault {
    code: String,
    message: String,
    help: Option<String>,
    causes: Vec<String>,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        Self {
            code: error.code().id.into(),
            message: error.message().into(),
            help: error.advice().map(str::to_owned),
            causes: causes.map(ToString::to_string).collect(),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let code = crate::codes::find(&fault.code).unwrap_or(&codes::FINDINGS);
        let mut error = Error::new(code, fault.message);
        if let Some(help) = fault.help {
            error = error.help(help);
        }
        if fault.causes.is_empty() { error } else { error.because(fault.causes.join("\n")) }
    }
}

impl Event {
    /// Sends the event from the child, on a line of its own.
    pub(super) fn send(&self, mark: &str) -> Result<()> {
        let failed = |e: io::Error| Error::new(&codes::OUTPUT, "the parent process does not listen").because(e);
        let text = serde_json::to_string(self).map_err(|e| failed(e.into()))?;
        let mut out = io::stdout().lock();
        out.write_all(format!("\n{mark}{text}\n").as_bytes()).and_then(|()| out.flush()).map_err(failed)
    }

    /// The event in a line, and what stands before it.
    pub(super) fn find<'l>(line: &'l str, mark: &str) -> (&'l str, Option<Self>) {
        match line.split_once(mark) {
            Some((before, text)) => (before, serde_json::from_str(text).ok()),
            None => (line, None),
        }
    }
}
