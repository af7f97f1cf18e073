//! `engraft probe`: activations and gradients of any decoder, as a file of tensors.
//!
//! `names` turns what was asked for into sites and weights, `rows` reads what is run, `work` runs it a few rows at a
//! time, `file` writes it.

mod file;
mod names;
mod rows;
mod work;

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{Makers, cancel_on_interrupt, open, out, shown, usage};
use crate::base::Result;
use crate::runtime::Device;

/// Run rows of tokens and write activations and gradients to a safetensors file.
///
/// A tap is written under its site's name, a gradient under `grad:NAME`. The loss is the mean over the rows of the
/// negative log-likelihood (nats) of the token `--nll` after the row's last position. Weights are `[in, out]`,
/// activations `[batch, pos, ...]`, the attention pattern `[batch, head, query, key]`. Rows may differ in length: they
/// are padded on the right to the longest, and padded positions hold zeros, in taps and in gradients; the lengths
/// stand in the file's metadata. Layers count from 0; `*` in a name stands for anything and takes all that the model
/// has. A tied embedding is two weights, `W_E` and `W_U`, each with the gradient of its own use.
#[derive(Args)]
#[command(
    group = ArgGroup::new("input").required(true).args(["ids", "texts"]),
    after_help = "Example: engraft probe examples/atlas/model --text \"The birthplace of Tono Tuxbik is\" \
    --tap 'blocks.*.mlp.post' --tap logits --nll 17 --gradient blocks.1.mlp.W_out --out probe.safetensors"
)]
pub(super) struct Probe {
    /// The model: a folder, or an .onnx file.
    model: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// A JSON file of rows of token ids, e.g. `[[12, 7, 88], [5, 9]]`. No tokenizer is needed.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// A row as text, for the model's tokenizer; no special token is added. May be given several times.
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// A site to write, e.g. `blocks.1.mlp.post`; may be given several times.
    #[arg(long = "tap", value_name = "SITE")]
    taps: Vec<String>,
    /// The id of the token whose negative log-likelihood after each row is the loss.
    #[arg(long, value_name = "TOKEN")]
    nll: Option<u32>,
    /// A site or weight to write the loss's gradient of; may be given several times.
    #[arg(long = "gradient", value_name = "SITE_OR_WEIGHT", requires = "nll")]
    gradients: Vec<String>,
    /// A patch file to probe under; may be given several times, applied in order.
    #[arg(long = "patch", value_name = "FILE")]
    patches: Vec<PathBuf>,
    #[command(flatten)]
    makers: Makers,
    /// The file to write. A FIFO or a character device is written into.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file that `--out` names.
    #[arg(long, requires = "out")]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<usize>,
    nll: Option<file::Loss>,
    tensors: Vec<Named>,
    out: Option<String>,
}

#[derive(Serialize)]
struct Named {
    name: String,
    shape: Vec<usize>,
}

impl Probe {
    pub(super) fn run(&self) -> Result<()> {
        let written = !self.taps.is_empty() || !self.gradients.is_empty();
        match &self.out {
            _ if !written && self.nll.is_none() => {
                return Err(usage("nothing is asked for").help("add `--tap SITE`, or `--nll TOKEN`"));
            }
            None if written => return Err(usage("--out is missing: the file that the tensors are written to")),
            Some(_) if !written => return Err(usage("--out is given, but no --tap or --gradient that it would hold")),
            Some(path) => out::new_file(path, self.force)?,
            None => {}
        }
        let given = self.ids.as_deref().map(rows::read).transpose()?;
        let cancel = cancel_on_interrupt();
        let model = open(&self.model, self.device, given.is_none())?;
        let taps = names::sites(model.anatomy(), &self.taps)?;
        let gradients = names::variables(model.anatomy(), &self.gradients)?;
        let rows = match given {
            Some(rows) => rows,
            None => rows::encode(model.tokenizer()?, &self.texts)?,
        };
        rows::check(model.anatomy(), &rows, self.nll)?;
        self.makers.apply(&model, &self.patches)?;

        let progress = out::Progress::new();
        let job = work::Job { model: &model, rows: &rows, taps, nll: self.nll, gradients, cancel: &cancel };
        let done = job.run(&|done, total| progress.step("rows", done as u64, total as u64, false));
        progress.clear();
        let done = done?;
        let loss = self.nll.map(|token| file::Loss::of(token, &done.losses));
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        if let Some(path) = &self.out {
            file::write(path, &model, &lengths, loss.as_ref(), &done.tensors)?;
        }
        let out = self.out.as_deref().map(shown);
        let named =
            |(name, values): (&String, &work::Array)| Named { name: name.clone(), shape: values.shape().to_vec() };
        let report = Report { rows: lengths, nll: loss, tensors: done.tensors.iter().map(named).collect(), out };
        if self.json { out::json(&report) } else { report.print() }
    }
}

impl Report {
    fn print(&self) -> Result<()> {
        if let Some(loss) = &self.nll {
            for (row, (length, nll)) in self.rows.iter().zip(&loss.rows).enumerate() {
                out::line(format_args!("row {row}: {length} tokens, nll {nll:.6}"))?;
            }
            out::line(format_args!("mean nll of token {}: {:.6} nats", loss.token, loss.mean))?;
        }
        for Named { name, shape } in &self.tensors {
            out::line(format_args!("{name:<36} {shape:?}"))?;
        }
        match &self.out {
            Some(path) => out::line(format_args!("written to {path}")),
            None => Ok(()),
        }
    }
}
