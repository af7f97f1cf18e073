//! `engraft patches apply`: makes patch files part of a model, as its journal keeps it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::model_last;
use crate::base::{Error, Result};
use crate::cli::{Makers, open_with, options, out, shown};
use crate::runtime::Device;
use crate::weights::{Patch, PatchId};

/// Make patches part of a model, as its journal keeps it: all of them or none. The journal is begun where there is none.
/// Each patch is checked against the model and has to show in its answers.
#[derive(Args)]
#[command(
    override_usage = "engraft patches apply [OPTIONS] --journal <DIR> <FILE>... <MODEL>",
    after_help = "Example: engraft patches apply edit.safetensors --journal edits examples/atlas/model"
)]
pub(super) struct Apply {
    /// Patch files, as `engraft edit --save` writes them, in the order in which they are applied; and last the model: a
    /// folder, or an .onnx file in one.
    #[arg(required = true, value_name = "FILE|MODEL")]
    paths: Vec<PathBuf>,
    /// The folder of the journal; no other process may hold it.
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: Device,
    #[command(flatten)]
    makers: Makers,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    journal: String,
    /// The patches that were applied, in their order.
    applied: Vec<String>,
    /// The patches that are active after that, in the order of their commits.
    active: Vec<String>,
    /// The hash of the sum of the active patches.
    state: String,
}

impl Apply {
    pub(super) fn run(&self) -> Result<()> {
        let (model, files) = model_last(&self.paths)?;
        let patches = files.iter().map(|file| Patch::load(file)).collect::<Result<Vec<_>>>()?;
        let model = open_with(model, &options(self.device, Some(&self.journal)))?;
        let mut registry = self.makers.path.registry();
        self.makers.attach_active(&model, &mut registry)?;
        self.makers.attach(&model, patches.iter(), &mut registry)?;
        let mut applied: Vec<PatchId> = Vec::new();
        for (file, patch) in files.iter().zip(patches) {
            match model.apply(patch) {
                Ok(id) => applied.push(id),
                Err(error) => {
                    model.rollback_all(&applied)?;
                    let named = Error::new(error.code(), format!("`{}`: {error}", file.display()));
                    let named = match std::error::Error::source(&error) {
                        Some(cause) => named.because(cause.to_string()),
                        None => named,
                    };
                    return Err(named.help(error.advice().unwrap_or("no patch of this command is in the model")));
                }
            }
        }
        let active: Vec<String> = model.patches().iter().map(|(id, _)| id.to_string()).collect();
        let journal = shown(&self.journal);
        if !self.json {
            let line = |(id, file): (&PatchId, &PathBuf)| out::line(format_args!("applied {id} of {}", file.display()));
            applied.iter().zip(files).try_for_each(line)?;
            return out::line(format_args!("{} patches are active in the journal {journal}", active.len()));
        }
        let applied = applied.iter().map(ToString::to_string).collect();
        out::json(&Report { journal, applied, active, state: model.state_hash().to_string() })
    }
}
