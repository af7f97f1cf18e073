//! An experiment resolved: absolute paths, defaults filled in, words turned into types. Written as `resolved.toml`,
//! which is an experiment again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use engraft_plugin_api::{MethodError, ParamSpec, ParamValue, Params};

use super::config::{self, Config, Mode, Spanned};
use super::source::Source;
use super::train::TrainSettings;
use super::{codes, resolved};
use crate::base::{Error, Result};
use crate::data::DataKind;
use crate::plugins::{Patience, Pin};

/// How many tokens the model writes for each case where the experiment does not say.
const TEXT: usize = 12;

/// What is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the experiment is called; the folder of a run begins with it.
    pub name: String,
    /// The seed of all random streams.
    pub seed: u64,
    /// The model's folder.
    pub model: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// The data.
    pub data: DataSettings,
    /// How edits follow each other.
    pub mode: Mode,
    /// Where the folder of the run is made.
    pub out: PathBuf,
    /// How many tokens the model writes after the prompt of each case, before and after; 0 for no text.
    pub text: usize,
    /// How long a method may take for one call in the middle of a request; no result depends on it.
    pub patience: Patience,
    /// The text that statistics are taken over; `None` for the one that the model names.
    pub corpus: Option<PathBuf>,
    /// What methods learn from, where the experiment says so.
    pub train: Option<TrainSettings>,
    /// The methods; at least one.
    pub methods: Vec<MethodSettings>,
}

/// Which records are edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSettings {
    /// The schema.
    pub kind: DataKind,
    /// The file.
    pub path: PathBuf,
    /// How many records are read from its beginning; `None` for all.
    pub limit: Option<usize>,
}

/// A method and what it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodSettings {
    /// Where it comes from.
    pub plugin: PluginRef,
    /// What it is called in tables; `None` for the plugin's name.
    pub label: Option<String>,
    /// The file of what it learnt before: read by a run, written by a training.
    pub artefact: Option<PathBuf>,
    /// What the bytes of the plugin's file must be, checked before it is loaded; `None` for whatever they are.
    pub pin: Option<Pin>,
    /// Its parameters: those given; in a [`Plan`](super::Plan) all of them.
    pub params: BTreeMap<String, ParamValue>,
    /// Where it stands in the experiment, for messages.
    pub place: Places,
}

/// Where a method and its parameters stand in the experiment, in words. All places are equal: they are no setting.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The name of the plugin.
    pub plugin: String,
    /// The file of what it learnt.
    pub artefact: String,
    /// What it is pinned with.
    pub pin: String,
    /// Each given parameter.
    pub params: BTreeMap<String, String>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PluginRef {
    /// A name on the search path.
    Name(String),
    /// A library.
    Path(PathBuf),
}

impl Settings {
    /// Reads and resolves an experiment; `overrides` are those of `--set`, as typed.
    ///
    /// # Errors
    /// Every `config-*` code except `config-param` and `config-mode`, which need the plugins; `data-kind`.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::resolve(&Source::read(path, overrides)?)
    }

    /// Resolves an experiment.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn resolve(source: &Source) -> Result<Self> {
        let config = Config::parse(source)?;
        let file = absolute(source.path());
        let base = file.parent().unwrap_or(Path::new("/"));
        let wrong = |span: &Range<usize>, why: String| {
            Error::new(&codes::CONFIG_VALUE, format!("{}: {why}", source.place(span)))
        };
        let existing = |key: &str, value: &Spanned<String>| {
            let path = tidy(&base.join(value.get_ref()));
            if path.exists() {
                return Ok(path);
            }
            let place = source.place(&value.span());
            let message = format!("{place}: {key} names `{}`, which does not exist", path.display());
            Err(Error::new(&codes::CONFIG_PATH, message)
                .help("paths are relative to the experiment file, not to the working directory"))
        };

        let name = config.name.get_ref().trim();
        if name.is_empty() {
            return Err(wrong(&config.name.span(), "`name` is empty".into()));
        }
        if config.method.get_ref().is_empty() {
            return Err(wrong(&config.method.span(), "expected at least one [[method]]".into()));
        }
        let device = config.model.device.as_ref().map_or("cpu", |d| d.get_ref());
        let is_device = match device.strip_prefix("cuda") {
            Some(rest) => rest.is_empty() || rest.strip_prefix(':').is_some_and(|n| n.parse::<u32>().is_ok()),
            None => device == "cpu",
        };
        if let (false, Some(given)) = (is_device, &config.model.device) {
            let why = format!("`device` takes \"cpu\", \"cuda\" or \"cuda:1\", found \"{device}\"");
            return Err(wrong(&given.span(), why));
        }
        let kind = DataKind::named(config.data.kind.get_ref()).map_err(|e| {
            let error = Error::new(e.code(), format!("{}: {e}", source.place(&config.data.kind.span())));
            error.help(e.advice().unwrap_or_default())
        })?;
        let mut labels = BTreeSet::new();
        for label in config.method.get_ref().iter().filter_map(|m| m.label.as_ref()) {
            if !labels.insert(label.get_ref()) {
                return Err(wrong(&label.span(), format!("another method is labelled `{label}` too")));
            }
        }
        let out = tidy(&absolute(Path::new(config.run.out.as_deref().unwrap_or("runs"))));
        let patience = config.run.patience.as_ref().map(|typed| {
            Patience::seconds(*typed.get_ref()).map_err(|why| wrong(&typed.span(), format!("`run.patience`: {why}")))
        });
        let train =
            config.train.as_ref().map(|typed| TrainSettings::resolve(source, base, typed, (kind, config.seed, &out)));
        Ok(Self {
            name: name.to_owned(),
            seed: config.seed,
            model: existing("`model.path`", &config.model.path)?,
            device: device.to_owned(),
            data: DataSettings {
                kind,
                path: existing("`data.path`", &config.data.path)?,
                limit: config.data.limit.map(Into::into),
            },
            mode: config.run.mode,
            train: train.transpose()?,
            out,
            text: config.run.text.unwrap_or(TEXT),
            patience: patience.transpose()?.unwrap_or_default(),
            corpus: config.statistics.corpus.as_ref().map(|c| existing("`statistics.corpus`", c)).transpose()?,
            methods: config.method.get_ref().iter().map(|m| method(source, base, m)).collect::<Result<_>>()?,
        })
    }

    /// The settings as an experiment file that resolves to them again.
    ///
    /// # Errors
    /// `config-value` for a number that TOML cannot hold, e.g. a seed from 2⁶³ on.
    pub fn to_toml(&self) -> Result<String> {
        resolved::text(self)
    }

    /// BLAKE3 of what a run's results depend on: [`to_toml`](Self::to_toml) but for `out`, `patience` and the training.
    ///
    /// # Errors
    /// As [`to_toml`](Self::to_toml).
    pub fn hash(&self) -> Result<String> {
        Ok(blake3::hash(self.run_text()?.as_bytes()).to_hex().to_string())
    }

    /// What a run's results depend on, as text.
    pub(super) fn run_text(&self) -> Result<String> {
        Self { out: PathBuf::new(), train: None, patience: Patience::default(), ..self.clone() }.to_toml()
    }

    /// What a training depends on, as text: not how edits are measured, nor where results are put.
    pub(super) fn training_text(&self) -> Result<String> {
        let train = self.train.clone().map(|train| TrainSettings { out: PathBuf::new(), ..train });
        let patience = Patience::default();
        let mut elsewhere =
            Self { out: PathBuf::new(), train, mode: Mode::default(), text: 0, patience, ..self.clone() };
        elsewhere.methods.iter_mut().for_each(|method| method.artefact = None);
        elsewhere.to_toml()
    }
}

fn method(source: &Source, base: &Path, typed: &config::Method) -> Result<MethodSettings> {
    let plugin = typed.plugin.get_ref();
    let is_path = plugin.contains(['/', '\\']) || Path::new(plugin).extension().is_some();
    let mut settings = MethodSettings {
        plugin: match is_path {
            true => PluginRef::Path(tidy(&base.join(plugin))),
            false => PluginRef::Name(plugin.clone()),
        },
        label: typed.label.as_ref().map(|l| l.get_ref().clone()),
        artefact: typed.artefact.as_ref().map(|path| tidy(&base.join(path.get_ref()))),
        pin: typed.pin.as_ref().map(|pin| pinned(source, pin)).transpose()?,
        params: BTreeMap::new(),
        place: Places {
            plugin: source.place(&typed.plugin.span()),
            artefact: typed.artefact.as_ref().map(|path| source.place(&path.span())).unwrap_or_default(),
            pin: typed.pin.as_ref().map(|pin| source.place(&pin.span())).unwrap_or_default(),
            params: BTreeMap::new(),
        },
    };
    for (key, value) in &typed.params {
        let param = config::param(source, &value.span(), value.get_ref())?;
        settings.params.insert(key.get_ref().clone(), param);
        settings.place.params.insert(key.get_ref().clone(), source.place(&key.span()));
    }
    Ok(settings)
}

fn pinned(source: &Source, typed: &Spanned<String>) -> Result<Pin> {
    typed.get_ref().parse().map_err(|e: Error| {
        let error = Error::new(&codes::CONFIG_VALUE, format!("{}: {e}", source.place(&typed.span())));
        error.help(e.advice().unwrap_or_default())
    })
}

impl MethodSettings {
    /// Checks the parameters against a method's declarations and fills in the defaults.
    ///
    /// # Errors
    /// `config-param`, with the place of the parameter.
    pub fn check(&self, specs: &[ParamSpec]) -> Result<Params> {
        let refuse = |place: &str, e: MethodError| {
            let error = Error::new(&codes::CONFIG_PARAM, format!("{place}: {}", e.message));
            match e.help {
                Some(help) => error.help(help),
                None => error,
            }
        };
        // One by one first, so that an error is that of the parameter whose place is known.
        for (name, value) in &self.params {
            let specs: Vec<ParamSpec> = match specs.iter().find(|spec| &spec.name == name) {
                Some(spec) => vec![spec.clone()],
                None => specs.to_vec(),
            };
            let place = self.place.params.get(name).unwrap_or(&self.place.plugin);
            Params::resolve(&BTreeMap::from([(name.clone(), value.clone())]), &specs).map_err(|e| refuse(place, e))?;
        }
        Params::resolve(&self.params, specs).map_err(|e| refuse(&self.place.plugin, e))
    }
}

/// Absolute without asking the file system what links lead to.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The path without `a/..`, where that names the same thing.
pub(super) fn tidy(path: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if short.file_name().is_some() => {
                short.pop();
            }
            part => short.push(part),
        }
    }
    // A link before `..` makes another path of it.
    let is_same = match path.canonicalize() {
        Ok(real) => short.canonicalize().is_ok_and(|s| s == real),
        Err(_) => true,
    };
    if is_same { short } else { path.to_owned() }
}
