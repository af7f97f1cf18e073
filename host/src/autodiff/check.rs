//! Finite differences: does a gradient say how a loss changes?
//!
//! Along a direction d, (L(x + h·d) − L(x − h·d)) / 2h should be ⟨gradient, d⟩. The directions are the gradient itself,
//! where the loss changes most, and one that the gradient had no part in choosing. Several steps h are tried, each alone
//! and with the one before it (Richardson's extrapolation), since none suits both rounding and curvature, and what agrees
//! best counts: no step makes a wrong gradient agree.

use engraft_plugin_api::{Data, Tensor};

use super::codes;
use crate::base::{Error, Result};

/// Something that computes outputs from inputs: a compiled graph.
pub trait Evaluate {
    /// Computes the outputs named in `fetch`, in that order.
    ///
    /// # Errors
    /// If the inputs do not fit or the evaluation fails.
    fn run(&self, feeds: &[(&str, &Tensor)], fetch: &[&str]) -> Result<Vec<Tensor>>;
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The input that is varied, of floats.
    pub variable: &'a str,
    /// The output whose sum is the loss.
    pub loss: &'a str,
    /// The output that claims to be the gradient of that sum with respect to the variable.
    pub gradient: &'a str,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// ⟨gradient, d⟩
    pub claimed: f64,
    /// The finite difference that came closest.
    pub measured: f64,
    /// |claimed − measured| divided by the norm of the gradient, or by 1 if that is smaller than rounding.
    pub error: f64,
    /// The step that came closest, as a part of the variable's norm.
    pub step: f64,
}

/// The steps that are tried, as parts of the norm of the variable.
const STEPS: [f64; 6] = [3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4];

/// Compares a gradient with finite differences along two directions of length 1: first the gradient's own, then
/// another one.
///
/// # Errors
/// Those of the evaluation, and `gradient-wrong` if the outputs have unfit shapes.
pub fn compare(graph: &dyn Evaluate, feeds: &[(&str, &Tensor)], question: Question<'_>) -> Result<[Comparison; 2]> {
    let unfit = |what: &str| Error::new(&codes::GRADIENT_WRONG, format!("{what} of `{}`", question.variable));
    let at = feeds.iter().position(|(name, _)| *name == question.variable);
    let start = at.map(|at| feeds[at].1).ok_or_else(|| unfit("the check was given no value"))?;
    let x = floats(start).ok_or_else(|| unfit("the check needs floats as the value"))?;
    let gradient = graph.run(feeds, &[question.gradient])?;
    let gradient = gradient.first().and_then(floats).filter(|g| g.len() == x.len());
    let gradient = gradient.ok_or_else(|| unfit("the gradient does not have the shape"))?;
    let norm = length(gradient);
    let scale = length(x).max(1e-3);
    let loss = |direction: &[f64], step: f64| -> Result<f64> {
        let moved: Vec<f32> = x.iter().zip(direction).map(|(x, d)| (f64::from(*x) + step * d) as f32).collect();
        let moved =
            Tensor::f32(start.shape().to_vec(), moved).map_err(|_| unfit("the check could not move the value"))?;
        let feeds: Vec<_> =
            feeds.iter().map(|&(n, v)| if n == question.variable { (n, &moved) } else { (n, v) }).collect();
        let out = graph.run(&feeds, &[question.loss])?;
        let out = out.first().and_then(floats).ok_or_else(|| unfit("the loss is no float beside a change"))?;
        Ok(out.iter().map(|&v| f64::from(v)).sum())
    };
    let own: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
    let try_along = |direction: Vec<f64>| -> Result<Comparison> {
        let size = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        let direction: Vec<f64> = direction.iter().map(|d| if size > 0.0 { d / size } else { 0.0 }).collect();
        let claimed: f64 = gradient.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
        let mut best: Option<Comparison> = None;
        let mut wider: Option<(f64, f64)> = None;
        for part in STEPS {
            let step = part * scale;
            let plain = (loss(&direction, step)? - loss(&direction, -step)?) / (2.0 * step);
            // Two steps together cancel the third derivative.
            let joined = wider.map(|(other, before)| {
                let ratio = (other / part).powi(2);
                (ratio * plain - before) / (ratio - 1.0)
            });
            wider = Some((part, plain));
            for measured in std::iter::once(plain).chain(joined) {
                let error = (claimed - measured).abs() / if norm > 1e-6 { norm } else { 1.0 };
                if best.as_ref().is_none_or(|b| error < b.error) {
                    best = Some(Comparison { claimed, measured, error, step: part });
                }
            }
        }
        best.ok_or_else(|| unfit("no step gave a number for a change"))
    };
    Ok([try_along(own)?, try_along(scrambled(x.len()))?])
}

fn floats(tensor: &Tensor) -> Option<&[f32]> {
    match tensor.data() {
        Data::F32(values) => Some(values),
        Data::I64(_) => None,
    }
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// A fixed direction without pattern: the multiples of the golden ratio, modulo 1, about 0.
fn scrambled(len: usize) -> Vec<f64> {
    (1..=len).map(|i| (i as f64 * 0.618_033_988_749_894_9).fract() - 0.5).collect()
}
