//! The numbers of a case, and their means.

use serde::{Deserialize, Serialize};

use super::{Observation, Pair, accuracy, generalization, locality};

/// How a probe is judged. Regimes are never mixed in one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// Comparison of probabilities: ES, PS and NS of Meng et al. 2022.
    Probability,
    /// Every token, teacher-forced.
    Argmax,
    /// The mean over tokens, teacher-forced.
    TokenMean,
}

impl Regime {
    /// Every regime, the one that counts first.
    pub const ALL: [Self; 3] = [Self::Argmax, Self::Probability, Self::TokenMean];

    /// Its key in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probability => "probability",
            Self::Argmax => "argmax",
            Self::TokenMean => "token_mean",
        }
    }

    /// What it counts, in a sentence.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Probability => {
                "A probe counts if the expected continuation has a higher mean log-probability per token than its \
                 rival (ES, PS, NS)."
            }
            Self::Argmax => {
                "A probe counts if every target token is the most probable one under teacher forcing; for locality, \
                 if every one is what the unedited model had there (`correct` asks for the truth instead)."
            }
            Self::TokenMean => "The share of target tokens that count by `argmax`.",
        }
    }
}

/// One property in the three regimes, which are never mixed; shares in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// The expected continuation is more probable than its rival (ES, PS, NS); absent where no probe has a rival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Every token is the most probable one under teacher forcing. For locality: the one that the unedited model
    /// had.
    pub argmax: f64,
    /// The share of such tokens.
    pub token_mean: f64,
    /// Locality only: every token of the truth is the most probable one, whatever the unedited model said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correctness: Option<f64>,
}

impl Shares {
    /// The share in one regime.
    pub fn share(&self, regime: Regime) -> Option<f64> {
        match regime {
            Regime::Probability => self.probability,
            Regime::Argmax => Some(self.argmax),
            Regime::TokenMean => Some(self.token_mean),
        }
    }

    /// The shares of probes by what is expected of them, each probe with the same weight; `None` without probes.
    pub(super) fn of_targets(pairs: &[Pair]) -> Option<Self> {
        Some(Self {
            probability: mean(pairs.iter().filter_map(Pair::preferred)),
            argmax: mean(pairs.iter().map(|p| p.expected.exact()))?,
            token_mean: mean(pairs.iter().map(|p| p.expected.hits()))?,
            correctness: None,
        })
    }

    fn mean(all: &[Self]) -> Option<Self> {
        Some(Self {
            probability: mean(all.iter().filter_map(|s| s.probability)),
            argmax: mean(all.iter().map(|s| s.argmax))?,
            token_mean: mean(all.iter().map(|s| s.token_mean))?,
            correctness: mean(all.iter().filter_map(|s| s.correctness)),
        })
    }
}

/// The mean of numbers, each with the same weight; `None` of none.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

/// The properties of a case. A property without probes is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The edit at its own prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Shares>,
    /// The edit at its paraphrases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generalization: Option<Shares>,
    /// The neighbours of the edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Shares>,
}

impl Scores {
    /// The scores of an observation; `unedited` is the observation of the same record by the unedited model.
    pub fn of(unedited: &Observation, observed: &Observation) -> Self {
        Self {
            accuracy: accuracy(observed),
            generalization: generalization(observed),
            locality: locality(unedited, observed),
        }
    }

    /// The means over records, each property over the records that have it.
    pub fn mean(all: &[Self]) -> Self {
        let over =
            |property: fn(&Self) -> Option<Shares>| Shares::mean(&all.iter().filter_map(property).collect::<Vec<_>>());
        Self {
            accuracy: over(|s| s.accuracy),
            generalization: over(|s| s.generalization),
            locality: over(|s| s.locality),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Scored;

    fn scored(nll: f32, tokens: &[u32], predicted: &[u32]) -> Scored {
        Scored { tokens: tokens.into(), log_probs: vec![-nll; tokens.len()], predicted: predicted.into() }
    }

    fn pair(expected: Scored, rival_nll: f32) -> Pair {
        Pair { expected, rival: Some(scored(rival_nll, &[9], &[0])) }
    }

    /// Two tokens of which the second is wrong, still more probable per token than the rival; two paraphrases of which
    /// one holds; three neighbours: one untouched, one untouched though wrong, one half changed.
    fn observations() -> (Observation, Observation) {
        let after = Observation {
            rewrite: pair(scored(1.0, &[1, 2], &[1, 3]), 1.5),
            paraphrases: vec![pair(scored(0.1, &[1, 2], &[1, 2]), 2.0), pair(scored(3.0, &[1, 2], &[5, 2]), 2.0)],
            neighbours: vec![
                pair(scored(0.1, &[7], &[7]), 4.0),
                pair(scored(5.0, &[7], &[6]), 4.0),
                pair(scored(1.0, &[7, 8], &[7, 1]), 4.0),
            ],
        };
        let mut before = after.clone();
        before.neighbours[2] = pair(scored(0.1, &[7, 8], &[7, 8]), 4.0);
        (before, after)
    }

    #[test]
    fn each_regime_is_what_its_definition_says() {
        let (before, after) = observations();
        let scores = Scores::of(&before, &after);
        let shares = |probability: f64, argmax: f64, token_mean: f64, correctness: Option<f64>| {
            Some(Shares { probability: Some(probability), argmax, token_mean, correctness })
        };
        assert_eq!(scores.accuracy, shares(1.0, 0.0, 0.5, None));
        assert_eq!(scores.generalization, shares(0.5, 0.5, 0.75, None));
        assert_eq!(scores.locality, shares(2.0 / 3.0, 2.0 / 3.0, 2.5 / 3.0, Some(1.0 / 3.0)));
        let unedited = Scores::of(&before, &before).locality;
        assert_eq!(unedited, shares(2.0 / 3.0, 1.0, 1.0, Some(2.0 / 3.0)));
    }

    #[test]
    fn means_are_over_records_not_probes() {
        let (before, after) = observations();
        let many = Scores::of(&before, &after);
        let mut few = after.clone();
        few.paraphrases.truncate(1);
        let few = Scores::of(&before, &few);
        let mut none = after;
        (none.paraphrases, none.neighbours) = (Vec::new(), Vec::new());
        let none = Scores::of(&none, &none);
        assert_eq!((none.generalization, none.locality), (None, None));
        let mean = Scores::mean(&[many, few, none]);
        assert_eq!(mean.generalization.map(|s| s.argmax), Some(0.75));
        assert_eq!(mean.accuracy, many.accuracy);
        assert_eq!(Scores::mean(&[]), Scores::default());
    }

    #[test]
    fn without_a_rival_there_is_no_comparison() {
        let (_, mut after) = observations();
        after.rewrite.rival = None;
        let accuracy = Scores::of(&after, &after).accuracy;
        assert_eq!(accuracy.and_then(|s| s.probability), None);
        assert_eq!(serde_json::to_value(accuracy).unwrap(), serde_json::json!({"argmax": 0.0, "token_mean": 0.5}));
    }
}
