//! A learned scope: whether a prompt asks for what an edit changed, judged by activations alone.
//!
//! A prompt is read at its last token, behind one block; no subject has to be known. A [`Metric`] makes a unit vector of
//! it, and two prompts are in one scope if the cosine of their vectors, stretched and shifted, is above 0. [`learn`] fits
//! metric, stretch and shift to the records of a training: paraphrases against neighbours, and against every other edit
//! at once, since that is how edits are held. [`Scope`] is what is left of it.

mod learn;
mod metric;
mod network;
mod pairs;
mod params;
#[cfg(test)]
mod tests;

pub use learn::learn;
pub use metric::Metric;
pub use params::ScopeParams;

use engraft_plugin_api::{BlockSite, MethodError, ModelAccess, Place, RunRequest, Site, Tap};
use ndarray::Array2;

use crate::check_cancelled;
use crate::train::Store;

/// How many prompts are read in one pass.
const ROWS: usize = 32;

/// A scope that was learnt, for the model that it was learnt on.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    layer: usize,
    metric: Metric,
}

impl Scope {
    /// Reads what [`learn`] left.
    ///
    /// # Errors
    /// `store-damaged`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MethodError> {
        let store = Store::from_bytes(bytes)?;
        Ok(Self { layer: store.number("layer")? as usize, metric: Metric::load(&store)? })
    }

    /// The bytes that [`from_bytes`](Self::from_bytes) reads.
    ///
    /// # Errors
    /// `store-damaged` if it is too large for the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, MethodError> {
        let mut store = Store::default();
        store.set_number("layer", self.layer as f64);
        self.metric.save(&mut store);
        store.to_bytes()
    }

    /// The block behind which prompts are read.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The unit vectors of prompts, `[rows.len()][d_model]`; no row is empty.
    ///
    /// # Errors
    /// Those of the host; `scope-width` on a model of another width than the scope was learnt on.
    pub fn embed(&self, access: &dyn ModelAccess, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, MethodError> {
        let read = read(access, self.layer, rows)?;
        if read.ncols() != self.metric.width() && !rows.is_empty() {
            let text =
                format!("activations are {} wide, the scope was learnt for {}", read.ncols(), self.metric.width());
            return Err(MethodError::new("scope-width", text).help("train on this model"));
        }
        Ok(read.outer_iter().map(|row| self.metric.embed(&row.to_vec())).collect())
    }

    /// How surely a prompt is in the scope of an edit, from their vectors: above 0 it is, and σ of it is a probability.
    pub fn score(&self, query: &[f32], edit: &[f32]) -> f64 {
        self.metric.score(query, edit)
    }

    /// Of several edits the one that a prompt is in the scope of, with its score: the surest one, if it is above 0. The
    /// first of equals.
    pub fn nearest<'e>(&self, query: &[f32], edits: impl IntoIterator<Item = &'e [f32]>) -> Option<(usize, f64)> {
        let scores = edits.into_iter().map(|edit| self.score(query, edit)).enumerate();
        let best = scores.fold(None, |best: Option<(usize, f64)>, (i, score)| match best {
            Some((_, least)) if score <= least => best,
            _ => Some((i, score)),
        });
        best.filter(|&(_, score)| score > 0.0)
    }
}

/// A vector as the bytes of a state.
pub fn vector_to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A vector from the bytes of a state.
///
/// # Errors
/// `scope-state` if they are not whole floats.
pub fn vector_of_bytes(bytes: &[u8]) -> Result<Vec<f32>, MethodError> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || floats.is_empty() {
        let text = format!("a state of {} bytes is not the vector of an edit", bytes.len());
        return Err(MethodError::new("scope-state", text));
    }
    Ok(floats.iter().map(|&v| f32::from_le_bytes(v)).collect())
}

/// The residual stream behind a block at the last token of each row, `[rows, d_model]`.
fn read(access: &dyn ModelAccess, layer: usize, rows: &[Vec<u32>]) -> Result<Array2<f32>, MethodError> {
    let site = Site::Block(layer, BlockSite::ResidPost);
    let (mut values, mut width) = (Vec::new(), 0);
    for chunk in rows.chunks(ROWS) {
        check_cancelled(access)?;
        let places = chunk.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len().saturating_sub(1) });
        let taps = vec![Tap { site, places: Some(places.collect()) }];
        let reply = access.run(&RunRequest { rows: chunk.to_vec(), taps, ..RunRequest::default() })?;
        let tap = reply.taps.into_iter().next();
        let tap = tap.ok_or_else(|| crate::reply_shape("answer for taps", &[1], &[0]))?;
        match tap.shape() {
            &[n, d] if n == chunk.len() && (width == 0 || width == d) => width = d,
            found => return Err(crate::reply_shape("activation", &[chunk.len(), width], found)),
        }
        values.extend(tap.into_f32()?);
    }
    Array2::from_shape_vec((rows.len(), width), values).map_err(|e| MethodError::new("reply-shape", e.to_string()))
}
