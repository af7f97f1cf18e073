//! Accuracy (reliability, efficacy): does the edit hold at its own prompt? `probability` is ES of Meng et al. 2022.

use super::{Observation, Shares};

/// The shares of one record.
pub fn accuracy(observed: &Observation) -> Option<Shares> {
    Shares::of_targets(std::slice::from_ref(&observed.rewrite))
}
