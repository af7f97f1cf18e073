//! Changes: what a method proposes, as data. The host checks, applies, journals and undoes them.
//!
//! One call of [`edit`](crate::EditMethod::edit) gives one patch: all its changes are committed and rolled back
//! together, in any order with other patches.

mod slots;
pub mod splice;

pub use slots::{Activation, SlotGate, Slots};
pub use splice::Splice;

use crate::site::Site;
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// One thing a method proposes to do to the model. A host applies all changes of a patch, or refuses it whole.
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
    /// Adds neurons to an MLP; the weights stay.
    Slots(Slots),
    /// Puts a graph of the method's own between a site and its readers.
    Splice(Splice),
    /// Has [`intercept`](crate::EditMethod::intercept) called at these sites for rows that see this patch.
    Intercept {
        /// Where, each at most once.
        sites: Vec<Site>,
        /// As [`Splice::whole_rows`].
        whole_rows: bool,
    },
    /// Has [`route`](crate::EditMethod::route) asked once for each request that could see this patch.
    Route,
    /// The method's own bytes for this edit, handed back to it wherever the patch is. At most one in a patch.
    State(Vec<u8>),
    /// Adds to a running statistic of the method, which [`ModelAccess::statistic`](crate::ModelAccess::statistic)
    /// gives back as the fold over the active patches: a patch rolled back takes its part with it.
    Statistic(Increment),
}

impl Change {
    /// The tensors in the order in which gradients with respect to them are returned: of a delta as
    /// [`Delta::tensors`], of slots as [`Slots::tensors`], of a splice its tables of floats.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Weight { delta, .. } => delta.tensors(),
            Self::Slots(slots) => slots.tensors(),
            Self::Splice(splice) => {
                splice.tables.iter().map(|table| &table.value).filter(|value| value.as_f32().is_ok()).collect()
            }
            Self::Intercept { .. } | Self::Route | Self::State(_) | Self::Statistic(_) => Vec::new(),
        }
    }
}

/// One patch's part of something that is a fold over the active patches, in the order of their commits.
#[derive(Clone, Debug, PartialEq)]
pub struct Increment {
    /// What it is part of. Parts of one name have one fold, one element type and shapes that fit it.
    pub name: String,
    /// How the parts become one.
    pub fold: Fold,
    /// The part.
    pub value: Tensor,
}

/// How parts become one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// Added, element by element: all parts have the same shape.
    Sum,
    /// Laid one after the other along the first axis: parts have the same extents along all others.
    Stack,
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
