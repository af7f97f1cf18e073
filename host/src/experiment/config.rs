//! An experiment as typed: TOML with unknown keys refused, every value with its place.
//!
//! `params` of a method are kept as values with places; they get their types from the method's own declarations.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;

use engraft_plugin_api::ParamValue;
use engraft_plugin_api::params::nearest;
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

use super::source::Source;
use super::{codes, overrides};
use crate::base::{Error, Result};

/// A value with its span in the source.
pub(super) type Spanned<T> = toml::Spanned<T>;

/// A whole experiment.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub name: Spanned<String>,
    #[serde(default)]
    pub seed: u64,
    pub model: Model,
    pub data: Data,
    #[serde(default)]
    pub run: Run,
    #[serde(default)]
    pub statistics: Statistics,
    pub train: Option<Spanned<Train>>,
    pub method: Spanned<Vec<Method>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub path: Spanned<String>,
    pub device: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    pub kind: Spanned<String>,
    pub path: Spanned<String>,
    pub limit: Option<NonZeroUsize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    #[serde(default)]
    pub mode: Mode,
    pub out: Option<String>,
    pub text: Option<usize>,
    pub patience: Option<Spanned<f64>>,
}

/// How edits follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Edit, measure, roll back; the next case meets the unedited model.
    #[default]
    Single,
    /// All records in one call, then all measured, then rolled back.
    Batch,
    /// Each edit on top of the earlier ones; measured after its own and once more after the last.
    Sequential,
}

impl Mode {
    /// The word in `[run] mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Sequential => "sequential",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statistics {
    pub corpus: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Train {
    pub path: Option<Spanned<String>>,
    pub kind: Option<Spanned<String>>,
    pub limit: Option<Spanned<NonZeroUsize>>,
    pub validation: Option<Spanned<toml::Value>>,
    pub texts: Option<Spanned<String>>,
    pub seed: Option<u64>,
    pub out: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Method {
    pub plugin: Spanned<String>,
    pub label: Option<Spanned<String>>,
    pub artefact: Option<Spanned<String>>,
    pub pin: Option<Spanned<String>>,
    #[serde(default)]
    pub params: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
}

impl Config {
    /// Parses an experiment, with its overrides applied.
    ///
    /// # Errors
    /// `config-syntax`, `config-override`, `config-key` or `config-value`, each with its place.
    pub(super) fn parse(source: &Source) -> Result<Self> {
        let mut table = DeTable::parse(source.text()).map_err(|e| {
            let place = source.place(&e.span().unwrap_or_default());
            Error::new(&codes::CONFIG_SYNTAX, format!("{place}: {}", e.message()))
        })?;
        overrides::apply(source, table.get_mut())?;
        Self::deserialize(Deserializer::from(table)).map_err(|e| located(source, &e))
    }
}

/// An error of deserialisation with its place, and the nearest of the words that would have been right.
fn located(source: &Source, error: &toml::de::Error) -> Error {
    let span = error.span().unwrap_or_default();
    let place = source.place(&span);
    let message = error.message();
    // serde's sentence is "unknown field `x`, expected one of `a`, `b`": the first word is the wrong one.
    let mut words = message.split('`').skip(1).step_by(2);
    let refused = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (Some(word), true) = (words.next(), refused) else {
        return Error::new(&codes::CONFIG_VALUE, format!("{place}: {message}"));
    };
    let known: Vec<&str> = words.collect();
    let (code, what) = match message.starts_with("unknown field") {
        true => (&codes::CONFIG_KEY, format!("unknown key `{word}`")),
        false => (&codes::CONFIG_VALUE, format!("unknown word `{word}`")),
    };
    let list = known.join(", ");
    Error::new(code, format!("{place}: {what}")).help(match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? known: {list}"),
        None => format!("known: {list}"),
    })
}

/// A value of `params` as a parameter.
///
/// # Errors
/// `config-value` for dates and tables.
pub(super) fn param(source: &Source, span: &Range<usize>, value: &toml::Value) -> Result<ParamValue> {
    Ok(match value {
        toml::Value::Boolean(v) => ParamValue::Flag(*v),
        toml::Value::Integer(v) => ParamValue::Integer(*v),
        toml::Value::Float(v) => ParamValue::Number(*v),
        toml::Value::String(v) => ParamValue::Text(v.clone()),
        toml::Value::Array(values) => {
            ParamValue::List(values.iter().map(|v| param(source, span, v)).collect::<Result<_>>()?)
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => {
            let message = format!(
                "{}: a parameter takes a flag, a number, a text or a list of these, found a {}",
                source.place(span),
                value.type_str()
            );
            return Err(Error::new(&codes::CONFIG_VALUE, message));
        }
    })
}

/// A parameter as a value of TOML.
pub(super) fn value(param: &ParamValue) -> toml::Value {
    match param {
        ParamValue::Flag(v) => toml::Value::Boolean(*v),
        ParamValue::Integer(v) => toml::Value::Integer(*v),
        ParamValue::Number(v) => toml::Value::Float(*v),
        ParamValue::Text(v) => toml::Value::String(v.clone()),
        ParamValue::List(values) => toml::Value::Array(values.iter().map(value).collect()),
    }
}
