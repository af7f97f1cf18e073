//! Generalization: does the edit hold where its fact is asked in other words? `probability` is PS of Meng et al. 2022.

use super::{Observation, Shares};

/// The shares of one record, the mean over its paraphrases; `None` without paraphrases.
pub fn generalization(observed: &Observation) -> Option<Shares> {
    Shares::of_targets(&observed.paraphrases)
}
