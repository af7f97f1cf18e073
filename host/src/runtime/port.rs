//! The inputs and outputs of a program, and the check that values fit them: the runtime itself would accept some wrong
//! ones, and explains the others badly.

use std::collections::BTreeMap;
use std::fmt;

use ort::value::ValueType;

use super::codes;
use super::value::{DType, Value};
use crate::base::{Error, Result};

/// One extent of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this.
    Fixed(usize),
    /// The same wherever the name stands in one call.
    Named(String),
    /// Any.
    Free,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(extent) => write!(f, "{extent}"),
            Self::Named(name) => f.write_str(name),
            Self::Free => f.write_str("?"),
        }
    }
}

/// An input or output of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its extents, outermost first; empty for a scalar.
    pub dims: Vec<Dim>,
    /// True for an input that has a default, which stands when it is not fed.
    pub optional: bool,
}

impl Port {
    pub(super) fn new(name: &str, ty: &ValueType, optional: bool) -> Self {
        let (dtype, dims) = match ty {
            ValueType::Tensor { ty, shape, dimension_symbols } => {
                let dim = |(i, &extent): (usize, &i64)| match usize::try_from(extent) {
                    Ok(extent) => Dim::Fixed(extent),
                    Err(_) => match dimension_symbols.get(i).filter(|name| !name.is_empty()) {
                        Some(name) => Dim::Named(name.clone()),
                        None => Dim::Free,
                    },
                };
                (DType::from(*ty), shape.iter().enumerate().map(dim).collect())
            }
            _ => (DType::Other, Vec::new()),
        };
        Self { name: name.to_owned(), dtype, dims, optional }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.dims.iter().map(Dim::to_string).collect();
        write!(f, "{}: {}[{}]", self.name, self.dtype, dims.join(", "))
    }
}

/// Checks a call before the runtime sees it.
pub(super) fn check(inputs: &[Port], outputs: &[Port], feeds: &[(&str, &Value)], fetch: &[&str]) -> Result<()> {
    let names = |ports: &[Port]| ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let refuse = |what: String| Err(Error::new(&codes::PROGRAM_PORT, what));
    let mut extents: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (i, (name, value)) in feeds.iter().enumerate() {
        let Some(port) = inputs.iter().find(|p| p.name == *name) else {
            return refuse(format!("the graph has no input `{name}`; it has: {}", names(inputs)));
        };
        if feeds[..i].iter().any(|(other, _)| other == name) {
            return refuse(format!("the input `{name}` is fed twice"));
        }
        check_feed(port, value, &mut extents)?;
    }
    for port in inputs.iter().filter(|p| !p.optional) {
        if !feeds.iter().any(|(name, _)| *name == port.name) {
            return refuse(format!("the input `{port}` is not fed"));
        }
    }
    for (i, name) in fetch.iter().enumerate() {
        if !outputs.iter().any(|p| p.name == *name) {
            return refuse(format!("the graph has no output `{name}`; it has: {}", names(outputs)));
        }
        if fetch[..i].contains(name) {
            return refuse(format!("the output `{name}` is asked for twice"));
        }
    }
    if fetch.is_empty() { refuse("no output is asked for".to_owned()) } else { Ok(()) }
}

fn check_feed<'a>(port: &'a Port, value: &Value, extents: &mut BTreeMap<&'a str, (usize, &'a str)>) -> Result<()> {
    let refuse = |why: String| {
        let found = format!("{}{:?}", value.dtype(), value.shape());
        Err(Error::new(&codes::PROGRAM_FEED, format!("the input `{port}` was fed {found}: {why}")))
    };
    if value.dtype() != port.dtype || port.dtype == DType::Other {
        return refuse(format!("expected elements of {}", port.dtype));
    }
    if value.shape().len() != port.dims.len() {
        return refuse(format!("expected rank {}", port.dims.len()));
    }
    for (axis, (&found, dim)) in value.shape().iter().zip(&port.dims).enumerate() {
        match dim {
            Dim::Fixed(extent) if *extent != found => return refuse(format!("expected {extent} at axis {axis}")),
            Dim::Named(name) => {
                let (extent, first) = *extents.entry(name).or_insert((found, &port.name));
                if extent != found {
                    return refuse(format!("expected {extent} at axis {axis}, as `{name}` is in `{first}`"));
                }
            }
            Dim::Fixed(_) | Dim::Free => {}
        }
    }
    Ok(())
}
