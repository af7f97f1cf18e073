//! `engraft run`: runs an experiment.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use engraft_plugin_api::Level;

use super::out::Progress;
use super::{PluginPath, cancel_on_interrupt, notify, out, shown, usage};
use crate::base::{Error, Result};
use crate::codes;
use crate::experiment::{self, Control, Event, Hear, ModelWorkbench, Plan, Settings};
use crate::metrics::Regime;
use crate::plugins::codes as plugin_codes;
use crate::report::{self, MethodSummary};

/// Run an experiment: edit, measure, undo, report.
#[derive(Args)]
#[command(after_help = "A [[method]] names its `plugin`, and may have a `label`, an `artefact`, `params`, and \
        `pin = \"sha256:...\"`: what the bytes of the plugin's file must be, checked before it is loaded \
        (`engraft plugins list` shows it).\n\n\
        Example: engraft run examples/experiments/quickstart.toml --set data.limit=10")]
pub(super) struct Run {
    /// The experiment file. With `--resume`, the run's own settings are taken and this may be left out.
    #[arg(required_unless_present = "resume")]
    experiment: Option<PathBuf>,
    /// Override a key, e.g. `method.0.params.layer=2`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Continue the interrupted run of this folder.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    path: PluginPath,
    /// The regime of the table: `argmax`, `probability` or `token_mean`. The report holds all of them.
    #[arg(long, default_value = "argmax")]
    regime: String,
    /// Print summary.json instead of the table.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(&self) -> Result<()> {
        let regime = Regime::ALL.into_iter().find(|r| r.name() == self.regime).ok_or_else(|| {
            let known: Vec<&str> = Regime::ALL.iter().map(|r| r.name()).collect();
            usage(format!("`{}` is not a regime; known: {}", self.regime, known.join(", ")))
        })?;
        let own = self.resume.as_ref().map(|folder| folder.join("resolved.toml"));
        if let (None, Some(own)) = (&self.experiment, own.as_ref().filter(|own| !own.is_file())) {
            let text = format!("`{}` does not exist, so its folder is not that of a run", own.display());
            return Err(Error::new(&experiment::codes::RESUME_MISSING, text));
        }
        let file = self.experiment.clone().or(own).unwrap_or_default();
        let settings = Settings::load(&file, &self.overrides)?;
        let cancel = cancel_on_interrupt();
        let hear: Hear = Arc::new(|level, message| {
            if level == Level::Warn && !out::watched() {
                out::note(message);
            }
        });
        let mut bench = ModelWorkbench::new(self.path.search(), cancel.clone(), notify(), hear);
        let plan = Plan::make(settings, &mut bench)?;
        let progress = Progress::new();
        let control = Control {
            resume: self.resume.as_deref(),
            cancelled: &|| cancel.is_cancelled(),
            observer: &|event| tell(&progress, event),
        };
        let outcome = experiment::run(&plan, &mut bench, &control);
        progress.clear();
        let outcome = outcome?;
        if self.json {
            out::json(&outcome.summary)?;
        } else {
            out::line(report::table(&outcome.summary, regime, comfy_table::presets::UTF8_HORIZONTAL_ONLY))?;
            out::line(format_args!("every case, the report and its numbers: {}", shown(&outcome.folder)))?;
        }
        outcome.summary.methods.iter().try_for_each(measured)
    }
}

/// A method of which no case was measured is an error, of the kind of its first case's.
fn measured(method: &MethodSummary) -> Result<()> {
    let Some(first) = method.first_failure.as_ref().filter(|_| method.all_failed()) else { return Ok(()) };
    let code = codes::find(&first.failure.code).unwrap_or(&plugin_codes::FAILED);
    let text = format!("every case of `{}` failed, {} of {}", method.label, method.failed, method.cases);
    Err(Error::new(code, format!("{text}; the first, `{}`: {}", first.case, first.failure.message)))
}

/// Shows an event of the run.
fn tell(progress: &Progress, event: &Event<'_>) {
    let step = |what: &str, done: usize, total: usize| progress.step(what, done as u64, total as u64, true);
    match event {
        Event::Warning { label, text } => progress.line(&format!("warning: {label}: {text}")),
        Event::Opening { model, device } => progress.line(&format!("opening {} on {device}", shown(model))),
        Event::Started { folder, records, skipped, resumed } => {
            let more = match (skipped, resumed) {
                (0, 0) => String::new(),
                (skipped, resumed) => format!(", {skipped} unusable, {resumed} done before"),
            };
            progress.line(&format!("{records} records{more}; writing to {}", shown(folder)));
        }
        Event::Measuring { done, total } => step("before editing", *done, *total),
        Event::MethodStarted { label, total, done, .. } => step(label, *done, *total),
        Event::CaseDone { done, total, line } => step(&line.label, *done, *total),
        Event::MethodDone { summary } if summary.failed > 0 && !summary.all_failed() => {
            let MethodSummary { label, failed, cases, .. } = summary;
            let first = summary.first_failure.as_ref();
            let why = first.map(|f| format!("; the first, `{}`: [{}] {}", f.case, f.failure.code, f.failure.message));
            progress.line(&format!("warning: {label}: {failed} of {cases} cases failed{}", why.unwrap_or_default()));
        }
        _ => {}
    }
}
