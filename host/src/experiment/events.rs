//! What a run tells while it goes on. Nothing here prints: an observer does with it what it likes.

use std::path::Path;

use crate::report::{CaseLine, MethodSummary};

/// Something that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Everything is checked; the model is being opened.
    Opening {
        /// The model's folder.
        model: &'a Path,
        /// Where it will run.
        device: &'a str,
    },
    /// Something about a method that whoever reads its numbers should know.
    Warning {
        /// What the method is called.
        label: &'a str,
        /// What.
        text: &'a str,
    },
    /// The run has its folder.
    Started {
        /// The folder.
        folder: &'a Path,
        /// How many records are edited.
        records: usize,
        /// How many records cannot be used.
        skipped: usize,
        /// How many lines an interrupted run had left.
        resumed: usize,
    },
    /// The unedited model is being measured ahead of edits that build on each other.
    Measuring {
        /// How many records are done.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// A method begins.
    MethodStarted {
        /// Which, counted from 0.
        method: usize,
        /// What it is called.
        label: &'a str,
        /// How many lines it will have.
        total: usize,
        /// How many of them are there already.
        done: usize,
    },
    /// An edit is under way that takes several records at once, or is made once more to continue an interrupted run.
    Editing {
        /// What the method is called.
        label: &'a str,
        /// How many records are edited by the call.
        records: usize,
    },
    /// The line of a case is written.
    CaseDone {
        /// How many lines the method has.
        done: usize,
        /// How many it will have.
        total: usize,
        /// The line.
        line: &'a CaseLine,
    },
    /// A method is done.
    MethodDone {
        /// Its numbers.
        summary: &'a MethodSummary,
    },
    /// The run is done and its files are written.
    Finished {
        /// The folder.
        folder: &'a Path,
    },
}
