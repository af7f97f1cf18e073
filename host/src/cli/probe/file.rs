//! The file of a probe: safetensors, with what it is in the metadata under `engraft`, as one JSON text.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::Dtype;
use safetensors::{View, serialize};
use serde::Serialize;

use super::super::codes;
use super::work::Array;
use crate::base::{Error, Result, atomic};
use crate::model::Model;

/// The losses of a probe, in nats.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Loss {
    pub(super) token: u32,
    /// The loss that was differentiated.
    pub(super) mean: f64,
    /// One for each row.
    pub(super) rows: Vec<f32>,
}

impl Loss {
    pub(super) fn of(token: u32, rows: &[f32]) -> Self {
        let mean = rows.iter().map(|&v| f64::from(v)).sum::<f64>() / rows.len() as f64;
        Self { token, mean, rows: rows.to_vec() }
    }
}

#[derive(Serialize)]
struct About<'a> {
    format: u32,
    engraft: &'static str,
    model: String,
    patches: Vec<String>,
    lengths: &'a [usize],
    padding: &'static str,
    nll: Option<&'a Loss>,
}

/// Writes the tensors, whole or not at all.
pub(super) fn write(
    path: &Path,
    model: &Model,
    lengths: &[usize],
    nll: Option<&Loss>,
    tensors: &BTreeMap<String, Array>,
) -> Result<()> {
    let about = About {
        format: 1,
        engraft: env!("CARGO_PKG_VERSION"),
        model: model.hash()?.to_string(),
        patches: model.patches().iter().map(|(id, _)| id.to_string()).collect(),
        lengths,
        padding: "rows are padded on the right to the longest; padded positions hold zeros",
        nll,
    };
    let about = serde_json::to_string(&about).map_err(|e| unfit(&e.to_string()))?;
    let views = tensors.iter().map(|(name, values)| (name, Floats(values)));
    let bytes = serialize(views, Some(HashMap::from([("engraft".to_owned(), about)])));
    atomic::write_bytes(path, &bytes.map_err(|e| unfit(&e.to_string()))?)
}

/// What cannot be put into a tensor of the file.
pub(super) fn unfit(why: &str) -> Error {
    Error::new(&codes::PROBE_SHAPE, format!("a result does not have the shape that the anatomy says: {why}"))
}

/// A tensor as the library takes it.
struct Floats<'a>(&'a Array);

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.0.len() * size_of::<f32>()
    }
}
