//! `engraft export`: a model with patches baked in.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Makers, ModelArgs, out, shown};
use crate::base::Result;
use crate::weights::Rounding;

/// Write a model with patches baked in as a plain ONNX model that any runtime loads.
#[derive(Args)]
#[command(after_help = "Example: engraft export examples/atlas/model --patch edit.safetensors --out edited")]
pub(super) struct Export {
    #[command(flatten)]
    model: ModelArgs,
    /// A patch file, as `engraft edit --save` writes them; may be given several times, applied in order.
    #[arg(long = "patch", value_name = "FILE")]
    patches: Vec<PathBuf>,
    #[command(flatten)]
    makers: Makers,
    /// The folder to make.
    #[arg(long)]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    out: String,
    patches: Vec<String>,
    /// What rounding took from the sum of the patches, where a weight is kept in fewer bits than float32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rounding: Vec<Rounding>,
}

impl Export {
    pub(super) fn run(&self) -> Result<()> {
        let model = self.model.open()?;
        self.makers.apply(&model, &self.patches)?;
        let rounding = model.export(&self.out)?;
        let out = shown(&self.out);
        if !self.json {
            rounding.iter().for_each(|lost| out::note(format_args!("{lost}")));
            return out::line(out);
        }
        let patches = model.patches().iter().map(|(id, _)| id.to_string()).collect();
        out::json(&Report { out, patches, rounding })
    }
}
