//! All printing. A reader that goes away (`| head`) is no error: the command ends as if it had read on.
//!
//! `progress` draws how far long work is, `files` refuses places that a result cannot be written to before the work
//! begins. Under `--json` the standard output holds one JSON value, and where nobody watches on a terminal, standard
//! error holds nothing but the error, as one JSON object in one line.

mod files;
mod progress;

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::codes;
use crate::base::{Error, Result};

pub(super) use files::new_file;
pub(super) use progress::Progress;

/// True once a machine reads: results and errors are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Says that a machine reads.
pub(super) fn set_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Prints a line of the command's result.
pub(super) fn line(text: impl Display) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::new(&codes::OUTPUT, "the standard output cannot be written to").because(e)),
    }
}

/// Prints a result for machines.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    line(text.map_err(|e| Error::new(&codes::OUTPUT, "the result cannot be written as JSON").because(e))?)
}

/// Says something to whoever watches. Nobody listening is no error; a machine that reads JSON does not listen.
pub(super) fn note(text: impl Display) {
    if watched() || !JSON.load(Ordering::Relaxed) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// True if a person watches on a terminal.
pub(super) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// An error for machines.
#[derive(Serialize)]
pub(super) struct Fault {
    code: &'static str,
    message: String,
    help: Option<String>,
    causes: Vec<String>,
    exit: u8,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        Self {
            code: error.code().id,
            message: error.message().to_owned(),
            help: error.advice().map(str::to_owned),
            causes: causes.map(ToString::to_string).collect(),
            exit: error.code().class.exit_code(),
        }
    }
}

/// Prints an error with its code, its advice and what is underneath; for a machine as one JSON object.
pub(super) fn error(error: &Error) {
    let mut err = io::stderr().lock();
    // Nobody is left to tell if standard error cannot be written to.
    let _ = if JSON.load(Ordering::Relaxed) {
        serde_json::to_string(&Fault::of(error)).map_or(Ok(()), |text| writeln!(err, "{text}"))
    } else {
        in_words(&mut err, error)
    };
}

fn in_words(err: &mut impl Write, error: &Error) -> io::Result<()> {
    writeln!(err, "error[{}]: {}", error.code().id, error.message())?;
    for cause in std::iter::successors(std::error::Error::source(error), |cause| cause.source()) {
        for line in cause.to_string().lines().take(12) {
            writeln!(err, "  because: {line}")?;
        }
    }
    if let Some(help) = error.advice() {
        writeln!(err, "  help: {help}")?;
    }
    writeln!(err, "  `engraft explain {}` says more", error.code().id)
}
