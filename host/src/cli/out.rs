//! All printing. A reader that goes away (`| head`) is no error: the command ends as if it had read on.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

use super::codes;
use crate::base::{Error, Result};

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

/// Says something to whoever watches. Nobody listening is no error.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// True if a person watches on a terminal.
pub(super) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Prints an error with its code, its advice and what is underneath.
pub(super) fn error(error: &Error) {
    note(format_args!("error[{}]: {}", error.code().id, error.message()));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        for line in cause.to_string().lines().take(12) {
            note(format_args!("  because: {line}"));
        }
        source = cause.source();
    }
    if let Some(help) = error.advice() {
        note(format_args!("  help: {help}"));
    }
    note(format_args!("  `engraft explain {}` says more", error.code().id));
}
