//! Everything that can be wrong before a training opens a model: the table, the data, the plugins, the places that
//! results are written to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::data::Lessons;
use super::settings::TrainSettings;
use crate::base::atomic::{self, There};
use crate::base::{Error, Result};
use crate::data;
use crate::experiment::codes;
use crate::experiment::folder::{self, Folder};
use crate::experiment::model_bench::ModelWorkbench;
use crate::experiment::plan;
use crate::experiment::settings::Settings;
use crate::experiment::workbench::{Described, Opened};
use crate::plugins::Library;
use crate::report::{MethodEntry, Overlap, TrainManifest, TrainModelEntry};

/// A checked training with its data.
#[derive(Clone, Debug)]
pub struct TrainPlan {
    /// The settings, every method with its label and all its parameters.
    pub settings: Settings,
    /// What the training shares with the evaluation of the experiment.
    pub overlap: Overlap,
    pub(super) train: TrainSettings,
    pub(super) lessons: Lessons,
    pub(super) learners: Vec<Learner>,
}

/// A method that learns.
#[derive(Clone, Debug)]
pub(super) struct Learner {
    /// Its place in the experiment.
    pub index: usize,
    pub label: String,
    pub library: Arc<Library>,
    pub described: Described,
    /// The name of its artefact's file in the folder of the training.
    pub file: String,
    /// Where the experiment says that its artefact lies.
    pub destination: Option<PathBuf>,
}

impl TrainPlan {
    /// Checks a training and reads its data. With `replace`, the artefacts that the experiment names may be there.
    ///
    /// # Errors
    /// `config-train` without a `[train]` table or a method that learns; `config-path`; `artefact-exists`; those of
    /// plugins, parameters and data.
    pub fn make(mut settings: Settings, bench: &mut ModelWorkbench, replace: bool) -> Result<Self> {
        let refuse = |why: &str| Error::new(&codes::CONFIG_TRAIN, format!("the experiment `{}` {why}", settings.name));
        let train = settings.train.clone().ok_or_else(|| {
            refuse("has no [train] table").help("add `[train]` with `path = \"FILE\"`, what the methods learn from")
        })?;
        train.check_files()?;
        let (libraries, described): (Vec<_>, Vec<_>) =
            settings.methods.iter().map(|method| bench.load(method)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        if !libraries.iter().any(|library| library.calls().train) {
            return Err(refuse("has no method that learns").help("`engraft plugins list` shows which methods do"));
        }
        plan::label(&mut settings, &described);
        let mut learners = Vec::new();
        let (mut files, mut destinations) = (BTreeSet::new(), BTreeSet::new());
        for (index, (library, described)) in libraries.into_iter().zip(described).enumerate() {
            let method = &mut settings.methods[index];
            method.params.clone_from(&described.params.0);
            if !library.calls().train {
                continue;
            }
            let label = method.label.clone().unwrap_or_default();
            let mut file = format!("{}.artefact", folder::plain(&label));
            if !files.insert(file.clone()) {
                file = format!("{}-{index}.artefact", folder::plain(&label));
            }
            if let Some(path) = &method.artefact {
                let place = &method.place.artefact;
                if !destinations.insert(path.clone()) {
                    let text = format!("{place}: another method's artefact is written to `{}` too", path.display());
                    return Err(Error::new(&codes::CONFIG_VALUE, text));
                }
                let refuse = |what: &str, help: &str| {
                    let text = format!("{place}: `{}` is {what}", path.display());
                    Err(Error::new(&codes::ARTEFACT_EXISTS, text).help(help))
                };
                match atomic::there(path) {
                    There::File if !replace => refuse(
                        "there already",
                        "add `--force` to replace it once the training is done, or name another file",
                    )?,
                    There::Folder => refuse("a folder", "name a file")?,
                    There::Other => refuse("a socket or a block device", "name a file")?,
                    There::Nothing | There::File | There::Stream => {}
                }
            }
            learners.push(Learner { index, label, library, described, file, destination: method.artefact.clone() });
        }
        let lessons = Lessons::read(&train)?;
        let evaluated = data::load(settings.data.kind, &settings.data.path, settings.data.limit)?;
        let overlap = lessons.seen.overlap(&evaluated.records);
        Ok(Self { settings, overlap, train, lessons, learners })
    }

    /// The labels of the methods that learn.
    pub fn learners(&self) -> impl Iterator<Item = &str> {
        self.learners.iter().map(|learner| learner.label.as_str())
    }

    /// That the places which results are written to can be.
    pub(super) fn check_places(&self) -> Result<()> {
        for path in self.learners.iter().filter_map(|learner| learner.destination.as_deref()) {
            // The folder may be yet to be made.
            match path.parent().filter(|_| atomic::there(path) == There::Nothing) {
                Some(folder) => atomic::check_writable(folder)?,
                None => atomic::check_place(path)?,
            }
        }
        Folder::check(&self.train.out)
    }

    /// What the training depends on, as text.
    pub(super) fn identity(&self) -> Result<String> {
        self.settings.training_text()
    }

    /// The protocol of this training on an open model.
    pub(super) fn manifest(&self, opened: &Opened, started: String) -> Result<TrainManifest> {
        let entry = |learner: &Learner| {
            let Described { descriptor, params, library, hash, .. } = &learner.described;
            MethodEntry {
                label: learner.label.clone(),
                plugin: descriptor.name.clone(),
                version: descriptor.version.clone(),
                family: descriptor.family.name().to_owned(),
                library: library.display().to_string(),
                hash: hash.clone(),
                params: params.0.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
                unusable: 0,
                artefact: None,
            }
        };
        Ok(TrainManifest {
            schema: 1,
            engraft: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.settings.name.clone(),
            started,
            system: format!("{}, {}", std::env::consts::OS, std::env::consts::ARCH),
            seed: self.train.seed,
            settings: blake3::hash(self.identity()?.as_bytes()).to_hex().to_string(),
            model: TrainModelEntry {
                path: self.settings.model.display().to_string(),
                hash: opened.hash.clone(),
                device: opened.device.clone(),
                runtime: opened.runtime.clone(),
            },
            data: self.lessons.entry.clone(),
            overlap: self.overlap,
            methods: self.learners.iter().map(entry).collect(),
        })
    }
}
