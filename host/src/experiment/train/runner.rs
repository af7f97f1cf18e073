//! A training: each method that learns does so in turn, from its last checkpoint if there is one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use engraft_plugin_api::{Checkpoint, Level, MethodError, TrainData};

use super::logbook::Logbook;
use super::plan::{Learner, TrainPlan};
use crate::base::{Cancel, Class, Error, Hash, Result, clock, codes as base_codes, random};
use crate::experiment::model_bench::ModelWorkbench;
use crate::experiment::workbench::Workbench;
use crate::plugins::{Access, ArtefactFile, Listener, params};
use crate::report::{self, MetricLine, TrainManifest, TrainSummary, Trained};

/// How a training is steered and watched.
pub struct TrainControl<'a> {
    /// The folder of an interrupted training that is to be continued.
    pub resume: Option<&'a Path>,
    /// Stops the training at its next safe point.
    pub cancel: Cancel,
    /// Told what happens, from any thread.
    pub observer: &'a (dyn Fn(&TrainEvent<'_>) + Sync),
}

/// Something that happened in a training.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// Everything is checked; the model is being opened.
    Opening {
        /// The model's folder.
        model: &'a Path,
        /// Where it will run.
        device: &'a str,
    },
    /// The training has its folder.
    Started {
        /// The folder.
        folder: &'a Path,
        /// What is learnt from, and what it shares with the evaluation.
        manifest: &'a TrainManifest,
    },
    /// A method begins to learn.
    Learning {
        /// What it is called.
        label: &'a str,
        /// The step that it goes on from; none from the beginning.
        from: Option<u64>,
    },
    /// How far a method is.
    Progress {
        /// How much is done.
        done: u64,
        /// Of how much.
        total: u64,
        /// Of what, in the method's words.
        what: &'a str,
    },
    /// A method told a figure, which is in the folder.
    Metric(&'a MetricLine),
    /// A checkpoint is safe.
    Checkpoint {
        /// After how many steps.
        step: u64,
    },
    /// A method, or the host, said something.
    Said {
        /// How serious it is.
        level: Level,
        /// What.
        message: &'a str,
    },
    /// A method is done.
    Learnt(&'a Trained),
    /// The training is done and its files are written.
    Finished {
        /// The folder.
        folder: &'a Path,
    },
}

/// A finished training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutcome {
    /// Its folder.
    pub folder: PathBuf,
    /// Its numbers.
    pub summary: TrainSummary,
    /// What it ran with.
    pub manifest: TrainManifest,
    /// The files of what was learnt: where the experiment names one, there, else in the folder.
    pub artefacts: Vec<PathBuf>,
}

/// Trains the methods of a plan and writes its folder.
///
/// # Errors
/// `interrupted`; `run-folder`, `run-busy` and `folder-not-writable`; the `resume-*` codes and `checkpoint-damaged`;
/// `disk-full` and `file-write`, after which the training can be resumed from the checkpoint before; whatever keeps the
/// model from being opened or a method from learning.
pub fn train(plan: &TrainPlan, bench: &mut ModelWorkbench, control: &TrainControl<'_>) -> Result<TrainOutcome> {
    let settings = &plan.settings;
    plan.check_places()?;
    let resumed = control.resume.map(|path| Logbook::reopen(path, plan)).transpose()?;
    (control.observer)(&TrainEvent::Opening { model: &settings.model, device: &settings.device });
    let opened = bench.open(settings)?;
    let now = SystemTime::now();
    let manifest = plan.manifest(&opened, clock::iso(now))?;
    let (book, manifest) = match resumed {
        Some(book) => {
            let manifest = book.verify(&manifest)?;
            (book, manifest)
        }
        None => (Logbook::create(plan, &manifest, now)?, manifest),
    };
    (control.observer)(&TrainEvent::Started { folder: book.path(), manifest: &manifest });
    let mut summary = TrainSummary { schema: 1, methods: Vec::new() };
    let mut artefacts = Vec::new();
    for learner in &plan.learners {
        let learning = Learning { plan, control, book: &book, manifest: &manifest, learner };
        let trained = learning.go(bench)?;
        (control.observer)(&TrainEvent::Learnt(&trained));
        artefacts.push(learner.destination.clone().unwrap_or_else(|| book.file(&learner.file)));
        summary.methods.push(trained);
    }
    let lines = book.lines()?;
    book.write_json("summary.json", &summary)?;
    book.write("report.md", report::training_markdown(&manifest, &summary, &lines).as_bytes())?;
    book.write("report.html", report::training_page(&manifest, &summary, &lines).as_bytes())?;
    (control.observer)(&TrainEvent::Finished { folder: book.path() });
    Ok(TrainOutcome { folder: book.path().to_owned(), summary, manifest, artefacts })
}

/// The training of one method.
struct Learning<'a> {
    plan: &'a TrainPlan,
    control: &'a TrainControl<'a>,
    book: &'a Logbook,
    manifest: &'a TrainManifest,
    learner: &'a Learner,
}

impl Learning<'_> {
    /// Trains the method, unless that was done before the training was resumed.
    fn go(&self, bench: &ModelWorkbench) -> Result<Trained> {
        let Learner { index, label, .. } = self.learner;
        let path = self.book.file(&self.learner.file);
        let began = Instant::now();
        let artefact = if path.exists() {
            ArtefactFile::load(&path)?
        } else {
            let training = self.training();
            let resume = self.book.kept(*index, &training)?;
            self.book.forget(*index, resume.as_ref().map_or(0, |checkpoint| checkpoint.step))?;
            let from = resume.as_ref().map(|checkpoint| checkpoint.step);
            (self.control.observer)(&TrainEvent::Learning { label, from });
            let artefact = self.learn(bench, training, resume)?;
            artefact.save(&path)?;
            artefact
        };
        if let Some(destination) = &self.learner.destination {
            artefact.save(destination)?;
        }
        self.book.done(*index)?;
        let lines = self.book.lines()?;
        let steps = lines.iter().filter(|line| line.method == *index).map(|line| line.step).max();
        Ok(Trained {
            method: *index,
            label: label.clone(),
            file: self.learner.file.clone(),
            hash: artefact.hash().to_string(),
            bytes: artefact.artefact.bytes.len(),
            steps: steps.unwrap_or(0),
            seconds: began.elapsed().as_secs_f64(),
            metrics: report::figures(&lines, *index),
        })
    }

    /// What checkpoints of this training are bound to.
    fn training(&self) -> Hash {
        let TrainManifest { settings, model, data, .. } = self.manifest;
        let index = self.learner.index.to_string();
        Hash::of_parts([settings, &model.hash, &data.hash, &self.learner.described.hash, &index])
    }

    fn learn(&self, bench: &ModelWorkbench, training: Hash, resume: Option<Checkpoint>) -> Result<ArtefactFile> {
        let Learner { index, library, described, .. } = self.learner;
        let plan = self.plan;
        let name = described.descriptor.name.clone();
        let method = library.create(described.params.clone())?;
        let teacher =
            Teacher { book: self.book, control: self.control, method: *index, training, failed: Mutex::default() };
        let access = Access {
            model: bench.model_or_refuse()?,
            method: Some(name.clone()),
            corpus: plan.settings.corpus.clone(),
            cancel: self.control.cancel.clone(),
            seed: random::seed(plan.train.seed, &["train", &name]),
            listener: &teacher,
        };
        let learnt = method.train(&access, &TrainData { resume, ..plan.lessons.data.clone() });
        let failed = teacher.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let artefact = match (learnt, failed) {
            (Ok(artefact), None) => artefact,
            // The training ended well without what could not be kept.
            (Ok(artefact), Some(failed)) => {
                let message = format!("the training went on although {failed}");
                (self.control.observer)(&TrainEvent::Said { level: Level::Warn, message: &message });
                artefact
            }
            // The cause in the host's own words, not in those of the plugin that was stopped by it.
            (Err(_), Some(failed)) => return Err(self.resumable(failed)),
            (Err(error), None) if error.code().class == Class::Interrupted => {
                let text = format!("the training of `{}` was stopped on request", self.learner.label);
                return Err(self.resumable(Error::new(&base_codes::INTERRUPTED, text).because(error)));
            }
            (Err(error), None) => return Err(error),
        };
        Ok(ArtefactFile {
            method: name,
            version: described.descriptor.version.clone(),
            params: params::to_toml(&described.params).to_string(),
            seed: plan.train.seed,
            artefact,
            seen: plan.lessons.seen.sets(),
        })
    }

    fn resumable(&self, error: Error) -> Error {
        error.help(format!("continue with `engraft train --resume {}`", self.book.path().display()))
    }
}

/// Hears a method that learns, and keeps its figures and its checkpoints.
struct Teacher<'a> {
    book: &'a Logbook,
    control: &'a TrainControl<'a>,
    method: usize,
    training: Hash,
    /// The first thing that could not be written.
    failed: Mutex<Option<Error>>,
}

impl Teacher<'_> {
    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

impl Listener for Teacher<'_> {
    fn log(&self, level: Level, message: &str) {
        (self.control.observer)(&TrainEvent::Said { level, message });
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        (self.control.observer)(&TrainEvent::Progress { done, total, what });
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        let value = value.is_finite().then_some(value);
        let line = MetricLine { method: self.method, step, name: name.to_owned(), value };
        match self.book.append(&line) {
            Ok(()) => (self.control.observer)(&TrainEvent::Metric(&line)),
            Err(error) => self.fail(error),
        }
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) -> std::result::Result<(), MethodError> {
        self.book.keep(self.method, &self.training, checkpoint).map_err(|error| {
            let told = MethodError::new(format!("host-{}", error.code().id), error.message());
            self.fail(error);
            told
        })?;
        (self.control.observer)(&TrainEvent::Checkpoint { step: checkpoint.step });
        Ok(())
    }
}
