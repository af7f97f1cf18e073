//! `engraft patches rollback`: takes patches out of a model, as its journal keeps it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::model_last;
use crate::base::Result;
use crate::cli::{open_with, options, out, shown};
use crate::runtime::Device;
use crate::weights::{History, PatchId};

/// Take active patches out of a model, as its journal keeps it: all of them or none, verified by hash. Any may be taken
/// out, not only the last one, and no plugin is needed for it.
#[derive(Args)]
#[command(
    override_usage = "engraft patches rollback [OPTIONS] --journal <DIR> <ID>... <MODEL>",
    after_help = "Example: engraft patches rollback 3f2a 81c0 --journal edits examples/atlas/model"
)]
pub(super) struct Rollback {
    /// Identifiers of active patches, or the first digits of them, in the order in which they are taken out; and last the
    /// model: a folder, or an .onnx file in one.
    #[arg(required = true, value_name = "ID|MODEL")]
    patches: Vec<PathBuf>,
    /// The folder of the journal; no other process may hold it.
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    journal: String,
    /// The patches that were taken out, in that order.
    rolled_back: Vec<String>,
    /// The patches that are still active, in the order of their commits.
    active: Vec<String>,
    /// The hash of the sum of the active patches.
    state: String,
}

impl Rollback {
    pub(super) fn run(&self) -> Result<()> {
        let (model, ids) = model_last(&self.patches)?;
        // What is misspelt is told before a model is opened.
        let history = History::read(&self.journal)?;
        let find = |id: &PathBuf| history.find_active(&id.to_string_lossy());
        let ids = ids.iter().map(find).collect::<Result<Vec<PatchId>>>()?;
        history.states_without(&ids)?;
        let model = open_with(model, &options(self.device, Some(&self.journal)))?;
        model.rollback_all(&ids)?;
        let rolled_back: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let active: Vec<String> = model.patches().iter().map(|(id, _)| id.to_string()).collect();
        let journal = shown(&self.journal);
        if !self.json {
            rolled_back.iter().try_for_each(|id| out::line(format_args!("rolled back {id}")))?;
            return out::line(format_args!("{} patches are active in the journal {journal}", active.len()));
        }
        out::json(&Report { journal, rolled_back, active, state: model.state_hash().to_string() })
    }
}
