//! Locality (specificity): are facts of other subjects untouched? `probability` is NS of Meng et al. 2022; `argmax`
//! and `token_mean` are agreement with the unedited model at the positions of the truth under teacher forcing, where a
//! wrong but unchanged answer counts; `correctness` stands beside them.

use super::scorer::agreement;
use super::scores::mean;
use super::{Observation, Pair, Shares};

/// The shares of one record, the mean over its neighbours; `None` without neighbours. `unedited` is the observation
/// of the same record by the unedited model.
pub fn locality(unedited: &Observation, observed: &Observation) -> Option<Shares> {
    let agreements: Vec<f64> = unedited
        .neighbours
        .iter()
        .zip(&observed.neighbours)
        .map(|(before, after)| agreement(&before.expected.predicted, &after.expected.predicted))
        .collect();
    Some(Shares {
        probability: mean(observed.neighbours.iter().filter_map(Pair::preferred)),
        argmax: mean(agreements.iter().map(|share| f64::from(u8::from(*share == 1.0))))?,
        token_mean: mean(agreements.iter().copied())?,
        correctness: mean(observed.neighbours.iter().map(|p| p.expected.exact())),
    })
}
