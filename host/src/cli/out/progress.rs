//! How far long work is: a bar on a terminal, a plain line every few seconds elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How long plain lines keep quiet.
const QUIET: Duration = Duration::from_secs(5);

/// A bar on a terminal, plain lines elsewhere. It may be told from any thread.
pub(in crate::cli) struct Progress {
    bar: ProgressBar,
    said: Mutex<Instant>,
}

impl Progress {
    pub(in crate::cli) fn new() -> Self {
        let bar = if super::watched() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg:<24} [{bar:40}] {pos}/{len} {eta}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, said: Mutex::new(Instant::now()) }
    }

    /// Takes the bar off the terminal.
    pub(in crate::cli) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Says a line beside the bar.
    pub(in crate::cli) fn line(&self, text: &str) {
        if super::watched() { self.bar.println(text) } else { super::note(text) }
    }

    /// Shows that `done` of `total` are done; the last one is said in any case if `last` is true.
    pub(in crate::cli) fn step(&self, what: &str, done: u64, total: u64, last: bool) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(what.to_owned());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if !super::watched() && ((last && done == total) || said.elapsed() > QUIET) {
            *said = Instant::now();
            super::note(format_args!("{what}: {done} of {total}"));
        }
    }
}
