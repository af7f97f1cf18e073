//! Keys, values and distributions as the model computes them now: activations at the fact token of every prompt, and
//! a next-token distribution.

use engraft_plugin_api::{MethodError, ModelAccess, Place, RunRequest, Site, Tap};
use ndarray::{Array2, Ix2};

use crate::reply_shape;
use crate::subject::PromptRow;

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// For each site, `[rows, width]`: the activation at every row's fact token.
    pub sites: Vec<Array2<f32>>,
    /// The next-token log-probabilities at the fact token of the extra row, `vocab` values; empty without one.
    pub anchor: Vec<f32>,
}

/// Reads `sites` at the fact token of `rows`, and the distribution at the fact token of `anchor`.
///
/// These are two passes: the first computes no more of the model than the sites need.
///
/// # Errors
/// Errors of the host; `reply-shape` if its reply has another shape than asked for.
pub fn read(
    access: &dyn ModelAccess,
    rows: &[PromptRow],
    sites: &[Site],
    anchor: Option<&PromptRow>,
) -> Result<Reading, MethodError> {
    let places: Vec<Place> = rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.fact }).collect();
    let request = RunRequest {
        rows: rows.iter().map(|r| r.ids.clone()).collect(),
        taps: sites.iter().map(|&site| Tap { site, places: Some(places.clone()) }).collect(),
        ..RunRequest::default()
    };
    let reply = access.run(&request)?;
    if reply.taps.len() != sites.len() {
        return Err(reply_shape("list of activations", &[sites.len()], &[reply.taps.len()]));
    }
    let mut read = Vec::with_capacity(sites.len());
    for (site, tensor) in sites.iter().zip(reply.taps) {
        let shape = tensor.shape().to_vec();
        let view = tensor.view()?.into_dimensionality::<Ix2>().ok().filter(|v| v.nrows() == rows.len());
        let view = view.ok_or_else(|| reply_shape(&site.to_string(), &[rows.len(), 0], &shape))?;
        read.push(view.to_owned());
    }
    let anchor = match anchor {
        Some(row) => {
            let logits = vec![Place { row: 0, pos: row.fact }];
            let request = RunRequest { rows: vec![row.ids.clone()], logits, ..RunRequest::default() };
            log_softmax(access.run(&request)?.logits.as_f32()?)
        }
        None => Vec::new(),
    };
    Ok(Reading { sites: read, anchor })
}

/// Log-probabilities, in nats, of one row of logits.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    let shift = sum.ln() as f32;
    logits.iter().map(|l| l - top - shift).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one() {
        let logs = log_softmax(&[1000.0, 999.0, -50.0]);
        let sum: f32 = logs.iter().map(|l| l.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert!((logs[0] - logs[1] - 1.0).abs() < 1e-5);
    }
}
