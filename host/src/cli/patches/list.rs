//! `engraft patches list`: the active patches of a journal, or all that happened.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::brief::{Brief, when};
use crate::base::{Error, Result};
use crate::cli::out::{self, Fault};
use crate::cli::shown;
use crate::weights::{Action, Entry, History, PatchId, patch_of};

/// List the active patches of a journal in the order of their commits. Neither the model nor ONNX Runtime is needed, and
/// another process may hold the journal.
#[derive(Args)]
#[command(after_help = "Example: engraft patches list --journal edits --history")]
pub(super) struct List {
    /// The folder of the journal.
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// Show every entry instead, oldest first: patches that were rolled back too, as far as their files are there.
    #[arg(long)]
    history: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'h> {
    journal: String,
    /// The hash of the base model; none while nothing happened.
    base: Option<String>,
    /// The hash of the sum of the active patches.
    state: Option<String>,
    /// How many patches are active.
    active: usize,
    /// Those of the active patches that were committed, or all.
    entries: Vec<Listed<'h>>,
}

#[derive(Serialize)]
struct Listed<'h> {
    number: u64,
    action: Action,
    id: &'h PatchId,
    /// In seconds since the beginning of 1970 in UTC; none where the journal does not tell.
    time: Option<u64>,
    /// True if the patch is active because of this entry.
    active: bool,
    #[serde(flatten)]
    patch: Option<Brief>,
    /// Why no more is told of the patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Fault>,
}

impl List {
    pub(super) fn run(&self) -> Result<()> {
        let history = History::read(&self.journal)?;
        let mut active = history.active().map(|entry| entry.number).peekable();
        let mut entries = Vec::new();
        for entry in history.entries() {
            let is_active = active.next_if_eq(&entry.number).is_some();
            if self.history || is_active {
                entries.push(self.listed(entry, is_active)?);
            }
        }
        let (base, state) = (history.base().map(|h| h.to_string()), history.state().map(|h| h.to_string()));
        if !self.json {
            entries.iter().try_for_each(Listed::print)?;
            return match entries.is_empty() {
                true => out::line("no patch is active"),
                false => Ok(()),
            };
        }
        let (journal, active) = (shown(&self.journal), history.active().count());
        out::json(&Report { journal, base, state, active, entries })
    }

    /// An entry with its patch. A history is told as far as it can be; a list of what is active is whole or an error.
    fn listed<'h>(&self, entry: &'h Entry, active: bool) -> Result<Listed<'h>> {
        let (patch, error): (_, Option<Error>) = match patch_of(&self.journal, &entry.patch) {
            Ok(patch) => (Some(Brief::of(&patch)), None),
            Err(error) if self.history => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let Entry { number, action, patch: id, time, .. } = entry;
        Ok(Listed {
            number: *number,
            action: *action,
            id,
            time: *time,
            active,
            patch,
            error: error.as_ref().map(Fault::of),
        })
    }
}

impl Listed<'_> {
    fn print(&self) -> Result<()> {
        let done = match self.action {
            Action::Commit if self.active => "active",
            Action::Commit => "committed",
            Action::Rollback => "rolled back",
        };
        let maker = self.patch.as_ref().map_or_else(|| "its file cannot be read".to_owned(), Brief::maker);
        out::line(format_args!("{:>4}  {}  {}  {done:<11}  {maker}", self.number, self.id, when(self.time)))?;
        match &self.patch {
            Some(patch) if self.action == Action::Commit => patch.print(),
            _ => Ok(()),
        }
    }
}
