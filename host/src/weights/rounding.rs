//! What is lost of a delta where the weight that it is added to is kept in fewer bits than float32.

use std::fmt;

use engraft_plugin_api::WeightRef;
use serde::{Deserialize, Serialize};

/// What rounding takes from the delta of one weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rounding {
    /// The weight.
    #[serde(with = "spelled")]
    pub weight: WeightRef,
    /// The element type that the weight is kept in.
    pub kept_in: String,
    /// The norm of what rounding weight and delta together takes away, over the norm of the delta: 0 loses nothing; 1
    /// is a delta that is lost whole.
    pub loss: f64,
    /// How many numbers of the weight become others.
    pub changed: u64,
}

impl Rounding {
    /// Rounds `base + delta`, float32 values in the same order, to what `round` keeps of a number. `base` is kept as it
    /// is. A delta of zeros loses nothing; what does not fit the type is an infinite loss.
    pub fn of(weight: WeightRef, kept_in: &str, base: &[f32], delta: &[f32], round: impl Fn(f32) -> f32) -> Self {
        let (mut lost, mut norm, mut changed) = (0.0, 0.0, 0);
        for (&b, &d) in base.iter().zip(delta) {
            let kept = round(b + d);
            lost += (f64::from(kept) - (f64::from(b) + f64::from(d))).powi(2);
            norm += f64::from(d).powi(2);
            changed += u64::from(kept != b);
        }
        let loss = if norm > 0.0 { (lost / norm).sqrt() } else { 0.0 };
        Self { weight, kept_in: kept_in.to_owned(), loss, changed }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weight, kept_in, loss, changed } = self;
        match changed {
            0 => write!(f, "rounding to {kept_in} leaves nothing of the delta of {weight}"),
            _ => write!(f, "rounding to {kept_in} takes {:.2} % of the delta of {weight}", 100.0 * loss),
        }
    }
}

/// A weight by its name.
mod spelled {
    use engraft_plugin_api::WeightRef;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(weight: &WeightRef, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(weight)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<WeightRef, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::Role;

    use super::*;

    #[test]
    fn a_delta_below_half_a_step_is_lost_whole() {
        let weight = WeightRef::Block(1, Role::MlpOut);
        // Steps of 1/4: 1.1 becomes 1.0, 2.3 becomes 2.25.
        let round = |v: f32| (v * 4.0).round() / 4.0;
        let none = Rounding::of(weight, "quarters", &[1.0, 2.0], &[0.1, -0.1], round);
        assert_eq!((none.loss, none.changed), (1.0, 0));
        let some = Rounding::of(weight, "quarters", &[1.0, 2.0], &[0.0, 0.3], round);
        assert!((some.loss - 0.05 / 0.3).abs() < 1e-6 && some.changed == 1, "{some:?}");
        let text = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<Rounding>(&text).unwrap(), some);
    }
}
