//! Do gradients say how the loss changes? A few values of a few sites and weights, drawn with a seed, are nudged, and
//! the loss moves as the gradient claims or it does not.
//!
//! All nudges of a model share two programs: one for the gradients, and one forward pass with an addition at each
//! drawn site and a trial change of each drawn weight, zero but for the one that is nudged. The loss is the mean over
//! two rows of different length (as many as the file fixes, where it does) of the likelihood of a token after the last
//! position, summed in double precision.

use engraft_plugin_api::{
    BlockSite, Change, Delta, GradientRequest, Place, Poke, RunRequest, Site, Tap, Tensor, Term, WeightRef, Wrt,
};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::base::{Cancel, Result, random};
use crate::model::Model;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Nudge {
    /// The site or weight.
    pub(super) name: String,
    /// Along which direction its values were nudged.
    pub(super) along: &'static str,
    /// How many values were.
    pub(super) values: usize,
    /// The directional derivative by the gradient.
    pub(super) claimed: f64,
    /// The same by finite differences.
    pub(super) measured: f64,
    /// The difference of the two, as a share of the gradient's norm over these values; none where the loss changes by
    /// less than its rounding.
    pub(super) difference: Option<f64>,
    /// False if the two disagree.
    pub(super) holds: bool,
}

/// How fine the numbers are that are compared.
#[derive(Clone, Copy, Debug)]
struct Grain {
    /// Two numbers agree if they differ by at most this share, besides rounding.
    tolerance: f64,
    /// The rounding of a loss, as a part of the loss.
    rounding: f64,
}

impl Grain {
    const FLOAT32: Self = Self { tolerance: 2e-2, rounding: 1e-6 };

    fn of(model: &Model) -> Self {
        match model.roundoff() {
            f32::EPSILON => Self::FLOAT32,
            // A loss is the difference of logits, which are rounded in their own size, and so is all before them.
            coarse => Self { tolerance: 1e-1, rounding: f64::from(coarse) / 2.0 },
        }
    }
}

/// How many values are nudged together.
const VALUES: usize = 8;
/// How many values are looked at to find some that matter.
const CANDIDATES: usize = 96;
/// The steps, as parts of the root mean square of the nudged tensor. None suits both rounding and curvature, and some
/// cross the kink of a ReLU.
const STEPS: [f64; 7] = [1.0, 0.3, 3.0, 0.1, 10.0, 0.03, 0.01];

/// What is nudged: the values, by row and column of a matrix `[places, width]` or `[in, out]`.
struct Sample {
    what: What,
    shape: [usize; 2],
    values: Vec<(usize, usize)>,
    gradient: Vec<f64>,
    rms: f64,
}

enum What {
    Site(Site, Vec<Place>),
    Weight(WeightRef),
}

/// Compares the gradients at `samples` sites and of `samples` weights with finite differences.
///
/// # Errors
/// As [`Model::gradient`], and `interrupted`.
pub(super) fn check(model: &Model, seed: u64, samples: usize, cancel: &Cancel) -> Result<Vec<Nudge>> {
    if samples == 0 {
        return Ok(Vec::new());
    }
    let mut rng = random::rng(random::seed(seed, &["inspect", "gradients"]));
    let probe = Probe::draw(model, &mut rng, cancel);
    let samples = probe.samples(samples, &mut rng)?;
    let mut nudges = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let own = sample.gradient.clone();
        let drawn = sample.gradient.iter().map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
        for (along, direction) in [("along the gradient", own), ("along a drawn direction", drawn)] {
            nudges.extend(probe.nudge(&samples, at, along, unit(direction))?);
        }
    }
    Ok(nudges)
}

/// The rows, and what they should be followed by.
struct Probe<'m> {
    model: &'m Model,
    rows: Vec<Vec<u32>>,
    targets: Vec<u32>,
    grain: Grain,
    cancel: &'m Cancel,
}

impl<'m> Probe<'m> {
    fn draw(model: &'m Model, rng: &mut ChaCha8Rng, cancel: &'m Cancel) -> Self {
        let anatomy = model.anatomy();
        let longest = anatomy.inputs.positions_of_rows().unwrap_or(anatomy.context.unwrap_or(8).clamp(1, 8));
        let shorter = (1..anatomy.inputs.rows().unwrap_or(2)).map(|_| longest.div_ceil(2));
        let mut tokens = |n: usize| (0..n).map(|_| rng.random_range(0..anatomy.vocab as u32)).collect::<Vec<u32>>();
        let rows: Vec<_> = [longest].into_iter().chain(shorter).map(&mut tokens).collect();
        Self { model, targets: tokens(rows.len()), rows, grain: Grain::of(model), cancel }
    }

    fn last(&self) -> impl Iterator<Item = Place> {
        self.rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 })
    }

    /// Draws sites, weights and values, and asks for their gradients.
    fn samples(&self, count: usize, rng: &mut ChaCha8Rng) -> Result<Vec<Sample>> {
        let anatomy = self.model.anatomy();
        let pokable = |site: &Site| !matches!(site, Site::Block(_, BlockSite::Pattern));
        let mut sites: Vec<Site> = anatomy.sites.keys().copied().filter(pokable).collect();
        let mut weights: Vec<WeightRef> = anatomy.weights.keys().copied().collect();
        sites.shuffle(rng);
        weights.shuffle(rng);
        sites.truncate(count);
        weights.truncate(count);
        let everywhere: Vec<Place> =
            self.rows.iter().enumerate().flat_map(|(row, r)| (0..r.len()).map(move |pos| Place { row, pos })).collect();
        let places = Some(everywhere.clone());
        let taps = sites.iter().map(|&site| Tap { site, places: places.clone() }).collect();
        let request = RunRequest { rows: self.rows.clone(), taps, ..RunRequest::default() };
        let activations = self.model.run_until(&request, Some(self.cancel))?.taps;

        let width = |tap: &Tensor| tap.len() / everywhere.len();
        let zeros = |(&site, tap): (&Site, &Tensor)| Poke {
            site,
            places: everywhere.clone(),
            values: Tensor::zeros([1, width(tap)]),
        };
        let adds: Vec<Poke> = sites.iter().zip(&activations).map(zeros).collect();
        let wrt = (0..adds.len()).map(Wrt::Add).chain(weights.iter().map(|&w| Wrt::Weight(w))).collect();
        let weight = 1.0 / self.rows.len() as f32;
        let term = |(place, &token): (Place, &u32)| Term::Nll { place, token, weight };
        let terms = self.last().zip(&self.targets).map(term).collect();
        let request = GradientRequest { rows: self.rows.clone(), adds, terms, wrt, ..GradientRequest::default() };
        let gradients = self.model.gradient_until(&request, Some(self.cancel))?.gradients;

        let mut samples = Vec::new();
        for (i, gradient) in gradients.iter().enumerate() {
            let Some(gradient) = gradient.first() else { continue };
            let (what, values) = match sites.get(i) {
                Some(&site) => (What::Site(site, everywhere.clone()), activations[i].as_f32()?.to_vec()),
                None => {
                    let weight = weights[i - sites.len()];
                    (What::Weight(weight), self.model.weight(weight)?.into_f32()?)
                }
            };
            samples.push(self.sample(what, gradient, &values, rng)?);
        }
        Ok(samples)
    }

    fn sample(&self, what: What, gradient: &Tensor, values: &[f32], rng: &mut ChaCha8Rng) -> Result<Sample> {
        let gradients = gradient.as_f32()?;
        let columns = gradient.shape().last().copied().unwrap_or(1).max(1);
        let shape = [gradients.len() / columns, columns];
        // Only the rows of a table that are looked up can matter.
        let used: Vec<usize> = match what {
            What::Weight(WeightRef::Embedding) => self.rows.iter().flatten().map(|&t| t as usize).collect(),
            What::Weight(WeightRef::Positions) => (0..self.rows[0].len()).collect(),
            _ => (0..shape[0]).collect(),
        };
        let mut candidates: Vec<(usize, usize)> = Vec::new();
        while candidates.len() < CANDIDATES.min(used.len() * columns) {
            let row = used.choose(rng).copied().unwrap_or_default();
            candidates.push((row.min(shape[0] - 1), rng.random_range(0..columns)));
        }
        let size = |&(r, c): &(usize, usize)| f64::from(gradients[r * columns + c]);
        // Half of the values as they were drawn, half those of the others that matter most.
        let rest = candidates.split_off((VALUES / 2).min(candidates.len()));
        let mut mattering = rest;
        mattering.sort_by(|a, b| size(b).abs().total_cmp(&size(a).abs()));
        candidates.extend(mattering);
        let mut chosen: Vec<(usize, usize)> = Vec::new();
        for value in candidates {
            if chosen.len() < VALUES && !chosen.contains(&value) {
                chosen.push(value);
            }
        }
        let squares: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let rms = (squares / values.len().max(1) as f64).sqrt();
        let gradient = chosen.iter().map(size).collect();
        Ok(Sample { what, shape, values: chosen, gradient, rms: if rms > 0.0 { rms } else { 1.0 } })
    }

    /// Nudges the values of one sample; none where the direction is none.
    fn nudge(&self, samples: &[Sample], at: usize, along: &'static str, direction: Vec<f64>) -> Result<Option<Nudge>> {
        let sample = &samples[at];
        if direction.iter().all(|&d| d == 0.0) {
            return Ok(None);
        }
        let claimed: f64 = sample.gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let norm = sample.gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let base = self.loss(samples, at, &direction, 0.0)?;
        let mut steps = Vec::new();
        for part in STEPS {
            let step = part * sample.rms;
            let [up, down] = [step, -step].map(|step| self.loss(samples, at, &direction, step));
            let (up, down) = (up?, down?);
            steps.push(Step::of(step, [down, base, up], claimed, norm, self.grain));
            if steps.last().is_some_and(|s| s.agrees(self.grain.tolerance / 20.0)) {
                break;
            }
        }
        let (step, holds) = judge(steps, self.grain);
        let name = match sample.what {
            What::Site(site, _) => site.to_string(),
            What::Weight(weight) => weight.to_string(),
        };
        let values = direction.len();
        Ok(step.map(|s| Nudge { name, along, values, claimed, measured: s.measured, difference: s.difference, holds }))
    }

    /// The loss with one sample's values moved by `step` along a direction.
    fn loss(&self, samples: &[Sample], at: usize, direction: &[f64], step: f64) -> Result<f64> {
        let (mut adds, mut under) = (Vec::new(), Vec::new());
        for (i, sample) in samples.iter().enumerate() {
            let [rows, columns] = sample.shape;
            let moved = |k: usize| if i == at { (direction[k] * step) as f32 } else { 0.0 };
            let dense = || {
                let mut dense = vec![0.0; rows * columns];
                for (k, (row, column)) in sample.values.iter().enumerate() {
                    dense[row * columns + column] += moved(k);
                }
                Tensor::f32([rows, columns], dense)
            };
            match &sample.what {
                What::Site(site, places) => {
                    adds.push(Poke { site: *site, places: places.clone(), values: dense()? });
                }
                What::Weight(weight) if rows == 1 => {
                    under.push(Change::Weight { weight: *weight, delta: Delta::Dense(dense()?) });
                }
                What::Weight(weight) => {
                    // One value a rank.
                    let rank = sample.values.len();
                    let (mut left, mut right) = (vec![0.0; rows * rank], vec![0.0; rank * columns]);
                    for (k, (row, column)) in sample.values.iter().enumerate() {
                        left[row * rank + k] = 1.0;
                        right[k * columns + column] = moved(k);
                    }
                    let left = Tensor::f32([rows, rank], left)?;
                    let right = Tensor::f32([rank, columns], right)?;
                    under.push(Change::Weight { weight: *weight, delta: Delta::LowRank { left, right } });
                }
            }
        }
        let logits = self.last().collect();
        let request = RunRequest { rows: self.rows.clone(), adds, under, logits, ..RunRequest::default() };
        let reply = self.model.run_until(&request, Some(self.cancel))?;
        let logits = reply.logits.matrix()?;
        let mut sum = 0.0;
        for (line, &target) in logits.rows().into_iter().zip(&self.targets) {
            let top = line.iter().map(|&v| f64::from(v)).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = line.iter().map(|&v| (f64::from(v) - top).exp()).sum();
            sum += top + total.ln() - f64::from(line[target as usize]);
        }
        Ok(sum / self.targets.len() as f64)
    }
}

/// A finite difference of one step.
#[derive(Clone, Copy, Debug)]
struct Step {
    size: f64,
    measured: f64,
    /// As a share of the gradient; none where the loss changes by little more than its rounding.
    difference: Option<f64>,
    /// How much the slopes on the two sides differ, as a share of the gradient.
    bend: f64,
}

impl Step {
    /// From the losses before, between and behind.
    fn of(size: f64, [down, base, up]: [f64; 3], claimed: f64, norm: f64, grain: Grain) -> Self {
        let measured = (up - down) / (2.0 * size);
        let rounding = grain.rounding * up.abs().max(1.0) / size;
        let scale = norm.max(measured.abs());
        // A value that is not a number agrees with nothing.
        let known = scale.is_nan() || claimed.is_nan() || scale > 4.0 / grain.tolerance * rounding;
        let difference = (claimed - measured).abs() / scale;
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        let bend = (up + down - 2.0 * base).abs() / size / scale;
        Self { size, measured, difference: known.then_some(difference), bend }
    }

    fn agrees(&self, tolerance: f64) -> bool {
        self.difference.is_some_and(|d| d <= tolerance)
    }
}

/// The step that speaks for all, and whether the gradient holds. It does if a step agrees with it. It does not if the
/// steps agree with each other on another number; where they do not even do that, they are too large or too small. At a
/// kink nearer than any step the two sides have slopes of their own, and their mean says nothing.
fn judge(mut steps: Vec<Step>, grain: Grain) -> (Option<Step>, bool) {
    let known = |s: &&Step| s.difference.is_some();
    let nearest = |a: &&Step, b: &&Step| a.difference.unwrap_or(0.0).total_cmp(&b.difference.unwrap_or(0.0));
    let best = steps.iter().filter(known).min_by(nearest).copied();
    if best.is_some_and(|s| s.agrees(grain.tolerance)) {
        return (best, true);
    }
    if let Some(broken) = steps.iter().find(|s| s.difference == Some(f64::INFINITY)) {
        return (Some(*broken), false);
    }
    steps.sort_by(|a, b| a.size.total_cmp(&b.size));
    // Curvature bends less and less as steps shrink.
    let mut smallest = steps.iter().filter(known);
    if let (Some(a), Some(b)) = (smallest.next(), smallest.next())
        && a.bend > grain.tolerance / 2.0
        && a.bend > 0.45 * b.bend
    {
        return (Some(Step { difference: None, ..*a }), true);
    }
    let settled = steps.windows(2).find(|pair| {
        let [a, b] = [pair[0], pair[1]];
        let apart = (a.measured - b.measured).abs() / a.measured.abs().max(b.measured.abs());
        // Nearer to each other than to the claim.
        a.difference.zip(b.difference).is_some_and(|(a, b)| apart < (0.25 * a.min(b)).min(0.1))
    });
    match settled {
        Some(pair) => (Some(pair[0]), false),
        None => (steps.first().map(|s| Step { difference: None, ..*s }), true),
    }
}

/// A direction of length 1, or none.
fn unit(direction: Vec<f64>) -> Vec<f64> {
    let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
    direction.into_iter().map(|d| if norm > 0.0 { d / norm } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps over a loss of one variable, judged.
    fn judged(loss: impl Fn(f64) -> f64, claimed: f64) -> (bool, bool) {
        let grain = Grain::FLOAT32;
        let of = |&h: &f64| Step::of(h, [-h, 0.0, h].map(&loss), claimed, claimed.abs(), grain);
        let (step, holds) = judge(STEPS.iter().map(of).collect(), grain);
        (step.unwrap().difference.is_some(), holds)
    }

    #[test]
    fn a_wrong_gradient_is_told_from_one_that_cannot_be_measured() {
        let curved = |x: f64| 5.0 + 0.3 * x.sin();
        assert_eq!(judged(curved, 0.3), (true, true));
        assert_eq!(judged(curved, 0.27), (true, false));
        assert_eq!(judged(curved, 0.0), (true, false), "a path that was forgotten");
        assert_eq!(judged(|_| 5.0, 0.0), (false, true), "nothing changes, as claimed");
        assert_eq!(judged(|x| 5.0 + 1e-3 * x.powi(3), 0.0), (false, true), "curvature alone");
        let bent = |x: f64| 5.0 + 0.3 * x - 0.1 * (x - 1e-3).max(0.0);
        assert_eq!(judged(bent, 0.3), (false, true), "a kink nearer than any step");
        assert_eq!(judged(|_| f64::NAN, 0.3), (true, false));
        assert_eq!(judged(curved, f64::NAN), (true, false));
    }
}
