//! What the identities are made of: linear maps, norms, mixing and sums on recorded activations.

use engraft_plugin_api::{Tensor, WeightRef};
use ndarray::{Array2, Array4, ArrayView2, ArrayView4, Axis, s};

use super::{Report, Weights, shape};
use crate::anatomy::codes;
use crate::anatomy::parts::NormFacts;
use crate::base::{Error, Result};

/// y = xW + b, where the graph has all of x, y and W; a bias that it does not have is zero.
pub(super) fn linear(
    identity: &'static str,
    x: Option<ArrayView2<'_, f32>>,
    y: Option<ArrayView2<'_, f32>>,
    [w, b]: [WeightRef; 2],
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    let (Some(x), Some(y)) = (x, y) else { return Ok(()) };
    let Some(made) = product(x, [w, b], weight)? else { return Ok(()) };
    report.compare(identity, y, &made)
}

/// xW + b; a bias that the graph does not have is zero.
pub(super) fn product(
    x: ArrayView2<'_, f32>,
    [w, b]: [WeightRef; 2],
    weight: &Weights<'_>,
) -> Result<Option<Array2<f32>>> {
    let Some(matrix) = weight.matrix(w)? else { return Ok(None) };
    if x.ncols() != matrix.nrows() {
        let text = format!("`{w}` takes {} values and the activation before it has {}", matrix.nrows(), x.ncols());
        return Err(Error::new(&codes::CHECK_SHAPE, text));
    }
    let mut made = x.dot(&matrix);
    if let Some(bias) = weight.vector(b, made.ncols())? {
        made += &bias;
    }
    Ok(Some(made))
}

/// The norm of every row, in double precision, of a graph that says how it is computed.
pub(super) fn norm(
    identity: &'static str,
    facts: Option<&NormFacts>,
    x: Option<ArrayView2<'_, f32>>,
    y: Option<ArrayView2<'_, f32>>,
    [w, b]: [WeightRef; 2],
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    let (Some(x), Some(y), Some(facts)) = (x, y, facts) else { return Ok(()) };
    let scale = weight.vector(w, x.ncols())?.map(|w| w + facts.offset);
    let shift = weight.vector(b, x.ncols())?;
    let mut made = x.to_owned();
    for mut row in made.rows_mut() {
        let average = |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(f64::from(v))).sum::<f64>() / row.len() as f64;
        let mean = if facts.centred { average(&|v| v) } else { 0.0 };
        let deviation = (average(&|v| (v - mean).powi(2)) + f64::from(facts.epsilon)).sqrt();
        row.mapv_inplace(|v| ((f64::from(v) - mean) / deviation) as f32);
        if let Some(scale) = &scale {
            row *= scale;
        }
        if let Some(shift) = &shift {
            row += shift;
        }
    }
    report.compare(identity, y, &made)
}

/// Attention weights `[batch, head, query, key]` times values `[batch, key, kv_head, d_head]`: `[batch, query, head,
/// d_head]`.
pub(super) fn mix(pattern: &ArrayView4<'_, f32>, v: &ArrayView4<'_, f32>) -> Result<Array4<f32>> {
    let (batch, heads, queries, keys) = pattern.dim();
    let (rows, places, shared, width) = v.dim();
    if rows != batch || places != keys || shared == 0 || heads % shared != 0 {
        let text = format!("attention weights {:?} do not fit values {:?}", pattern.shape(), v.shape());
        return Err(Error::new(&codes::CHECK_SHAPE, text));
    }
    let mut out = Array4::zeros((batch, queries, heads, width));
    for row in 0..batch {
        for head in 0..heads {
            let values = v.slice(s![row, .., head / (heads / shared), ..]);
            out.slice_mut(s![row, .., head, ..]).assign(&pattern.slice(s![row, head, .., ..]).dot(&values));
        }
    }
    Ok(out)
}

/// The rows of a table by number.
pub(super) fn pick(table: &Array2<f32>, numbers: &Tensor, name: &str) -> Result<Array2<f32>> {
    let mut rows = Vec::new();
    for &number in numbers.as_i64().map_err(shape)? {
        match usize::try_from(number) {
            Ok(row) if row < table.nrows() => rows.push(row),
            _ => {
                let text = format!("row {number} of `{name}` was asked for, it has {} rows", table.nrows());
                return Err(Error::new(&codes::CHECK_SHAPE, text));
            }
        }
    }
    Ok(table.select(Axis(0), &rows))
}

pub(super) fn sum(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
    if a.dim() == b.dim() {
        return Ok(&a + &b);
    }
    let text = format!("activations {:?} and {:?} of the residual stream differ in shape", a.dim(), b.dim());
    Err(Error::new(&codes::CHECK_SHAPE, text))
}
