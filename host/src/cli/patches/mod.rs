//! `engraft patches`: which patches are in a model, by its journal, and what is done about it.
//!
//! `list` and `show` read files alone, also while a service holds the journal; `apply` and `rollback` open the model.

mod apply;
mod brief;
mod list;
mod rollback;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::usage;
use crate::base::Result;

/// Show which patches are in a model, or change that.
#[derive(Args)]
#[command(after_help = "Example: engraft patches list --journal edits")]
pub(super) struct Patches {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::List),
    Show(show::Show),
    Apply(apply::Apply),
    Rollback(rollback::Rollback),
}

/// Patches and, last, the model. They are one list: options may stand anywhere between them.
fn model_last(words: &[PathBuf]) -> Result<(&PathBuf, &[PathBuf])> {
    match words.split_last() {
        Some((model, patches)) if !patches.is_empty() => Ok((model, patches)),
        _ => Err(usage("expected one patch or more, and a model: the model comes last")),
    }
}

impl Patches {
    pub(super) fn run(&self) -> Result<()> {
        match &self.command {
            Command::List(list) => list.run(),
            Command::Show(show) => show.run(),
            Command::Apply(apply) => apply.run(),
            Command::Rollback(rollback) => rollback.run(),
        }
    }
}
