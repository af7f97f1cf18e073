//! `engraft train`: has the methods of an experiment learn.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use engraft_plugin_api::Level;
use serde::Serialize;

use super::out::Progress;
use super::{PluginPath, cancel_on_interrupt, notify, out, shown};
use crate::base::{Error, Result};
use crate::experiment::{self, Hear, ModelWorkbench, Settings, TrainControl, TrainEvent, TrainOutcome, TrainPlan};
use crate::report::{Overlap, TrainSummary};

/// Have the methods of an experiment learn from its `[train]` data, and keep what they learnt.
#[derive(Args)]
#[command(after_help = "The experiment is the one that `engraft run` takes, with a [train] table:\n\n    \
        [train]\n    \
        path = \"counterfact_train.json\"  # of the kind of [data], or of `kind`\n    \
        validation = 0.2                 # a share of the subjects, or another file\n    \
        texts = \"corpus.txt\"             # plain texts, a document a line, for methods that ask for them\n\n\
        Its [[method]]s name with `artefact` the file that is written, and that `engraft run` reads; without it the file\n\
        lies in the folder of the training. `limit`, `seed` and `out` may be given too.\n\n\
        Example: engraft train examples/experiments/train-scope.toml")]
pub(super) struct Train {
    /// The experiment file. With `--resume`, the training's own settings are taken and this may be left out.
    #[arg(required_unless_present = "resume")]
    experiment: Option<PathBuf>,
    /// Override a key, e.g. `train.seed=2`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Continue the interrupted training of this folder from its last checkpoint.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Replace the artefacts that the experiment names, once the training is done.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    path: PluginPath,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    folder: String,
    artefacts: Vec<String>,
    overlap: Overlap,
    summary: &'a TrainSummary,
}

impl Train {
    pub(super) fn run(&self) -> Result<()> {
        let own = self.resume.as_ref().map(|folder| folder.join("resolved.toml"));
        if let (None, Some(own)) = (&self.experiment, own.as_ref().filter(|own| !own.is_file())) {
            let text = format!("`{}` does not exist, so its folder is not that of a training", own.display());
            return Err(Error::new(&experiment::codes::RESUME_MISSING, text));
        }
        let file = self.experiment.clone().or(own).unwrap_or_default();
        let settings = Settings::load(&file, &self.overrides)?;
        let cancel = cancel_on_interrupt();
        let hear: Hear = Arc::new(|_, _| {});
        let mut bench = ModelWorkbench::new(self.path.search(), cancel.clone(), notify(), hear);
        // A training that is resumed made sure of its places when it began.
        let plan = TrainPlan::make(settings, &mut bench, self.force || self.resume.is_some())?;
        let progress = Progress::new();
        let control =
            TrainControl { resume: self.resume.as_deref(), cancel, observer: &|event| tell(&progress, event) };
        let outcome = experiment::train(&plan, &mut bench, &control);
        progress.clear();
        let outcome = outcome?;
        if self.json {
            return out::json(&Report {
                folder: shown(&outcome.folder),
                artefacts: outcome.artefacts.iter().map(|path| shown(path)).collect(),
                overlap: outcome.manifest.overlap,
                summary: &outcome.summary,
            });
        }
        print(&outcome)
    }
}

fn print(outcome: &TrainOutcome) -> Result<()> {
    for (trained, artefact) in outcome.summary.methods.iter().zip(&outcome.artefacts) {
        out::line(format_args!(
            "{} learnt in {:.1} s, {} steps: {}",
            trained.label,
            trained.seconds,
            trained.steps,
            shown(artefact)
        ))?;
        for (name, figure) in &trained.metrics {
            if let (Some(first), Some(last)) = (figure.first, figure.last) {
                out::line(format_args!("  {name:<24} {first:.4} at first, {last:.4} at last"))?;
            }
        }
    }
    out::line(format_args!("the curves and the protocol: {}", shown(&outcome.folder.join("report.html"))))
}

/// Shows an event of the training.
fn tell(progress: &Progress, event: &TrainEvent<'_>) {
    match event {
        TrainEvent::Opening { model, device } => progress.line(&format!("opening {} on {device}", shown(model))),
        TrainEvent::Started { folder, manifest } => {
            let data = &manifest.data;
            progress.line(&format!(
                "{} records to learn from, {} for validation, {} texts; writing to {}",
                data.train,
                data.validation,
                data.texts,
                shown(folder)
            ));
            for warning in manifest.warnings() {
                progress.line(&format!("warning: {warning}"));
            }
        }
        TrainEvent::Learning { label, from: Some(step) } => progress.line(&format!("{label} goes on from step {step}")),
        TrainEvent::Progress { done, total, what } => progress.step(what, *done, *total, true),
        TrainEvent::Said { level: Level::Warn, message } => progress.line(&format!("warning: {message}")),
        TrainEvent::Said { level: Level::Info, message } => progress.line(message),
        _ => {}
    }
}
