//! The mathematics that editing methods share: where the fact token stands, what the target's tokens are, keys and
//! values read from the model, the search for a target value, covariance, solves, and what trainings need.
//!
//! Everything here talks to the host through [`ModelAccess`](engraft_plugin_api::ModelAccess) and holds no model.
//! Chapters of the literature are cited where a line implements an equation.

pub mod adam;
pub mod covariance;
pub mod graph;
pub mod prefixes;
pub mod random;
pub mod reading;
pub mod scope;
pub mod solve;
pub mod subject;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod train;
pub mod value;

pub use adam::Adam;
pub use covariance::Covariances;
pub use graph::GraphBuilder;
pub use prefixes::Prefixes;
pub use random::Random;
pub use reading::{Reading, log_softmax, read};
pub use solve::SpdFactor;
pub use subject::{FactToken, PromptRow, prompt_row, subject_row};
pub use target::{ForcedRow, forced_row, target_ids};
pub use value::{FoundValue, KlAnchor, Losses, ValueProblem, ValueSearch, find_value, sum_places};

use engraft_plugin_api::{MethodError, ModelAccess};

/// Returns [`MethodError::cancelled`] once the user has asked to stop.
///
/// # Errors
/// `cancelled`.
pub fn check_cancelled(access: &dyn ModelAccess) -> Result<(), MethodError> {
    if access.cancelled() { Err(MethodError::cancelled()) } else { Ok(()) }
}

/// The error of a host whose reply does not have the promised shape.
pub(crate) fn reply_shape(what: &str, expected: &[usize], found: &[usize]) -> MethodError {
    MethodError::new("reply-shape", format!("the host's {what} has shape {found:?}, expected {expected:?}"))
}
