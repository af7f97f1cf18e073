//! The identities that hold between the parts of a decoder, computed on recorded activations: what `inspect --check`
//! prints. An anatomy that names a wrong edge fails them.

mod activation;
mod block;
mod ends;
mod formulas;

use std::collections::BTreeMap;

use engraft_plugin_api::{BlockSite, Site, Tensor, WeightRef};
use ndarray::{Array1, Array2, ArrayView2, ArrayView4, Ix4};
use serde::Serialize;

pub use self::activation::activations;
use super::codes;
use super::parts::Anatomy;
use crate::base::{Error, Result};

/// How far one identity is from holding in one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// The identity in the vocabulary of sites and weights.
    pub identity: &'static str,
    /// The block, for identities inside one.
    pub layer: Option<usize>,
    /// The largest absolute difference between both sides.
    pub error: f32,
    /// The largest absolute value of the left side; the error is to be judged against it.
    pub scale: f32,
}

/// Checks every identity whose parts the graph has.
///
/// `tokens` and `positions` are what the run was given, `i64[batch, pos]`, without padding: a query that attends
/// nowhere has no weights that sum to 1. `taps` runs the model and returns the activations at the sites in order;
/// it is asked once for the ends and once for every block, so that one block's activations are held at a time.
/// `weights` returns a weight as methods see it: `[in, out]`, vectors `[out]` or `[1, out]`.
///
/// # Errors
/// `anatomy-check-shape` if an activation or weight has another shape than the anatomy says, and what the two
/// sources return.
pub fn identities(
    anatomy: &Anatomy,
    tokens: &Tensor,
    positions: &Tensor,
    mut taps: impl FnMut(&[Site]) -> Result<Vec<Tensor>>,
    weights: impl Fn(WeightRef) -> Result<Tensor>,
) -> Result<Vec<Deviation>> {
    let weight = |w: WeightRef| anatomy.weights.contains_key(&w).then(|| weights(w)).transpose();
    let weight = Weights { read: &weight };
    let mut rows = Vec::new();
    let blocks = (0..anatomy.layers).map(|l| (Some(l), BlockSite::ALL.map(|s| Site::Block(l, s)).to_vec()));
    let ends = (None, vec![Site::Embed, Site::LnFinal, Site::Logits]);
    for (layer, mut wanted) in std::iter::once(ends).chain(blocks) {
        if layer.is_none() && anatomy.layers > 0 {
            wanted.push(Site::Block(anatomy.layers - 1, BlockSite::ResidPost));
        }
        wanted.retain(|site| anatomy.sites.contains_key(site));
        let values = taps(&wanted)?;
        if values.len() != wanted.len() {
            let text = format!("{} sites were asked for and {} activations came", wanted.len(), values.len());
            return Err(Error::new(&codes::CHECK_SHAPE, text));
        }
        let at = Activations { values: wanted.into_iter().zip(values).collect() };
        let mut report = Report { layer, rows: &mut rows };
        match layer {
            None => ends::check(anatomy, tokens, positions, &at, &weight, &mut report)?,
            Some(layer) => block::check(anatomy, layer, &at, &weight, &mut report)?,
        }
    }
    Ok(rows)
}

fn shape(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(&codes::CHECK_SHAPE, "an activation or weight has another shape or type than the anatomy says")
        .because(error)
}

/// The activations of one run.
struct Activations {
    values: BTreeMap<Site, Tensor>,
}

impl Activations {
    /// One row a token; heads side by side.
    fn rows(&self, site: Site) -> Result<Option<ArrayView2<'_, f32>>> {
        let Some(tensor) = self.values.get(&site) else { return Ok(None) };
        let [batch, pos, ..] = *tensor.shape() else {
            let text = format!("`{site}` has the shape {:?}, expected [batch, pos, ...]", tensor.shape());
            return Err(Error::new(&codes::CHECK_SHAPE, text));
        };
        let width = tensor.len() / (batch * pos).max(1);
        let values = tensor.as_f32().map_err(shape)?;
        ArrayView2::from_shape((batch * pos, width), values).map(Some).map_err(shape)
    }

    /// All four axes.
    fn heads(&self, site: Site) -> Result<Option<ArrayView4<'_, f32>>> {
        let Some(tensor) = self.values.get(&site) else { return Ok(None) };
        tensor.view().map_err(shape)?.into_dimensionality::<Ix4>().map(Some).map_err(shape)
    }
}

/// The weights that the graph has.
struct Weights<'a> {
    read: &'a dyn Fn(WeightRef) -> Result<Option<Tensor>>,
}

impl Weights<'_> {
    fn matrix(&self, weight: WeightRef) -> Result<Option<Array2<f32>>> {
        let Some(tensor) = (self.read)(weight)? else { return Ok(None) };
        tensor.matrix().map(|m| Some(m.to_owned())).map_err(shape)
    }

    fn vector(&self, weight: WeightRef, width: usize) -> Result<Option<Array1<f32>>> {
        let Some(tensor) = (self.read)(weight)? else { return Ok(None) };
        let values = tensor.into_f32().map_err(shape)?;
        if values.len() == width {
            return Ok(Some(Array1::from(values)));
        }
        let text = format!("`{weight}` has {} values, expected {width}", values.len());
        Err(Error::new(&codes::CHECK_SHAPE, text))
    }
}

/// Where deviations are collected.
struct Report<'a> {
    layer: Option<usize>,
    rows: &'a mut Vec<Deviation>,
}

impl Report<'_> {
    fn compare(&mut self, identity: &'static str, found: ArrayView2<'_, f32>, made: &Array2<f32>) -> Result<()> {
        if found.dim() != made.dim() {
            let text = format!("`{identity}`: the left side is {:?}, the right side {:?}", found.dim(), made.dim());
            return Err(Error::new(&codes::CHECK_SHAPE, text));
        }
        // A value that is not a number must not pass as a small difference.
        let largest = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
        let error = found.iter().zip(made).map(|(a, b)| (a - b).abs()).fold(0.0, largest);
        let scale = found.iter().map(|v| v.abs()).fold(0.0, largest);
        self.rows.push(Deviation { identity, layer: self.layer, error, scale });
        Ok(())
    }
}
