//! Losses on logits, each with its derivative in closed form.
//!
//! Both keep one row for each place of the loss: terms come out unweighted, in nats, and the cotangent is that of
//! Σ weight · term. Log-probabilities come from LogSoftmax, so nothing overflows; no row at all is allowed. Everything
//! is computed in float32, whatever the type of the logits.

use engraft_plugin_api::KlDirection;

use crate::base::Result;
use crate::graph::{Attr, DType, Patch};

/// A loss that was added to a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossNodes {
    /// The terms `[m]`, unweighted, in nats.
    pub terms: String,
    /// The derivative of Σ weight · term with respect to the logits, `[m, vocab]`.
    pub cotangent: String,
}

fn log_softmax(patch: &mut Patch<'_>, logits: &str) -> Result<String> {
    let wide = patch.op("Cast", &[logits], &[("to", Attr::Int(i64::from(DType::F32.0)))])?;
    patch.op("LogSoftmax", &[&wide], &[("axis", Attr::Int(-1))])
}

/// Adds −log p(target) of each row.
///
/// # Shapes
/// `logits` `[m, vocab]`, of any floating-point type; `targets` `[m]`, int64; `weights` `[m]`, float32.
///
/// # Errors
/// `graph-patch-invalid` if one of them is not an edge of the patch.
pub fn nll(patch: &mut Patch<'_>, logits: &str, targets: &str, weights: &str) -> Result<LossNodes> {
    let last = [("axis", Attr::Int(-1))];
    let column = patch.i64(&[1], &[1]);
    let logp = log_softmax(patch, logits)?;
    let places = patch.op("Unsqueeze", &[targets, &column], &[])?;
    let hit = patch.op("GatherElements", &[&logp, &places], &last)?;
    let flat = patch.op("Squeeze", &[&hit, &column], &[])?;
    let terms = patch.op("Neg", &[&flat], &[])?;
    // p − onehot, by replacing p(target) with p(target) − 1.
    let one = patch.f32(&[], &[1.0]);
    let p = patch.op("Exp", &[&logp], &[])?;
    let p_hit = patch.op("Exp", &[&hit], &[])?;
    let less = patch.op("Sub", &[&p_hit, &one], &[])?;
    let slope = patch.op("ScatterElements", &[&p, &places, &less], &last)?;
    let factors = patch.op("Unsqueeze", &[weights, &column], &[])?;
    let cotangent = patch.op("Mul", &[&slope, &factors], &[])?;
    Ok(LossNodes { terms, cotangent })
}

/// Adds the Kullback-Leibler divergence of each row from or to a recorded distribution.
///
/// With p the current and q the recorded distribution: `FromCurrent` is Σ p·(log p − log q), with the derivative
/// p·((log p − log q) − KL); `FromReference` is Σ q·(log q − log p), with the derivative p − q.
///
/// # Shapes
/// `logits` `[m, vocab]`, of any floating-point type; `reference` `[m, vocab]`, finite log-probabilities whose
/// exponentials sum to 1, and `weights` `[m]`, float32.
///
/// # Errors
/// `graph-patch-invalid` if one of them is not an edge of the patch.
pub fn kl(
    patch: &mut Patch<'_>,
    logits: &str,
    reference: &str,
    weights: &str,
    direction: KlDirection,
) -> Result<LossNodes> {
    let column = patch.i64(&[1], &[1]);
    let logp = log_softmax(patch, logits)?;
    let p = patch.op("Exp", &[&logp], &[])?;
    let (divergence, slope) = match direction {
        KlDirection::FromCurrent => {
            let gap = patch.op("Sub", &[&logp, reference], &[])?;
            let parts = patch.op("Mul", &[&p, &gap], &[])?;
            let divergence = patch.op("ReduceSum", &[&parts, &column], &[])?;
            let centred = patch.op("Sub", &[&gap, &divergence], &[])?;
            let slope = patch.op("Mul", &[&p, &centred], &[])?;
            (divergence, slope)
        }
        KlDirection::FromReference => {
            let q = patch.op("Exp", &[reference], &[])?;
            let gap = patch.op("Sub", &[reference, &logp], &[])?;
            let parts = patch.op("Mul", &[&q, &gap], &[])?;
            let divergence = patch.op("ReduceSum", &[&parts, &column], &[])?;
            let slope = patch.op("Sub", &[&p, &q], &[])?;
            (divergence, slope)
        }
    };
    let terms = patch.op("Squeeze", &[&divergence, &column], &[])?;
    let factors = patch.op("Unsqueeze", &[weights, &column], &[])?;
    let cotangent = patch.op("Mul", &[&slope, &factors], &[])?;
    Ok(LossNodes { terms, cotangent })
}
