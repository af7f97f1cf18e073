//! Changes: what a method proposes, as data. The host checks, applies, journals and undoes them.

use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// One thing a method proposes to do to the model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Adds a delta to a weight.
    Weight {
        /// Which weight.
        weight: WeightRef,
        /// What is added to it.
        delta: Delta,
    },
}

/// A sum to a weight `W[in, out]` (vectors count as `[1, out]`).
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// `W + left · right`.
    LowRank {
        /// `[in, rank]`
        left: Tensor,
        /// `[rank, out]`
        right: Tensor,
    },
    /// `W + delta`.
    Dense(
        /// The shape of the weight.
        Tensor,
    ),
    /// `W[rows[i], :] + values[i, :]`.
    Rows {
        /// Indices along `in`, each at most once.
        rows: Vec<usize>,
        /// `[rows.len(), out]`
        values: Tensor,
    },
}

impl Delta {
    /// The tensors in the order in which gradients with respect to them are returned.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::LowRank { left, right } => vec![left, right],
            Self::Dense(delta) => vec![delta],
            Self::Rows { values, .. } => vec![values],
        }
    }
}
