//! `resolved.toml`: settings as an experiment file in which nothing is left to a default.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::codes;
use super::config::{self, Mode};
use super::settings::{MethodSettings, PluginRef, Settings};
use super::train::{TrainSettings, Validation};
use crate::base::{Error, Result};
use crate::plugins::Patience;

#[derive(Serialize)]
struct Experiment<'a> {
    name: &'a str,
    seed: u64,
    model: Model<'a>,
    data: Data<'a>,
    run: Run<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<Train<'a>>,
    method: Vec<Method<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    path: Cow<'a, str>,
    device: &'a str,
}

#[derive(Serialize)]
struct Data<'a> {
    kind: &'a str,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Run<'a> {
    mode: Mode,
    out: Cow<'a, str>,
    text: usize,
    /// Where it is not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    patience: Option<f64>,
}

#[derive(Serialize)]
struct Statistics<'a> {
    corpus: Cow<'a, str>,
}

#[derive(Serialize)]
struct Train<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<toml::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<Cow<'a, str>>,
    seed: u64,
    out: Cow<'a, str>,
}

#[derive(Serialize)]
struct Method<'a> {
    plugin: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artefact: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
    params: BTreeMap<&'a str, toml::Value>,
}

/// The file's text.
///
/// # Errors
/// `config-value` for a number that TOML cannot hold.
pub(super) fn text(settings: &Settings) -> Result<String> {
    let data = &settings.data;
    let experiment = Experiment {
        name: &settings.name,
        seed: settings.seed,
        model: Model { path: settings.model.to_string_lossy(), device: &settings.device },
        data: Data { kind: data.kind.name(), path: data.path.to_string_lossy(), limit: data.limit },
        run: Run {
            mode: settings.mode,
            out: settings.out.to_string_lossy(),
            text: settings.text,
            patience: (settings.patience != Patience::default()).then(|| settings.patience.as_seconds()),
        },
        statistics: settings.corpus.as_deref().map(|corpus| Statistics { corpus: corpus.to_string_lossy() }),
        train: settings.train.as_ref().map(train),
        method: settings.methods.iter().map(method).collect(),
    };
    toml::to_string(&experiment).map_err(|e| {
        Error::new(&codes::CONFIG_VALUE, "the settings hold a number that no experiment file can hold").because(e)
    })
}

fn train(settings: &TrainSettings) -> Train<'_> {
    let data = settings.data.as_ref();
    Train {
        path: data.map(|data| data.path.to_string_lossy()),
        kind: data.map(|data| data.kind.name()),
        limit: data.and_then(|data| data.limit),
        validation: match &settings.validation {
            Validation::None => None,
            Validation::Share(share) => Some(toml::Value::Float(*share)),
            Validation::File(path) => Some(toml::Value::String(path.to_string_lossy().into_owned())),
        },
        texts: settings.texts.as_deref().map(|path| path.to_string_lossy()),
        seed: settings.seed,
        out: settings.out.to_string_lossy(),
    }
}

fn method(settings: &MethodSettings) -> Method<'_> {
    Method {
        plugin: match &settings.plugin {
            PluginRef::Name(name) => Cow::Borrowed(name.as_str()),
            PluginRef::Path(path) => path.to_string_lossy(),
        },
        label: &settings.label,
        artefact: settings.artefact.as_deref().map(|path| path.to_string_lossy()),
        pin: settings.pin.map(|pin| pin.to_string()),
        params: settings.params.iter().map(|(name, value)| (name.as_str(), config::value(value))).collect(),
    }
}
