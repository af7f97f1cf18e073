//! Which fact a request concerns: the activation at a fact's last subject token is looked for among the activations at
//! all tokens of the request, by cosine. The authors compare sentence vectors of another model; a subject that is named
//! in the request is found here wherever it stands, and no second model is needed.

use engraft_method_common::{FactToken, check_cancelled, prompt_row, read};
use engraft_plugin_api::{BlockSite, EditRequest, MethodError, ModelAccess, RunRequest, Site, Tap};

/// Requests that are read in one pass.
const AT_ONCE: usize = 64;

/// Where facts and requests are compared.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    site: Site,
}

impl Keys {
    /// After a block.
    pub fn after(layer: usize) -> Self {
        Self { site: Site::Block(layer, BlockSite::ResidPost) }
    }

    /// The unit vectors of facts: the activation at the last token of the subject, or of the prompt where there is
    /// none.
    ///
    /// # Errors
    /// What is wrong with a request, and errors of the host.
    pub fn of_facts(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Vec<f32>>, MethodError> {
        let context = access.facts().context;
        let mut keys = Vec::with_capacity(requests.len());
        for batch in requests.chunks(AT_ONCE) {
            check_cancelled(access)?;
            let row = |request: &EditRequest| {
                let token = if request.subject.is_some() { FactToken::SubjectLast } else { FactToken::Last };
                prompt_row(access, request, "{}", token, context)
            };
            let rows = batch.iter().map(row).collect::<Result<Vec<_>, _>>()?;
            let reading = read(access, &rows, &[self.site], None)?;
            keys.extend(reading.sites[0].outer_iter().map(|key| unit(key.iter().copied())));
        }
        Ok(keys)
    }

    /// The unit vectors at all tokens of a request.
    ///
    /// # Errors
    /// Errors of the host.
    pub fn of_tokens(&self, access: &dyn ModelAccess, tokens: &[u32]) -> Result<Vec<Vec<f32>>, MethodError> {
        let taps = vec![Tap { site: self.site, places: None }];
        let request = RunRequest { rows: vec![tokens.to_vec()], taps, ..RunRequest::default() };
        let reply = access.run(&request)?;
        let tap = reply.taps.first().ok_or_else(|| MethodError::new("reply-shape", "the host read no activation"))?;
        let width = tap.shape().last().copied().unwrap_or(1).max(1);
        Ok(tap.as_f32()?.chunks(width).map(|vector| unit(vector.iter().copied())).collect())
    }
}

/// The similarity of a fact to a request: the greatest cosine of its key with one of the request's vectors.
pub fn similarity(key: &[f32], request: &[Vec<f32>]) -> f32 {
    let cosine = |vector: &Vec<f32>| key.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    request.iter().map(cosine).fold(-1.0, f32::max)
}

fn unit(vector: impl Iterator<Item = f32> + Clone) -> Vec<f32> {
    let norm = vector.clone().map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if norm > 0.0 { vector.map(|v| (f64::from(v) / norm) as f32).collect() } else { vector.collect() }
}

/// The similarity that tells those within from those without best: half the sum of the shares on the right side is
/// greatest, and where several are alike, it is the middle of the widest gap. 1 if there are none within.
pub fn best_threshold(within: &[f32], without: &[f32]) -> f32 {
    let mut all: Vec<f32> = within.iter().chain(without).copied().collect();
    all.sort_by(f32::total_cmp);
    let share = |side: &[f32], holds: &dyn Fn(f32) -> bool| {
        if side.is_empty() { 1.0 } else { side.iter().filter(|s| holds(**s)).count() as f64 / side.len() as f64 }
    };
    let mut best = (f64::NEG_INFINITY, 0.0, 1.0);
    for pair in all.windows(2).filter(|pair| pair[0] < pair[1]) {
        let at = f32::midpoint(pair[0], pair[1]);
        let right = share(within, &|s| s >= at) + share(without, &|s| s < at);
        let gap = pair[1] - pair[0];
        if (right, gap) > (best.0, best.1) {
            best = (right, gap, at);
        }
    }
    best.2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_lies_in_the_widest_gap_that_tells_apart_best() {
        assert_eq!(best_threshold(&[0.9, 0.8], &[0.1, 0.2]), 0.5);
        assert_eq!(best_threshold(&[0.9, 0.3], &[0.1, 0.2, 0.8]), 0.25, "one of three is lost, not one of two");
        assert_eq!(best_threshold(&[], &[0.5]), 1.0);
    }

    #[test]
    fn the_most_similar_token_counts() {
        let request = vec![unit([3.0, 4.0].into_iter()), unit([0.0, 2.0].into_iter())];
        assert!((similarity(&[0.0, 1.0], &request) - 1.0).abs() < 1e-6);
        assert!((similarity(&[1.0, 0.0], &request) - 0.6).abs() < 1e-6);
        assert_eq!(unit([0.0, 0.0].into_iter()), [0.0, 0.0]);
    }
}
