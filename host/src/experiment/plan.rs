//! Everything that can be wrong before a model is opened: plugins, parameters, modes, data.

use std::collections::BTreeSet;

use engraft_plugin_api::{Descriptor, Params};

use super::codes;
use super::config::Mode;
use super::settings::Settings;
use super::train::{Lessons, Seen};
use super::workbench::{Described, Opened, Workbench};
use crate::base::{Error, Result};
use crate::data::{self, Dataset};
use crate::report::{ArtefactEntry, DataEntry, Manifest, MethodEntry, ModelEntry, SkippedEntry};

/// A checked experiment with its data.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The settings, every method with its label and all its parameters.
    pub settings: Settings,
    /// The methods, in the order of the settings.
    pub methods: Vec<PlannedMethod>,
    /// The data.
    pub dataset: Dataset,
}

/// A method that can do what the run asks of it.
#[derive(Clone, Debug)]
pub struct PlannedMethod {
    /// What it is called in tables; unique.
    pub label: String,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// A value for every parameter.
    pub params: Params,
    /// The records that it can take, as indices into the data.
    pub records: Vec<usize>,
    /// What it learnt before, with what that shares with the data.
    pub artefact: Option<ArtefactEntry>,
    library: String,
    hash: String,
}

impl Plan {
    /// Checks an experiment and reads its data.
    ///
    /// # Errors
    /// Those of [`Workbench::describe`] and [`data::load`], `config-mode`, `artefact-data`.
    pub fn make(mut settings: Settings, bench: &mut dyn Workbench) -> Result<Self> {
        let described: Vec<Described> =
            settings.methods.iter().map(|method| bench.describe(method)).collect::<Result<_>>()?;
        for (method, described) in settings.methods.iter().zip(&described) {
            let can = match settings.mode {
                Mode::Single => true,
                Mode::Batch => described.descriptor.capabilities.batch,
                Mode::Sequential => described.descriptor.capabilities.sequential,
            };
            if !can {
                let (name, mode) = (&described.descriptor.name, settings.mode.name());
                let message = format!("{}: the method `{name}` cannot edit in mode \"{mode}\"", method.place.plugin);
                return Err(Error::new(&codes::CONFIG_MODE, message).help("set `[run] mode = \"single\"`"));
            }
        }
        label(&mut settings, &described);
        for (method, described) in settings.methods.iter_mut().zip(&described) {
            method.params = described.params.0.clone();
        }
        let dataset = data::load(settings.data.kind, &settings.data.path, settings.data.limit)?;
        check_lessons(&settings, &described)?;
        let methods = settings.methods.iter().zip(described).map(|(method, described)| PlannedMethod {
            label: method.label.clone().unwrap_or_else(|| described.descriptor.name.clone()),
            records: (0..dataset.records.len())
                .filter(|i| {
                    let has_subject = dataset.records[*i].request.subject.is_some();
                    has_subject || !described.descriptor.capabilities.needs_subject
                })
                .collect(),
            artefact: described.artefact.as_deref().map(|file| ArtefactEntry {
                path: method.artefact.as_deref().map(|path| path.display().to_string()).unwrap_or_default(),
                hash: file.hash().to_string(),
                data: file.artefact.data.clone(),
                overlap: Seen::of_sets(&file.seen).overlap(&dataset.records),
            }),
            descriptor: described.descriptor,
            params: described.params,
            library: described.library.display().to_string(),
            hash: described.hash,
        });
        Ok(Self { methods: methods.collect(), settings, dataset })
    }

    /// The protocol of a run of this plan on an open model.
    pub(super) fn manifest(&self, opened: Opened, started: String) -> Result<Manifest> {
        let Self { settings, dataset, .. } = self;
        Ok(Manifest {
            schema: 1,
            engraft: env!("CARGO_PKG_VERSION").to_owned(),
            name: settings.name.clone(),
            started,
            system: format!("{}, {}", std::env::consts::OS, std::env::consts::ARCH),
            mode: settings.mode.name().to_owned(),
            seed: settings.seed,
            settings: settings.hash()?,
            model: ModelEntry {
                path: settings.model.display().to_string(),
                hash: opened.hash,
                device: opened.device,
                runtime: opened.runtime,
                scorer: opened.scorer,
                decoding: match settings.text {
                    0 => "none".to_owned(),
                    tokens => format!("{}, at most {tokens} tokens", opened.decoding),
                },
            },
            data: DataEntry {
                kind: settings.data.kind.name().to_owned(),
                path: settings.data.path.display().to_string(),
                hash: dataset.hash.clone(),
                records: dataset.records.len(),
                skipped: dataset
                    .skipped
                    .iter()
                    .map(|s| SkippedEntry { index: s.index, id: s.id.clone(), reason: s.reason.clone() })
                    .collect(),
            },
            methods: self.methods.iter().map(|m| m.entry(dataset.records.len())).collect(),
        })
    }
}

impl PlannedMethod {
    fn entry(&self, records: usize) -> MethodEntry {
        MethodEntry {
            label: self.label.clone(),
            plugin: self.descriptor.name.clone(),
            version: self.descriptor.version.clone(),
            family: self.descriptor.family.name().to_owned(),
            library: self.library.clone(),
            hash: self.hash.clone(),
            params: self.params.0.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
            unusable: records - self.records.len(),
            artefact: self.artefact.clone(),
        }
    }
}

/// Where the experiment says what its methods learn from, they learnt from that: else its tables would claim another
/// training than there was. Where those files are not at hand, the artefact's own word stands.
fn check_lessons(settings: &Settings, described: &[Described]) -> Result<()> {
    let train = settings.train.as_ref().filter(|train| train.is_there());
    let (Some(train), true) = (train, described.iter().any(|d| d.artefact.is_some())) else { return Ok(()) };
    let hash = Lessons::read(train)?.data.hash;
    for (method, described) in settings.methods.iter().zip(described) {
        if let Some(file) = described.artefact.as_ref().filter(|file| file.artefact.data != hash) {
            let (place, found) = (&method.place.artefact, &file.artefact.data);
            let text = format!("{place}: the artefact was trained on the data {found}, [train] names {hash}");
            return Err(Error::new(&codes::ARTEFACT_DATA, text)
                .help("train anew, or leave the [train] table out if the artefact is the one that is meant"));
        }
    }
    Ok(())
}

/// Gives every method a label of its own: the one given, the plugin's name, or the name with a number.
pub(super) fn label(settings: &mut Settings, described: &[Described]) {
    let mut taken: BTreeSet<String> = settings.methods.iter().filter_map(|m| m.label.clone()).collect();
    for (method, described) in settings.methods.iter_mut().zip(described) {
        if method.label.is_some() {
            continue;
        }
        let name = &described.descriptor.name;
        let mut label = name.clone();
        let mut number = 1;
        while taken.contains(&label) {
            number += 1;
            label = format!("{name} #{number}");
        }
        taken.insert(label.clone());
        method.label = Some(label);
    }
}
