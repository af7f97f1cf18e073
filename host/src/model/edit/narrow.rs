//! Weights that are kept in fewer bits than float32: what is kept of a number, and what that takes from a delta.

use engraft_plugin_api::{Change, WeightRef};
use half::{bf16, f16};

use crate::base::{Error, Result};
use crate::graph::{DType, Initializer};
use crate::model::open::Model;
use crate::weights::{Overlay, PatchId, Rounding, codes as weight_codes};

/// What an element type keeps of a number.
fn kept(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Values as a tensor of an element type, each rounded once.
pub(in crate::model) fn stored(name: &str, dtype: DType, dims: &[usize], values: &[f32]) -> Initializer {
    let bytes: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => return Initializer::f32(name, dims, values),
    };
    Initializer::inline(name, dtype, dims, bytes)
}

impl Model {
    /// The distance from 1 to the next number in the coarsest floating-point type that a weight of this model is kept
    /// in: how finely its numbers can be trusted.
    pub fn roundoff(&self) -> f32 {
        let of = |dtype: DType| match dtype {
            DType::F16 => f16::EPSILON.to_f32(),
            DType::BF16 => bf16::EPSILON.to_f32(),
            _ => f32::EPSILON,
        };
        self.anatomy().weights.values().map(|w| of(w.dtype)).fold(f32::EPSILON, f32::max)
    }

    /// What an export of the base model with one committed patch would lose of its deltas, for each weight that is kept
    /// in fewer bits than float32. The running model adds low-rank deltas unrounded and loses nothing of them.
    pub fn rounding(&self, id: &PatchId) -> Vec<Rounding> {
        let journal = self.journal.lock().unwrap_or_else(|e| e.into_inner());
        let entry = journal.history().entries().iter().rfind(|e| e.patch == *id && !e.rounding.is_empty());
        entry.map(|e| e.rounding.clone()).unwrap_or_default()
    }

    /// What rounding takes from changes of the base model.
    ///
    /// # Errors
    /// `delta-too-large` if a weight with its delta does not fit its element type.
    pub(in crate::model) fn rounding_of(&self, changes: &[Change]) -> Result<Vec<Rounding>> {
        let narrow = changes.iter().any(|change| match change {
            Change::Weight { weight, .. } => self.anatomy().weight(*weight).is_ok_and(|p| p.dtype != DType::F32),
            _ => false,
        });
        if narrow { self.rounding_in(&self.overlay(&[], Some(changes))?) } else { Ok(Vec::new()) }
    }

    /// What rounding takes from a sum of patches, for each weight that is kept in fewer bits than float32.
    pub(in crate::model) fn rounding_in(&self, overlay: &Overlay) -> Result<Vec<Rounding>> {
        let mut found = Vec::new();
        let weights: std::collections::BTreeSet<WeightRef> =
            overlay.low_rank.keys().chain(overlay.dense.keys()).copied().collect();
        for weight in weights {
            let place = self.anatomy().weight(weight)?;
            let Some(sum) = overlay.dense_sum(weight, place.shape).filter(|_| place.dtype != DType::F32) else {
                continue;
            };
            let (dtype, name) = (place.dtype, place.dtype.name());
            let rounding = Rounding::of(weight, name, &self.base_weight(weight)?, &sum, |v| kept(dtype, v));
            if !rounding.loss.is_finite() {
                let text =
                    format!("with its delta `{weight}` holds numbers that {name} cannot: the largest is beyond it");
                return Err(Error::new(&weight_codes::DELTA_TOO_LARGE, text));
            }
            found.push(rounding);
        }
        Ok(found)
    }
}
