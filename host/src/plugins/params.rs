//! Parameters between TOML and the values that a method takes.

use std::collections::BTreeMap;
use std::path::Path;

use engraft_plugin_api::{Descriptor, ParamKind, ParamSpec, ParamValue, Params};
use toml::Value;

use super::codes;
use crate::base::{Error, Result, atomic};

/// Checks the table of a configuration against a method's declarations and fills in the defaults.
///
/// # Errors
/// `param-unknown`, `param-missing`, `param-type` or `param-range`; each names the method and the key.
pub fn resolve(method: &Descriptor, given: &toml::Table) -> Result<Params> {
    let mut values = BTreeMap::new();
    for (key, value) in given {
        values.insert(key.clone(), from_toml(&method.name, key, value)?);
    }
    Params::resolve(&values, &method.params).map_err(|error| {
        let code = match error.code.as_str() {
            "param-unknown" => &codes::PARAM_UNKNOWN,
            "param-missing" => &codes::PARAM_MISSING,
            "param-range" => &codes::PARAM_RANGE,
            _ => &codes::PARAM_TYPE,
        };
        let out = Error::new(code, format!("method `{}`: {}", method.name, error.message));
        match error.help {
            Some(help) => out.help(help),
            None => out,
        }
    })
}

/// The parameters of a command line: those of a preset file, then `name=value` pairs. A value is TOML; a bare word is
/// a text, and so is all that a parameter of text or words is given.
///
/// # Errors
/// `file-missing`, `file-read`, or `param-type` for what does not parse.
pub fn of_command_line(preset: Option<&Path>, pairs: &[String], specs: &[ParamSpec]) -> Result<toml::Table> {
    let mut table = toml::Table::new();
    if let Some(path) = preset {
        let bytes = atomic::read_bytes(path)?;
        table = toml::from_str(&String::from_utf8_lossy(atomic::unmarked(&bytes))).map_err(|e| {
            Error::new(&codes::PARAM_TYPE, format!("the preset `{}` is not TOML", path.display())).because(e)
        })?;
    }
    for pair in pairs {
        let (name, text) = pair.split_once('=').ok_or_else(|| {
            Error::new(&codes::PARAM_TYPE, format!("the parameter `{pair}` is not of the form name=value"))
        })?;
        let name = name.trim();
        let parsed = toml::from_str::<toml::Table>(&format!("v = {text}")).ok().and_then(|mut t| t.remove("v"));
        // `nan`, `true` and dates are no texts in TOML, and what takes texts alone takes no others.
        let words = |spec: &ParamSpec| spec.name == name && matches!(spec.kind, ParamKind::Text | ParamKind::Choice(_));
        let parsed = parsed.filter(|value| value.is_str() || !specs.iter().any(words));
        table.insert(name.to_owned(), parsed.unwrap_or_else(|| Value::String(text.to_owned())));
    }
    Ok(table)
}

/// The parameters as a table, for files that record what was run.
pub fn to_toml(params: &Params) -> toml::Table {
    params.0.iter().map(|(key, value)| (key.clone(), value_to_toml(value))).collect()
}

fn value_to_toml(value: &ParamValue) -> Value {
    match value {
        ParamValue::Flag(value) => Value::Boolean(*value),
        ParamValue::Integer(value) => Value::Integer(*value),
        ParamValue::Number(value) => Value::Float(*value),
        ParamValue::Text(value) => Value::String(value.clone()),
        ParamValue::List(values) => Value::Array(values.iter().map(value_to_toml).collect()),
    }
}

fn from_toml(method: &str, key: &str, value: &Value) -> Result<ParamValue> {
    Ok(match value {
        Value::Boolean(value) => ParamValue::Flag(*value),
        Value::Integer(value) => ParamValue::Integer(*value),
        Value::Float(value) => ParamValue::Number(*value),
        Value::String(value) => ParamValue::Text(value.clone()),
        Value::Array(values) => {
            ParamValue::List(values.iter().map(|v| from_toml(method, key, v)).collect::<Result<_>>()?)
        }
        Value::Table(_) | Value::Datetime(_) => {
            return Err(Error::new(
                &codes::PARAM_TYPE,
                format!("method `{method}`: the parameter `{key}` is given {}, which no parameter takes", {
                    if value.is_table() { "a table" } else { "a date" }
                }),
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::{Capabilities, Family};

    use super::*;

    fn method() -> Descriptor {
        let numbers = ParamKind::List(Box::new(ParamKind::Number { min: 0.0, max: 1.0 }));
        Descriptor {
            name: "rome".into(),
            version: String::new(),
            family: Family::InternalModification,
            summary: String::new(),
            paper: String::new(),
            capabilities: Capabilities::default(),
            params: vec![
                ParamSpec::required("layer", ParamKind::Layer, "the layer"),
                ParamSpec::new("mix", numbers, ParamValue::List(vec![]), "shares"),
            ],
        }
    }

    #[test]
    fn a_table_becomes_parameters_and_a_table_again() {
        let params = resolve(&method(), &"layer = 3\nmix = [0, 0.5]".parse().unwrap()).unwrap();
        assert_eq!(to_toml(&params), "layer = 3\nmix = [0.0, 0.5]".parse().unwrap());
        assert_eq!(resolve(&method(), &to_toml(&params)).unwrap(), params);
    }

    #[test]
    fn what_takes_words_is_given_words_on_a_command_line() {
        let specs = [
            ParamSpec::required("kind", ParamKind::Choice(vec!["nan".into()]), "a word"),
            ParamSpec::required("text", ParamKind::Text, "a text"),
            ParamSpec::required("layer", ParamKind::Layer, "a layer"),
        ];
        let pairs = ["kind=nan", "text=2024-01-02", "layer=3", "other=nan"].map(str::to_owned);
        let table = of_command_line(None, &pairs, &specs).unwrap();
        let text = |key: &str| table[key].as_str();
        assert_eq!(
            (text("kind"), text("text"), table["layer"].as_integer()),
            (Some("nan"), Some("2024-01-02"), Some(3))
        );
        assert!(table["other"].is_float());
        let quoted = of_command_line(None, &["text=\"a b\"".to_owned()], &specs).unwrap();
        assert_eq!(quoted["text"].as_str(), Some("a b"));
        let marked = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&marked, "\u{feff}layer = 2").unwrap();
        assert_eq!(of_command_line(Some(marked.path()), &[], &specs).unwrap()["layer"].as_integer(), Some(2));
    }

    #[test]
    fn each_defect_names_its_key() {
        let error = |text: &str| resolve(&method(), &text.parse().unwrap()).unwrap_err();
        for (text, code, key) in [
            ("", "param-missing", "layer"),
            ("layer = 1\nlayers = 2", "param-unknown", "layers"),
            ("layer = 'x'", "param-type", "layer"),
            ("layer = { of = 1 }", "param-type", "layer"),
            ("layer = 1\nmix = [[1979-05-27]]", "param-type", "mix"),
            ("layer = 1\nmix = [2.0]", "param-range", "mix"),
        ] {
            let error = error(text);
            assert_eq!(error.code().id, code, "{text}");
            assert!(error.message().contains(&format!("`{key}`")) && error.message().contains("`rome`"), "{error}");
        }
    }
}
