//! `engraft inspect`: the anatomy of a model, and whether its numbers agree.

use std::path::PathBuf;

use clap::Args;
use engraft_plugin_api::{RunRequest, Site, Tap, Tensor};
use serde::Serialize;

use super::{ModelArgs, codes, out};
use crate::anatomy::check::{Deviation, identities};
use crate::anatomy::{Anatomy, Table};
use crate::base::{Error, Result};
use crate::graph::{Graph, Shapes};
use crate::model::Model;
use crate::runtime::Device;

/// Show which edge of a model's graph is which part of a transformer. No tokenizer and, without `--check`, no runtime
/// is needed.
#[derive(Args)]
#[command(after_help = "Example: engraft inspect examples/atlas/model --check")]
pub(super) struct Inspect {
    /// The model: a folder, or an .onnx file in one.
    model: PathBuf,
    /// Run the model and check the identities between its parts.
    #[arg(long)]
    check: bool,
    /// Where the check runs: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found {
    anatomy: Table,
    problems: Vec<String>,
    identities: Option<Vec<Deviation>>,
}

/// An identity holds if its error is at most this share of its scale.
const TOLERANCE: f32 = 1e-4;

impl Inspect {
    pub(super) fn run(&self) -> Result<()> {
        let graph = Graph::load(&self.model)?;
        let (anatomy, mut problems) = Anatomy::survey(&graph, &Shapes::infer(&graph)?);
        let identities = if self.check && problems.is_empty() {
            let args = ModelArgs { model: self.model.clone(), device: self.device };
            Some(check(&args.open()?)?)
        } else {
            None
        };
        let table = Table::of(&anatomy);
        let worst = identities.iter().flatten().max_by(|a, b| share(a).total_cmp(&share(b))).cloned();
        if self.json {
            let problems = problems.iter().map(ToString::to_string).collect();
            out::json(&Found { anatomy: table, problems, identities })?;
        } else {
            print(&table)?;
            for deviation in identities.iter().flatten() {
                let layer = deviation.layer.map_or(String::new(), |l| format!("blocks.{l} "));
                out::line(format_args!(
                    "{:<52} error {:9.2e} of {:9.2e}",
                    format!("{layer}{}", deviation.identity),
                    deviation.error,
                    deviation.scale
                ))?;
            }
            if let Some(worst) = &worst {
                let text = format!("the largest error is {:.2e} of its scale, in {}", share(worst), worst.identity);
                out::line(text)?;
            }
        }
        if !problems.is_empty() {
            let first = problems.remove(0);
            problems.iter().for_each(|p| out::note(format_args!("also: {p}")));
            return Err(first);
        }
        match worst.filter(|w| share(w) > TOLERANCE) {
            Some(worst) => {
                let at = worst.layer.map_or(String::new(), |l| format!(" of block {l}"));
                let text = format!("`{}`{at} is off by {} of {}", worst.identity, worst.error, worst.scale);
                Err(Error::new(&codes::CHECK_FAILED, text))
            }
            None => Ok(()),
        }
    }
}

/// The error as a share of the scale; infinite where a value is not a number.
fn share(deviation: &Deviation) -> f32 {
    let share = if deviation.error == 0.0 { 0.0 } else { deviation.error / deviation.scale };
    if share.is_nan() { f32::INFINITY } else { share }
}

/// Runs two rows of token ids spread over the vocabulary.
fn check(model: &Model) -> Result<Vec<Deviation>> {
    let anatomy = model.anatomy();
    let length = anatomy.context.unwrap_or(16).min(16);
    let row = |salt: usize| (0..length).map(|i| ((i * 7919 + salt) % anatomy.vocab) as u32).collect::<Vec<u32>>();
    let rows = vec![row(1), row(4242)];
    let flat = rows.concat().into_iter().map(i64::from).collect();
    let tokens = Tensor::i64([2, length], flat)?;
    let positions = Tensor::i64([2, length], (0..2).flat_map(|_| 0..length as i64).collect())?;
    let taps = |sites: &[Site]| {
        let taps = sites.iter().map(|&site| Tap { site, places: None }).collect();
        model.run(&RunRequest { rows: rows.clone(), taps, ..RunRequest::default() }).map(|r| r.taps)
    };
    identities(anatomy, &tokens, &positions, taps, |weight| model.weight(weight))
}

fn print(table: &Table) -> Result<()> {
    out::line(format_args!(
        "{} blocks, d_model {}, d_mlp {}, {} heads of {} ({} for keys), vocabulary {}, context {}",
        table.layers,
        table.d_model,
        table.d_mlp,
        table.heads,
        table.d_head,
        table.kv_heads,
        table.vocab,
        table.context.map_or("not bounded".into(), |c| c.to_string())
    ))?;
    out::line(format_args!(
        "inputs: ids `{}`, mask {}, positions {}",
        table.ids,
        table.mask.as_deref().map_or("none".into(), |m| format!("`{m}`")),
        table.positions.as_deref().map_or("none".into(), |p| format!("`{p}`"))
    ))?;
    let mut rows = comfy_table::Table::new();
    rows.load_style(comfy_table::presets::NOTHING);
    rows.set_header(["name", "shape", "edge", "evidence, or why it is absent"]);
    for row in &table.rows {
        let edge = row.edge.clone().unwrap_or_else(|| "absent".into());
        rows.add_row([row.name.clone(), row.shape.clone(), edge, row.evidence.clone()]);
    }
    out::line(rows.trim_fmt())
}
