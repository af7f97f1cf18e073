//! Every delta is checked before anything sees it: the runtime would accept wrong shapes and NaN without a word.

use engraft_plugin_api::{Delta, Increment, Tensor, WeightRef};

use super::codes;
use crate::base::{Code, Error, Result};

/// A change that fits the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checked {
    /// The Frobenius norm of the delta, or of the values of slots; 0 for what the model does not compute with.
    pub norm: f64,
    /// The norm of the delta over that of the weight; 0 where there is none.
    pub ratio: f64,
}

/// Checks a delta against the shape `[in, out]` and the Frobenius norm of the weight it is for.
///
/// # Errors
/// `delta-shape`, `delta-not-finite` (with the first index and the count) or `delta-too-large`.
pub fn check_delta(
    weight: WeightRef,
    shape: [usize; 2],
    weight_norm: f64,
    delta: &Delta,
    limit: f64,
) -> Result<Checked> {
    let fail = |code: &'static Code, text: String| Err(Error::new(code, format!("the delta of `{weight}` {text}")));
    let [inputs, outputs] = shape;
    match delta {
        Delta::LowRank { left, right } => {
            let rank = right.shape().first().copied().unwrap_or(0);
            if left.shape() != [inputs, rank] || right.shape() != [rank, outputs] || rank == 0 {
                let (l, r) = (left.shape(), right.shape());
                return fail(&codes::DELTA_SHAPE, format!("is {l:?} · {r:?}, expected [{inputs}, r] · [r, {outputs}]"));
            }
        }
        Delta::Dense(dense) => {
            if dense.shape() != shape && !(inputs == 1 && dense.shape() == [outputs]) {
                return fail(&codes::DELTA_SHAPE, format!("is {:?}, expected {shape:?}", dense.shape()));
            }
        }
        Delta::Rows { rows, values } => {
            if values.shape() != [rows.len(), outputs] || rows.is_empty() {
                let text =
                    format!("has {} rows and values {:?}, expected [rows, {outputs}]", rows.len(), values.shape());
                return fail(&codes::DELTA_SHAPE, text);
            }
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            if sorted.windows(2).any(|w| w[0] == w[1]) || sorted.last().is_some_and(|&r| r >= inputs) {
                return fail(&codes::DELTA_SHAPE, format!("names rows twice or beyond {inputs}"));
            }
        }
    }
    for tensor in delta.tensors() {
        let values = tensor.as_f32().map_err(|e| Error::new(&codes::DELTA_SHAPE, e.to_string()))?;
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            let first = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
            return fail(
                &codes::DELTA_NOT_FINITE,
                format!("holds {bad} values that are not finite, the first at {first}"),
            );
        }
    }
    let norm = norm(delta);
    let ratio = if weight_norm > 0.0 { norm / weight_norm } else { f64::from(u8::from(norm > 0.0)) };
    if ratio > limit {
        return fail(
            &codes::DELTA_TOO_LARGE,
            format!("is {ratio:.1} times as large as the weight, the limit is {limit}"),
        );
    }
    Ok(Checked { norm, ratio })
}

/// Checks a part of a running statistic by itself.
///
/// # Errors
/// `statistic-part`
pub fn check_part(part: &Increment) -> Result<()> {
    let fail = |text: String| Err(Error::new(&codes::STATISTIC_PART, text));
    if part.name.is_empty() {
        return fail("a part of a running statistic without a name".into());
    }
    match part.value.as_f32() {
        Ok(values) if values.iter().any(|v| !v.is_finite()) => {
            fail(format!("a part of the running statistic `{}` holds a value that is not finite", part.name))
        }
        _ => Ok(()),
    }
}

/// The Frobenius norm; of a product without forming it: ‖LR‖² = Σ (LᵀL) ∘ (RRᵀ).
fn norm(delta: &Delta) -> f64 {
    let square = |t: &Tensor| t.as_f32().unwrap_or(&[]).iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    match delta {
        Delta::Dense(values) | Delta::Rows { values, .. } => square(values).sqrt(),
        Delta::LowRank { left, right } => {
            let (Ok(left), Ok(right)) = (left.matrix(), right.matrix()) else { return 0.0 };
            let (l, r) = (left.mapv(f64::from), right.mapv(f64::from));
            (l.t().dot(&l) * r.dot(&r.t())).sum().max(0.0).sqrt()
        }
    }
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::Role;

    use super::*;

    const W: WeightRef = WeightRef::Block(0, Role::MlpOut);

    fn low(left: &[usize], right: &[usize], fill: f32) -> Delta {
        let t = |s: &[usize]| Tensor::f32(s, vec![fill; s.iter().product()]).unwrap();
        Delta::LowRank { left: t(left), right: t(right) }
    }

    fn code(delta: &Delta) -> Option<&'static str> {
        check_delta(W, [3, 2], 1.0, delta, 100.0).err().map(|e| e.code().id)
    }

    #[test]
    fn the_norm_of_a_product_is_that_of_its_matrix() {
        let checked = check_delta(W, [3, 2], 2.0, &low(&[3, 1], &[1, 2], 0.5), 100.0).unwrap();
        assert!((checked.norm - (6.0f64 * 0.0625).sqrt()).abs() < 1e-12);
        assert!((checked.ratio - checked.norm / 2.0).abs() < 1e-12);
    }

    #[test]
    fn each_defect_is_refused() {
        assert_eq!(code(&low(&[3, 1], &[1, 2], 0.5)), None);
        assert_eq!(code(&low(&[2, 1], &[1, 3], 0.5)), Some("delta-shape"));
        assert_eq!(code(&low(&[3, 1], &[1, 2], f32::NAN)), Some("delta-not-finite"));
        assert_eq!(code(&low(&[3, 1], &[1, 2], 1e3)), Some("delta-too-large"));
        let rows = |rows: &[usize]| Delta::Rows { rows: rows.to_vec(), values: Tensor::zeros([rows.len(), 2]) };
        assert_eq!(code(&rows(&[0, 2])), None);
        assert_eq!(code(&rows(&[0, 0])), Some("delta-shape"));
        assert_eq!(code(&rows(&[3])), Some("delta-shape"));
        assert_eq!(code(&Delta::Dense(Tensor::zeros([3, 3]))), Some("delta-shape"));
    }
}
