//! Rows of tokens as the inputs of a decoder: right-padded, with mask and positions where the graph asks for them,
//! and with nothing cached where it takes cached keys and values.

use engraft_plugin_api::Tensor;
use half::f16;

use crate::anatomy::Fixed;
use crate::base::{Error, Result};
use crate::graph::DType;
use crate::hooks::{Name, Values};
use crate::model::codes;
use crate::model::open::Model;
use crate::runtime::{self, Value};

impl Model {
    /// Checks rows and pads them to the longest.
    ///
    /// # Errors
    /// `row-empty`, `row-extent`, `row-too-long` or `token-outside`
    pub(in crate::model) fn batch(&self, rows: &[Vec<u32>]) -> Result<Values> {
        let anatomy = self.anatomy();
        if rows.is_empty() || rows.iter().any(Vec::is_empty) {
            return Err(Error::new(&codes::ROW_EMPTY, "a row of tokens is empty"));
        }
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let found = [(rows.len(), "rows"), (longest, "tokens in the longest row")];
        for (fixed, (found, what)) in anatomy.inputs.fixed.iter().zip(found) {
            if let Some(fixed) = fixed.as_ref().filter(|fixed| fixed.extent != found) {
                return Err(unfit(fixed, what, &format!("found {found}")));
            }
        }
        if let Some(context) = anatomy.context.filter(|&c| longest > c) {
            let text = format!("a row of {longest} tokens is longer than the model's context of {context}");
            return Err(Error::new(&codes::ROW_TOO_LONG, text));
        }
        if let Some(bad) = rows.iter().flatten().find(|&&t| t as usize >= anatomy.vocab) {
            let text = format!("the token {bad} is not below the {} rows of the embedding", anatomy.vocab);
            return Err(Error::new(&codes::TOKEN_OUTSIDE, text));
        }
        self.foresee(rows.len(), longest);
        let shape = [rows.len(), longest];
        let padded = |value: &dyn Fn(&[u32], usize) -> i64| {
            let flat = rows.iter().flat_map(|row| (0..longest).map(move |i| (row, i))).map(|(row, i)| value(row, i));
            flat.collect::<Vec<i64>>()
        };
        let mut values = Values::default();
        let ids = padded(&|row, i| row.get(i).map_or(0, |&t| i64::from(t)));
        values.set(&anatomy.inputs.ids, self.integers(&anatomy.inputs.ids, &shape, ids)?);
        if let Some(mask) = &anatomy.inputs.mask {
            values.set(mask, self.integers(mask, &shape, padded(&|row, i| i64::from(i < row.len())))?);
        }
        if let Some(positions) = &anatomy.inputs.positions {
            let at = padded(&|row, i| i.min(row.len() - 1) as i64);
            values.set(positions, self.integers(positions, &shape, at)?);
        }
        for idle in &anatomy.inputs.idle {
            values.set(idle, self.integers(idle, &shape, padded(&|_, _| 1))?);
        }
        let at = padded(&|row, i| if i < row.len() { i as i64 } else { -1 });
        values.set(Name::Positions, Value::i64(&shape, at)?);
        let mask = rows.iter().flat_map(|row| (0..longest).map(|i| if i < row.len() { 1.0 } else { 0.0 })).collect();
        values.set(Name::Mask, Value::f32(&shape, mask)?);
        for port in &anatomy.inputs.cache {
            values.set(&port.past, empty(port.dtype, &port.shape(rows.len(), 0))?);
        }
        Ok(values)
    }

    /// Whole numbers in the type that an input of the graph has: int64, or in some exports int32, bool or floats.
    ///
    /// # Errors
    /// If the runtime does not take them.
    pub(in crate::model) fn integers(&self, input: &str, shape: &[usize], numbers: Vec<i64>) -> Result<Value> {
        let port = self.graph().inputs().into_iter().find(|port| port.name == input);
        match port.map_or(DType::I64, |port| port.dtype) {
            DType::I32 => Value::from_tensor(&Tensor::i64(shape, numbers)?, runtime::DType::I32),
            DType::BOOL => Value::from_tensor(&Tensor::i64(shape, numbers)?, runtime::DType::Bool),
            DType::F32 => Value::f32(shape, numbers.into_iter().map(|n| n as f32).collect()),
            DType::F16 => Value::f16(shape, numbers.into_iter().map(|n| f16::from_f32(n as f32)).collect()),
            _ => Value::i64(shape, numbers),
        }
    }
}

/// The error of rows that do not have an extent that the file fixes.
pub(in crate::model) fn unfit(Fixed { input, extent }: &Fixed, what: &str, found: &str) -> Error {
    let text = format!("`{input}` was exported for exactly {extent} {what}, {found}");
    Error::new(&codes::ROW_EXTENT, text)
        .help("export the model with dynamic axes for batch and sequence, or give it rows of just that shape")
}

/// A value without any number in it.
fn empty(dtype: DType, shape: &[usize]) -> Result<Value> {
    match dtype {
        DType::F16 => Value::f16(shape, Vec::new()),
        _ => Value::f32(shape, Vec::new()),
    }
}
