//! `engraft patches show`: one patch whole.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::brief::{Brief, row, when};
use crate::base::{Result, atomic};
use crate::cli::{out, shown};
use crate::weights::{Action, Entry, History, Part, Patch, patch_of, patch_path};

/// Show one patch whole: a file, or with --journal one of the patches of a journal, active or rolled back. Neither the
/// model nor ONNX Runtime is needed.
#[derive(Args)]
#[command(after_help = "Example: engraft patches show edit.safetensors\n         \
    engraft patches show 3f2a --journal edits")]
pub(super) struct Show {
    /// A patch file, as `engraft edit --save` writes them; with --journal the identifier of a patch, or the first digits
    /// of it.
    #[arg(value_name = "FILE|ID")]
    patch: String,
    /// The folder of a journal.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    id: String,
    file: String,
    /// The size of the file.
    bytes: u64,
    /// The hash of the base model.
    base: String,
    #[serde(flatten)]
    brief: Brief,
    /// The tensors of each change.
    parts: Vec<Vec<Part>>,
    /// What happened to it, where a journal tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Event>>,
}

#[derive(Serialize)]
struct Event {
    number: u64,
    action: Action,
    time: Option<u64>,
}

impl Show {
    pub(super) fn run(&self) -> Result<()> {
        let (patch, file, history) = match &self.journal {
            None => (Patch::load(Path::new(&self.patch))?, PathBuf::from(&self.patch), None),
            Some(folder) => {
                let history = History::read(folder)?;
                let id = history.find(&self.patch)?;
                let own = history.entries().iter().filter(|entry| entry.patch == id);
                let event = |e: &Entry| Event { number: e.number, action: e.action, time: e.time };
                (patch_of(folder, &id)?, patch_path(folder, &id), Some(own.map(event).collect()))
            }
        };
        let bytes = fs::metadata(&file).map_err(|e| atomic::read_error(&file, e))?.len();
        let (id, base, brief, parts) =
            (patch.id().to_string(), patch.base.to_string(), Brief::of(&patch), patch.parts());
        let report = Report { id, file: shown(&file), bytes, base, brief, parts, history };
        if self.json { out::json(&report) } else { report.print(&patch.contents()) }
    }
}

impl Report {
    fn print(&self, changes: &[String]) -> Result<()> {
        out::line(format_args!("{}  {}", self.id, self.brief.maker()))?;
        row("file", format_args!("{}, {} bytes", self.file, self.bytes))?;
        row("base", &self.base)?;
        self.brief.print_requests()?;
        for (change, parts) in changes.iter().zip(&self.parts) {
            row("changes", change)?;
            for Part { name, dtype, shape } in parts {
                let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
                row("", format_args!("  {name} [{}] {dtype}", shape.join(", ")))?;
            }
        }
        self.brief.print_making()?;
        for Event { number, action, time } in self.history.iter().flatten() {
            let done = match action {
                Action::Commit => "committed",
                Action::Rollback => "rolled back",
            };
            row("journal", format_args!("{done} by entry {number}, {}", when(*time)))?;
        }
        Ok(())
    }
}
