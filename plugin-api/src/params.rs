//! Parameters: what a method can be told, with types, ranges and defaults, so that the host checks a configuration
//! before any model is opened.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::MethodError;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamValue {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// A real number.
    Number(f64),
    /// A word, a choice or a path.
    Text(String),
    /// Several values of one kind.
    List(Vec<ParamValue>),
}

impl fmt::Display for ParamValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(v) => write!(f, "{v}"),
            Self::Integer(v) => write!(f, "{v}"),
            Self::Number(v) => write!(f, "{v:?}"),
            Self::Text(v) => write!(f, "{v:?}"),
            Self::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// What values a parameter takes.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamKind {
    /// `true` or `false`.
    Flag,
    /// A whole number in a closed range.
    Integer {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
    },
    /// A finite real number in a closed range.
    Number {
        /// The least value.
        min: f64,
        /// The greatest value.
        max: f64,
    },
    /// A layer of the model, counted from 0; checked against the model when it is open.
    Layer,
    /// One of the listed words.
    Choice(Vec<String>),
    /// Any text.
    Text,
    /// A list whose elements are of one kind.
    List(Box<ParamKind>),
}

/// The declaration of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The key in `params = { ... }`.
    pub name: String,
    /// What it takes.
    pub kind: ParamKind,
    /// The value where none is given; `None` makes the parameter required.
    pub default: Option<ParamValue>,
    /// One sentence with unit and source.
    pub help: String,
}

impl ParamSpec {
    /// A declaration with a default.
    pub fn new(name: &str, kind: ParamKind, default: ParamValue, help: &str) -> Self {
        Self { name: name.into(), kind, default: Some(default), help: help.into() }
    }

    /// A declaration of a parameter that has to be given.
    pub fn required(name: &str, kind: ParamKind, help: &str) -> Self {
        Self { name: name.into(), kind, default: None, help: help.into() }
    }
}

/// Parameters by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(pub BTreeMap<String, ParamValue>);

impl Params {
    /// Checks given values against their declarations and fills in the defaults.
    ///
    /// # Errors
    /// `param-unknown` (with the nearest name), `param-missing`, `param-type` or `param-range`.
    pub fn resolve(given: &BTreeMap<String, ParamValue>, specs: &[ParamSpec]) -> Result<Self, MethodError> {
        for name in given.keys() {
            if !specs.iter().any(|s| &s.name == name) {
                return Err(unknown(name, specs));
            }
        }
        let mut out = BTreeMap::new();
        for spec in specs {
            let value = match given.get(&spec.name) {
                Some(value) => check(&spec.name, &spec.kind, value)?,
                None => spec.default.clone().ok_or_else(|| {
                    MethodError::new("param-missing", format!("the parameter `{}` has to be given", spec.name))
                        .help(spec.help.clone())
                })?,
            };
            out.insert(spec.name.clone(), value);
        }
        Ok(Self(out))
    }

    fn get(&self, name: &str) -> Result<&ParamValue, MethodError> {
        self.0
            .get(name)
            .ok_or_else(|| MethodError::new("param-missing", format!("the parameter `{name}` is not declared")))
    }

    /// A whole number that is not negative (an `Integer` or a `Layer`).
    ///
    /// # Errors
    /// `param-missing` or `param-type`.
    pub fn index(&self, name: &str) -> Result<usize, MethodError> {
        match self.get(name)? {
            ParamValue::Integer(v) => usize::try_from(*v).map_err(|_| wrong(name, "a number from 0", &v)),
            other => Err(wrong(name, "a whole number", other)),
        }
    }

    /// A real number.
    ///
    /// # Errors
    /// `param-missing` or `param-type`.
    pub fn number(&self, name: &str) -> Result<f64, MethodError> {
        match self.get(name)? {
            ParamValue::Number(v) => Ok(*v),
            ParamValue::Integer(v) => Ok(*v as f64),
            other => Err(wrong(name, "a number", other)),
        }
    }

    /// A flag.
    ///
    /// # Errors
    /// `param-missing` or `param-type`.
    pub fn flag(&self, name: &str) -> Result<bool, MethodError> {
        match self.get(name)? {
            ParamValue::Flag(v) => Ok(*v),
            other => Err(wrong(name, "true or false", other)),
        }
    }

    /// A word.
    ///
    /// # Errors
    /// `param-missing` or `param-type`.
    pub fn text(&self, name: &str) -> Result<&str, MethodError> {
        match self.get(name)? {
            ParamValue::Text(v) => Ok(v),
            other => Err(wrong(name, "a string", other)),
        }
    }

    /// A list of values.
    ///
    /// # Errors
    /// `param-missing` or `param-type`.
    pub fn list(&self, name: &str) -> Result<&[ParamValue], MethodError> {
        match self.get(name)? {
            ParamValue::List(v) => Ok(v),
            other => Err(wrong(name, "a list", other)),
        }
    }
}

fn wrong(name: &str, expected: &str, found: &dyn fmt::Display) -> MethodError {
    MethodError::new("param-type", format!("the parameter `{name}` takes {expected}, found {found}"))
}

fn unknown(name: &str, specs: &[ParamSpec]) -> MethodError {
    let known: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    let error = MethodError::new("param-unknown", format!("there is no parameter `{name}`"));
    match nearest(name, known.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`? known: {}", known.join(", "))),
        None => error.help(format!("known: {}", known.join(", "))),
    }
}

/// The known word that is nearest to a misspelt one, if one is near: a third of the letters may differ.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= (1 + k.chars().count().max(word.chars().count())) / 3)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn check(name: &str, kind: &ParamKind, value: &ParamValue) -> Result<ParamValue, MethodError> {
    let range = |expected: String| {
        MethodError::new("param-range", format!("the parameter `{name}` takes {expected}, found {value}"))
    };
    match (kind, value) {
        (ParamKind::Flag, ParamValue::Flag(_)) | (ParamKind::Text, ParamValue::Text(_)) => Ok(value.clone()),
        (ParamKind::Integer { min, max }, ParamValue::Integer(v)) => {
            if (min..=max).contains(&v) {
                Ok(value.clone())
            } else {
                Err(range(format!("{min} to {max}")))
            }
        }
        (ParamKind::Layer, ParamValue::Integer(v)) => {
            if *v >= 0 {
                Ok(value.clone())
            } else {
                Err(range("a layer, counted from 0".into()))
            }
        }
        (ParamKind::Number { min, max }, ParamValue::Number(_) | ParamValue::Integer(_)) => {
            let v = match value {
                ParamValue::Integer(v) => *v as f64,
                ParamValue::Number(v) => *v,
                _ => f64::NAN,
            };
            if v.is_finite() && (*min..=*max).contains(&v) {
                Ok(ParamValue::Number(v))
            } else {
                Err(range(format!("{min} to {max}")))
            }
        }
        (ParamKind::Choice(words), ParamValue::Text(v)) => {
            if words.contains(v) {
                return Ok(value.clone());
            }
            let error = range(format!("one of {}", words.join(", ")));
            Err(match nearest(v, words.iter().map(String::as_str)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error,
            })
        }
        (ParamKind::List(element), ParamValue::List(values)) => {
            Ok(ParamValue::List(values.iter().map(|v| check(name, element, v)).collect::<Result<_, MethodError>>()?))
        }
        (kind, value) => {
            let error = wrong(name, &kind.to_string(), value);
            Err(match (kind, value) {
                (ParamKind::Text | ParamKind::Choice(_), ParamValue::List(_)) => error,
                // TOML has its own mind about words like `nan` and `true`.
                (ParamKind::Text | ParamKind::Choice(_), value) => {
                    error.help(format!("write it in quotes: \"{value}\""))
                }
                _ => error,
            })
        }
    }
}

/// What it takes, in words.
impl fmt::Display for ParamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Layer => f.write_str("a layer, counted from 0"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::Text => f.write_str("a string"),
            Self::List(element) => write!(f, "a list of values, each {element}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<ParamSpec> {
        vec![
            ParamSpec::new("v_lr", ParamKind::Number { min: 0.0, max: 10.0 }, ParamValue::Number(0.5), "step size"),
            ParamSpec::required("layer", ParamKind::Layer, "the layer to edit"),
        ]
    }

    fn resolve(pairs: &[(&str, ParamValue)]) -> Result<Params, MethodError> {
        let given = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Params::resolve(&given, &specs())
    }

    #[test]
    fn defaults_are_filled_in_and_integers_widen() {
        let params = resolve(&[("layer", ParamValue::Integer(2))]).expect("resolves");
        assert_eq!((params.index("layer"), params.number("v_lr")), (Ok(2), Ok(0.5)));
        let params = resolve(&[("layer", ParamValue::Integer(2)), ("v_lr", ParamValue::Integer(1))]).expect("resolves");
        assert_eq!(params.number("v_lr"), Ok(1.0));
    }

    #[test]
    fn each_defect_has_its_code() {
        let code = |pairs: &[(&str, ParamValue)]| resolve(pairs).map_err(|e| e.code).err();
        assert_eq!(code(&[]), Some("param-missing".into()));
        assert_eq!(code(&[("layer", ParamValue::Flag(true))]), Some("param-type".into()));
        assert_eq!(code(&[("layer", ParamValue::Integer(-1))]), Some("param-range".into()));
        let error = resolve(&[("layr", ParamValue::Integer(1))]).expect_err("unknown");
        assert_eq!(error.code, "param-unknown");
        assert!(error.help.expect("has help").contains("`layer`"));
        let choice = ParamKind::Choice(vec!["nan".into()]);
        let error = check("fault", &choice, &ParamValue::Number(f64::NAN)).expect_err("is a number");
        assert_eq!((error.code.as_str(), error.help.as_deref()), ("param-type", Some("write it in quotes: \"NaN\"")));
    }

    #[test]
    fn only_near_words_are_near() {
        let near = |word: &str| nearest(word, ["rome", "layer", "delta-not-finite", "ft"]);
        for (word, expected) in [
            ("roma", Some("rome")),
            ("rom", Some("rome")),
            ("layr", Some("layer")),
            ("lyaer", Some("layer")),
            ("delta-not-finte", Some("delta-not-finite")),
            ("nope", None),
            ("grace", None),
            ("x", None),
        ] {
            assert_eq!(near(word), expected, "{word}");
        }
    }
}
