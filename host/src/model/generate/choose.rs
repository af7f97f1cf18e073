//! The next token of a row, from its logits: the most probable one, or one that is drawn with a seed.

use engraft_plugin_api::{Decoding, Sampling};
use rand::RngExt;

use crate::base::{Error, Result, random};
use crate::model::codes;

/// Checks what a decoding asks for.
///
/// # Errors
/// `decoding-invalid`
pub(super) fn check(decoding: &Decoding) -> Result<()> {
    let Decoding::Sample(sampling) = decoding else { return Ok(()) };
    let Sampling { temperature, top_k, top_p, .. } = *sampling;
    let refuse = |text: String| Err(Error::new(&codes::DECODING, text));
    if !temperature.is_finite() || temperature <= 0.0 {
        return refuse(format!("a temperature of {temperature}: expected a number above 0"));
    }
    if top_k == Some(0) {
        return refuse("the 0 most probable tokens: expected at least 1 to draw from".to_owned());
    }
    match top_p {
        Some(p) if p.is_nan() || p <= 0.0 || p > 1.0 => {
            refuse(format!("a share of {p} of the probability: expected a number above 0 and at most 1"))
        }
        _ => Ok(()),
    }
}

/// The next token of one row. A draw depends on the seed, the row and the step alone.
///
/// # Errors
/// `logits-not-finite`
pub(super) fn choose(logits: &[f32], decoding: &Decoding, row: usize, step: usize) -> Result<u32> {
    let most = argmax(logits, || format!("row {row}, new token {step}"))?;
    Ok(match decoding {
        Decoding::Greedy => most,
        Decoding::Sample(sampling) => draw(logits, logits[most as usize], sampling, row, step),
    })
}

/// Temperature, then the most probable `top_k`, then the fewest of them that reach `top_p`, then a draw. `top` is the
/// greatest logit.
fn draw(logits: &[f32], top: f32, sampling: &Sampling, row: usize, step: usize) -> u32 {
    let weight = |t: &u32| f64::from((logits[*t as usize] - top) / sampling.temperature).exp();
    let sum = |tokens: &[u32]| tokens.iter().map(weight).sum::<f64>();
    let all = || (0..logits.len() as u32).collect::<Vec<_>>();
    let mut kept = match (sampling.top_k, sampling.top_p) {
        (Some(k), _) => leading(logits, k),
        (None, None) => all(),
        (None, Some(p)) => {
            let wanted = f64::from(p) * sum(&all());
            // Most of the probability lies on a few tokens: sorting those is enough.
            let mut n = 64;
            loop {
                let some = leading(logits, n);
                if some.len() == logits.len() || sum(&some) >= wanted {
                    break some;
                }
                n *= 8;
            }
        }
    };
    if let Some(p) = sampling.top_p {
        let wanted = f64::from(p) * if sampling.top_k.is_some() { sum(&kept) } else { sum(&all()) };
        let mut before = 0.0;
        let mut n = 0;
        while n < kept.len() && before < wanted {
            before += weight(&kept[n]);
            n += 1;
        }
        kept.truncate(n.max(1));
    }
    let stream = random::seed(sampling.seed, &["generate", &row.to_string(), &step.to_string()]);
    let mut left = random::rng(stream).random::<f64>() * sum(&kept);
    for token in &kept {
        left -= weight(token);
        if left < 0.0 {
            return *token;
        }
    }
    // Rounding can leave a little beyond the last; the most probable one stands for it.
    kept.first().copied().unwrap_or(0)
}

/// The `n` most probable tokens, the most probable first; of equal ones the smallest.
fn leading(logits: &[f32], n: usize) -> Vec<u32> {
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    if n < order.len() {
        order.select_nth_unstable_by(n, by_logit);
        order.truncate(n);
    }
    order.sort_unstable_by(by_logit);
    order
}

/// The index of the greatest logit; the first of several. A token that is ruled out has a logit of negative infinity.
///
/// # Errors
/// `logits-not-finite`, with where they are, if one is NaN or the greatest is no number.
pub(in crate::model) fn argmax(logits: &[f32], place: impl FnOnce() -> String) -> Result<u32> {
    let (mut best, mut nan) = (0, 0);
    for (i, v) in logits.iter().enumerate() {
        nan += usize::from(v.is_nan());
        if *v > logits[best] {
            best = i;
        }
    }
    if nan > 0 || !logits.get(best).is_some_and(|top| top.is_finite()) {
        let what = if nan > 0 { format!("{nan} NaN among") } else { "no finite maximum of".to_owned() };
        let text = format!("{what} the {} logits of {}", logits.len(), place());
        return Err(Error::new(&codes::LOGITS_NOT_FINITE, text));
    }
    Ok(best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(logits: &[f32], sampling: Sampling) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for step in 0..4096 {
            counts[choose(logits, &Decoding::Sample(sampling), 0, step).unwrap() as usize] += 1.0 / 4096.0;
        }
        counts
    }

    #[test]
    fn draws_are_repeated_by_their_seed_and_follow_the_probabilities() {
        let logits = [0.0, 3.0, 2.5, -1.0, 2.9];
        let plain = Sampling { seed: 7, ..Sampling::default() };
        assert_eq!(shares(&logits, plain), shares(&logits, plain));
        assert_ne!(shares(&logits, plain), shares(&logits, Sampling { seed: 8, ..plain }));
        for (temperature, top_k) in [(1.0, None), (0.5, None), (2.0, Some(3))] {
            let found = shares(&logits, Sampling { temperature, top_k, ..plain });
            let kept = |i: usize| top_k.is_none() || [1, 2, 4].contains(&i);
            let weight = |i: usize| if kept(i) { f64::from(logits[i] / temperature).exp() } else { 0.0 };
            let total: f64 = (0..5).map(weight).sum();
            for (i, share) in found.iter().enumerate() {
                assert!((share - weight(i) / total).abs() < 0.03, "{temperature} {top_k:?} {i}: {share}");
            }
        }
        assert_eq!(choose(&logits, &Decoding::Sample(Sampling { top_k: Some(1), ..plain }), 0, 0).unwrap(), 1);
        assert_eq!(choose(&logits, &Decoding::Greedy, 0, 0).unwrap(), 1);
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error_and_tokens_that_are_ruled_out_are_not() {
        let code = |logits: &[f32], decoding| choose(logits, &decoding, 0, 0).map_err(|e| e.code().id);
        for decoding in [Decoding::Greedy, Decoding::Sample(Sampling::default())] {
            assert_eq!(code(&[f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY], decoding), Ok(1));
            for bad in [f32::NAN, f32::INFINITY] {
                assert_eq!(code(&[1.0, 2.0, bad], decoding), Err("logits-not-finite"));
                assert_eq!(code(&[bad, 1.0, 2.0], decoding), Err("logits-not-finite"));
            }
            assert_eq!(code(&[f32::NEG_INFINITY; 2], decoding), Err("logits-not-finite"));
            assert_eq!(code(&[], decoding), Err("logits-not-finite"));
        }
    }

    #[test]
    fn the_nucleus_is_the_fewest_tokens_that_reach_the_share_after_temperature_and_top_k() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let kept = |temperature, top_k, top_p| {
            let sampling = Sampling { temperature, top_k, top_p: Some(top_p), seed: 3 };
            shares(&logits, sampling).iter().filter(|s| **s > 0.0).count()
        };
        assert_eq!([0.4, 0.6, 0.79, 0.85, 1.0].map(|p| kept(1.0, None, p)), [1, 2, 2, 3, 4]);
        // Of the two most probable the first has 62.5 %.
        assert_eq!([0.6, 0.65].map(|p| kept(1.0, Some(2), p)), [1, 2]);
        // A high temperature levels them first: 4 of nearly 25 % each.
        assert_eq!([0.2, 0.3, 0.6].map(|p| kept(100.0, None, p)), [1, 2, 3]);
        // A wide vocabulary, of which the nucleus needs more than the few that are looked at first.
        let even = vec![0.0; 1000];
        let sampling = Sampling { top_p: Some(0.5), seed: 1, ..Sampling::default() };
        let drawn: Vec<u32> =
            (0..400).map(|step| choose(&even, &Decoding::Sample(sampling), 0, step).unwrap()).collect();
        assert!(drawn.iter().all(|t| *t < 500) && drawn.iter().any(|t| *t > 400), "{drawn:?}");
    }

    #[test]
    fn decodings_that_cannot_be_are_refused() {
        let code = |sampling| check(&Decoding::Sample(sampling)).map_err(|e| e.code().id);
        let plain = Sampling::default();
        assert_eq!(code(plain), Ok(()));
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(code(Sampling { temperature, ..plain }), Err("decoding-invalid"));
        }
        for top_p in [0.0, 1.1, f32::NAN] {
            assert_eq!(code(Sampling { top_p: Some(top_p), ..plain }), Err("decoding-invalid"));
        }
        assert_eq!(code(Sampling { top_k: Some(0), ..plain }), Err("decoding-invalid"));
    }
}
