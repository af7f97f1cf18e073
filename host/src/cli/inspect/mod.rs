//! `engraft inspect`: the anatomy of a model, and whether its numbers agree.
//!
//! `gradients` nudges a few values and compares what the loss does with what the gradients say; `page` and
//! `drawing` show the anatomy to the eye. The drawing is here and not in `report`: it shows what this command found, a graph's anatomy with its
//! checks, and `report` knows what is left of a run and reads no graph.

mod drawing;
mod gradients;
mod page;

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use engraft_plugin_api::{BlockSite, Poke, Role, RunRequest, Site, Tap, Tensor, WeightRef};
use serde::Serialize;

use super::{cancel_on_interrupt, codes, open, out, shown};
use crate::anatomy::check::{Deviation, activations, identities};
use crate::anatomy::{Anatomy, Table};
use crate::base::{Cancel, Error, Result, atomic};
use crate::graph::{Graph, Shapes};
use crate::model::Model;
use crate::runtime::Device;
use gradients::Nudge;

/// Show which edge of a model's graph is which part of a transformer.
///
/// Each part stands with the evidence for it, each absence with its reason. No tokenizer and, without `--check`, no
/// runtime is needed. Of a graph that cannot be read, what was found is shown, and what stopped it.
#[derive(Args)]
#[command(after_help = "Example: engraft inspect examples/atlas/model --check --html anatomy.html")]
pub(super) struct Inspect {
    /// The model: a folder, or an .onnx file.
    model: PathBuf,
    /// Run the model, check the identities between its parts, and compare a few gradients with finite differences.
    #[arg(long)]
    check: bool,
    /// How many sites, and how many weights, the gradients of which are compared.
    #[arg(long, default_value_t = 4, requires = "check")]
    samples: usize,
    /// Seeds the choice of rows, sites, weights and values for the gradients.
    #[arg(long, default_value_t = 0, requires = "check")]
    seed: u64,
    /// Where the check runs: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Draw the anatomy as one web page that needs nothing else; an older file is replaced, a FIFO or a character
    /// device is written into.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was found; under `--json` it is printed as it is.
#[derive(Serialize)]
struct Found {
    anatomy: Table,
    problems: Vec<String>,
    identities: Option<Vec<Deviation>>,
    /// Gradients beside finite differences; none where an identity does not hold.
    gradients: Option<Vec<Nudge>>,
    /// The blocks whose MLP reads the norm before attention.
    #[serde(skip)]
    shared_norms: BTreeSet<usize>,
}

/// An identity holds if its error is at most this share of its scale, or so many times the rounding of a number.
const TOLERANCE: f32 = 1e-4;
const ROUNDINGS: f32 = 10.0;

impl Inspect {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(path) = &self.html {
            out::new_file(path, true)?;
        }
        let graph = Graph::load(&self.model)?;
        let (anatomy, mut problems) = Anatomy::survey(&graph, &Shapes::infer(&graph)?);
        let words = problems.iter().map(ToString::to_string).collect();
        let mut found = Found {
            anatomy: Table::of(&anatomy),
            problems: words,
            identities: None,
            gradients: None,
            shared_norms: shared_norms(&anatomy),
        };
        let mut failed = None;
        if !problems.is_empty() {
            let first = problems.remove(0);
            problems.iter().for_each(|p| out::note(format_args!("also: {p}")));
            failed = Some(first);
        } else if self.check {
            failed = self.examine(&mut found)?;
        }
        if let (Some(path), None) = (&self.html, &failed) {
            let name = Graph::find(&self.model)?;
            atomic::write_bytes(path, page::draw(&shown(&name), &found).as_bytes())?;
        }
        if self.json {
            out::json(&found)?;
        } else {
            found.print()?;
            if let (Some(path), None) = (&self.html, &failed) {
                out::line(format_args!("drawn in {}", shown(path)))?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Runs the checks; returns what they found wrong.
    fn examine(&self, found: &mut Found) -> Result<Option<Error>> {
        let cancel = cancel_on_interrupt();
        let model = open(&self.model, self.device, false)?;
        let rows = check(&model, &cancel)?;
        let worst = rows.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
        let tolerance = TOLERANCE.max(ROUNDINGS * model.roundoff());
        let worst = worst.filter(|w| share(w) > tolerance);
        let worst = worst.map(|worst| {
            let at = worst.layer.map_or(String::new(), |l| format!(" of block {l}"));
            let text = format!("`{}`{at} is off by {} of {}", worst.identity, worst.error, worst.scale);
            Error::new(&codes::CHECK_FAILED, text)
        });
        found.identities = Some(rows);
        if worst.is_some() {
            return Ok(worst);
        }
        let nudges = match gradients::check(&model, self.seed, self.samples, &cancel) {
            Ok(nudges) => nudges,
            // What was found before is shown all the same.
            Err(error) => return Ok(Some(error)),
        };
        let wrong = nudges.iter().find(|n| !n.holds).map(|n| {
            let text = format!(
                "the gradient of `{}` says that the loss changes by {:.3e}, finite differences say {:.3e}",
                n.name, n.claimed, n.measured
            );
            Error::new(&codes::GRADIENT_CHECK, text)
        });
        found.gradients = Some(nudges);
        Ok(wrong)
    }
}

/// The blocks whose MLP reads the norm before attention.
fn shared_norms(anatomy: &Anatomy) -> BTreeSet<usize> {
    let shared = |&layer: &usize| {
        let norm = anatomy.sites.get(&Site::Block(layer, BlockSite::Ln1Out)).map(|site| &site.edge);
        let read = anatomy.weights.get(&WeightRef::Block(layer, Role::MlpIn)).and_then(|w| w.input.as_ref());
        norm.is_some() && norm == read
    };
    (0..anatomy.layers).filter(shared).collect()
}

/// The error as a share of the scale; infinite where a value is not a number.
fn share(deviation: &Deviation) -> f32 {
    let share = if deviation.error == 0.0 { 0.0 } else { deviation.error / deviation.scale };
    if share.is_nan() { f32::INFINITY } else { share }
}

/// Runs rows of token ids spread over the vocabulary: two, unless the file fixes how many.
fn check(model: &Model, cancel: &Cancel) -> Result<Vec<Deviation>> {
    let anatomy = model.anatomy();
    let length = anatomy.inputs.positions_of_rows().unwrap_or(anatomy.context.unwrap_or(16).min(16));
    let n = anatomy.inputs.rows().unwrap_or(2);
    let row = |salt: usize| (0..length).map(|i| ((i * 7919 + salt) % anatomy.vocab) as u32).collect::<Vec<u32>>();
    let rows: Vec<_> = (0..n).map(|i| row(1 + i * 4241)).collect();
    let flat = rows.concat().into_iter().map(i64::from).collect();
    let tokens = Tensor::i64([n, length], flat)?;
    let positions = Tensor::i64([n, length], (0..n).flat_map(|_| 0..length as i64).collect())?;
    let run = |overwrites: &[Poke], sites: &[Site]| {
        let taps = sites.iter().map(|&site| Tap { site, places: None }).collect();
        let request = RunRequest { rows: rows.clone(), taps, overwrites: overwrites.to_vec(), ..RunRequest::default() };
        model.run_until(&request, Some(cancel)).map(|r| r.taps)
    };
    let taps = |sites: &[Site]| run(&[], sites);
    let mut found = identities(anatomy, &tokens, &positions, taps, |weight| model.weight(weight))?;
    found.extend(activations(anatomy, run)?);
    Ok(found)
}

/// The facts of an anatomy, a line each.
fn facts(table: &Table) -> [String; 2] {
    let named = |name: &Option<String>| name.as_deref().map_or("none".into(), |n| format!("`{n}`"));
    // A number of 0 was not found: the rows below say why.
    let heads = match (table.heads, table.kv_heads) {
        (0, _) => "heads not read".to_owned(),
        (heads, 0) => format!("{heads} heads of {} (those for keys not read)", table.d_head),
        (heads, kv) => format!("{heads} heads of {} ({kv} for keys)", table.d_head),
    };
    let width = if table.d_mlp == 0 { "not read".to_owned() } else { table.d_mlp.to_string() };
    [
        format!(
            "{} blocks, d_model {}, d_mlp {width}, {heads}, vocabulary {}, context {}",
            table.layers,
            table.d_model,
            table.vocab,
            table.context.map_or("not bounded".into(), |c| c.to_string())
        ),
        format!("inputs: ids `{}`, mask {}, positions {}", table.ids, named(&table.mask), named(&table.positions)),
    ]
}

impl Found {
    fn worst(&self) -> Option<&Deviation> {
        self.identities.iter().flatten().max_by(|a, b| share(a).total_cmp(&share(b)))
    }

    fn print(&self) -> Result<()> {
        facts(&self.anatomy).into_iter().try_for_each(out::line)?;
        let mut rows = comfy_table::Table::new();
        rows.load_style(comfy_table::presets::NOTHING);
        rows.set_header(["name", "shape", "edge", "evidence, or why it is absent"]);
        for row in &self.anatomy.rows {
            let edge = row.edge.clone().unwrap_or_else(|| "absent".into());
            rows.add_row([row.name.clone(), row.shape.clone(), edge, row.evidence.clone()]);
        }
        out::line(rows.trim_fmt())?;
        for port in &self.anatomy.cache {
            let what = format!("blocks.{} cached {}", port.layer, port.kind);
            out::line(format_args!(
                "{what:<28} {} {}  in `{}`, out `{}`",
                port.shape, port.dtype, port.past, port.present
            ))?;
        }
        for problem in &self.problems {
            out::line(format_args!("not read: {problem}"))?;
        }
        for deviation in self.identities.iter().flatten() {
            let layer = deviation.layer.map_or(String::new(), |l| format!("blocks.{l} "));
            out::line(format_args!(
                "{:<52} error {:9.2e} of {:9.2e}",
                format!("{layer}{}", deviation.identity),
                deviation.error,
                deviation.scale
            ))?;
        }
        if let Some(worst) = self.worst() {
            let text = format!("the largest error is {:.2e} of its scale, in {}", share(worst), worst.identity);
            out::line(text)?;
        }
        for n in self.gradients.iter().flatten() {
            let difference = n.difference.map_or("below rounding".into(), |d| format!("off by {d:.2e}"));
            let what = format!("gradient of {}, {}", n.name, n.along);
            out::line(format_args!("{what:<58} {:9.2e} is {:9.2e}  {difference}", n.claimed, n.measured))?;
        }
        let known = self.gradients.iter().flatten().filter_map(|n| n.difference.map(|d| (d, &n.name)));
        match known.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((worst, name)) => {
                out::line(format_args!("the largest relative difference of a gradient is {worst:.2e}, of {name}"))
            }
            None => Ok(()),
        }
    }
}
