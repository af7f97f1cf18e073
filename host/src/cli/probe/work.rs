//! Running the rows, a few at a time, and putting what comes back into whole tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use engraft_plugin_api::{BlockSite, GradientRequest, Place, Poke, RunRequest, Site, Tap, Tensor, Term, Wrt};
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn, Slice};

use super::names::Variable;
use crate::anatomy::Storage;
use crate::base::{Cancel, Result};
use crate::model::Model;

/// A whole tensor.
pub(super) type Array = ArrayD<f32>;

/// How many tokens, padding included, are run at once; a single row may be longer.
const TOKENS_AT_ONCE: usize = 2048;

/// What is to be done.
pub(super) struct Job<'a> {
    pub(super) model: &'a Model,
    pub(super) rows: &'a [Vec<u32>],
    pub(super) taps: Vec<Site>,
    pub(super) nll: Option<u32>,
    pub(super) gradients: Vec<Variable>,
    pub(super) cancel: &'a Cancel,
}

/// What was done: tensors by their name in the file, and the loss of each row, in nats.
#[derive(Default)]
pub(super) struct Done {
    pub(super) tensors: BTreeMap<String, Array>,
    pub(super) losses: Vec<f32>,
}

impl Job<'_> {
    /// Runs everything; `progress` hears how many rows are done.
    pub(super) fn run(&self, progress: &dyn Fn(usize, usize)) -> Result<Done> {
        let mut done = Done::default();
        for part in parts(self.rows, self.model.anatomy().inputs.rows()) {
            self.cancel.check()?;
            let first = part.start;
            self.forward(part.clone(), &mut done)?;
            if !self.gradients.is_empty() {
                self.backward(part.clone(), &mut done)?;
            }
            progress(first + part.len(), self.rows.len());
        }
        Ok(done)
    }

    fn forward(&self, part: Range<usize>, done: &mut Done) -> Result<()> {
        let rows = &self.rows[part.clone()];
        let taps: Vec<Tap> = self.taps.iter().map(|&site| Tap { site, places: None }).collect();
        // Where there are gradients, their pass gives the losses.
        let target = self.nll.filter(|_| self.gradients.is_empty());
        let logits = if target.is_some() { last(rows) } else { Vec::new() };
        let reply = self
            .model
            .run_until(&RunRequest { rows: rows.to_vec(), taps, logits, ..RunRequest::default() }, Some(self.cancel))?;
        for (&site, tensor) in self.taps.iter().zip(&reply.taps) {
            self.put(site.to_string(), site, part.start, tensor.view()?, done);
        }
        if let Some(target) = target {
            done.losses.extend(reply.logits.matrix()?.rows().into_iter().map(|row| nll(row.iter(), target as usize)));
        }
        Ok(())
    }

    fn backward(&self, part: Range<usize>, done: &mut Done) -> Result<()> {
        let (rows, token) = (&self.rows[part.clone()], self.nll.unwrap_or_default());
        let weight = 1.0 / self.rows.len() as f32;
        let places: Vec<Place> =
            rows.iter().enumerate().flat_map(|(row, r)| (0..r.len()).map(move |pos| Place { row, pos })).collect();
        let mut adds = Vec::new();
        let wrt = self.gradients.iter().map(|variable| match *variable {
            Variable::Weight(weight) => Wrt::Weight(weight),
            Variable::Site(site) => {
                // The gradient at an activation is that of a vector of zeros added to it.
                let width: usize = self.width(site).iter().product();
                adds.push(Poke { site, places: places.clone(), values: Tensor::zeros([1, width]) });
                Wrt::Add(adds.len() - 1)
            }
        });
        let wrt = wrt.collect();
        let terms = last(rows).into_iter().map(|place| Term::Nll { place, token, weight }).collect();
        let request = GradientRequest { rows: rows.to_vec(), adds, terms, wrt, ..GradientRequest::default() };
        let reply = self.model.gradient_until(&request, Some(self.cancel))?;
        done.losses.extend(&reply.terms);
        for (variable, gradient) in self.gradients.iter().zip(&reply.gradients) {
            let Some(gradient) = gradient.first() else { continue };
            match *variable {
                Variable::Site(site) => {
                    let padded = self.padded(rows, site, gradient)?;
                    self.put(format!("grad:{site}"), site, part.start, padded.view(), done);
                }
                Variable::Weight(weight) => {
                    let place = self.model.anatomy().weight(weight)?;
                    let shape = if place.storage == Storage::Vector { &place.shape[1..] } else { &place.shape[..] };
                    let own = gradient.view()?;
                    let own = own.to_shape(shape).map_err(|e| super::file::unfit(&e.to_string()))?;
                    // The loss is a sum over rows, so its gradient is one over the parts.
                    let whole = done.tensors.entry(format!("grad:{weight}"));
                    *whole.or_insert_with(|| Array::zeros(shape)) += &own;
                }
            }
        }
        Ok(())
    }

    /// Gradients at places, `[places, width]`, as `[rows, longest, ...]`.
    fn padded(&self, rows: &[Vec<u32>], site: Site, gradient: &Tensor) -> Result<Array> {
        let longest = longest(rows);
        let width = self.width(site);
        let flat: usize = width.iter().product();
        let mut values = vec![0.0; rows.len() * longest * flat];
        let mut rest = gradient.as_f32()?;
        for (row, into) in rows.iter().zip(values.chunks_exact_mut((longest * flat).max(1))) {
            let (own, later) = rest.split_at_checked(row.len() * flat).unwrap_or((rest, &[]));
            into[..own.len()].copy_from_slice(own);
            rest = later;
        }
        let shape: Vec<usize> = [rows.len(), longest].into_iter().chain(width).collect();
        Array::from_shape_vec(IxDyn(&shape), values).map_err(|e| super::file::unfit(&e.to_string()))
    }

    /// The extents of a site after row and position.
    fn width(&self, site: Site) -> Vec<usize> {
        self.model.anatomy().site_dims(site).iter().skip(2).filter_map(|d| d.known()).collect()
    }

    /// Puts the activations of some rows into the whole tensor; what no token is at stays zero.
    fn put(&self, name: String, site: Site, first: usize, part: ArrayViewD<'_, f32>, done: &mut Done) {
        let pattern = matches!(site, Site::Block(_, BlockSite::Pattern));
        // The axes that count positions.
        let counts = |axis: usize| if pattern { axis >= 2 } else { axis == 1 };
        let whole = done.tensors.entry(name).or_insert_with(|| {
            let mut shape = part.shape().to_vec();
            shape[0] = self.rows.len();
            let counted = (1..shape.len()).filter(|&axis| counts(axis)).collect::<Vec<_>>();
            counted.into_iter().for_each(|axis| shape[axis] = longest(self.rows));
            Array::zeros(shape)
        });
        for (row, from) in part.axis_iter(Axis(0)).enumerate() {
            let length = self.rows[first + row].len();
            let extent = |axis: usize, all: usize| Slice::from(0..if counts(axis + 1) { length } else { all });
            let mut to = whole.index_axis_mut(Axis(0), first + row);
            to.slice_each_axis_mut(|a| extent(a.axis.index(), a.len))
                .assign(&from.slice_each_axis(|a| extent(a.axis.index(), a.len)));
        }
    }
}

/// Consecutive rows that are run at once: as many as a batch must have, if that is fixed.
fn parts(rows: &[Vec<u32>], fixed: Option<usize>) -> Vec<Range<usize>> {
    if let Some(fixed) = fixed.filter(|&fixed| fixed > 0) {
        return (0..rows.len()).step_by(fixed).map(|first| first..(first + fixed).min(rows.len())).collect();
    }
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut widest = 0;
    for (i, row) in rows.iter().enumerate() {
        widest = widest.max(row.len());
        match parts.last_mut() {
            Some(part) if (part.len() + 1) * widest <= TOKENS_AT_ONCE => part.end = i + 1,
            _ => {
                parts.push(i..i + 1);
                widest = row.len();
            }
        }
    }
    parts
}

fn longest(rows: &[Vec<u32>]) -> usize {
    rows.iter().map(Vec::len).max().unwrap_or(0)
}

/// The last position of each row.
fn last(rows: &[Vec<u32>]) -> Vec<Place> {
    rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len().saturating_sub(1) }).collect()
}

/// −log p(token), in nats.
fn nll<'a>(logits: impl Iterator<Item = &'a f32> + Clone, token: usize) -> f32 {
    let logits = logits.map(|&v| f64::from(v));
    let top = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.clone().map(|v| (v - top).exp()).sum();
    let own = logits.clone().nth(token).unwrap_or(f64::NEG_INFINITY);
    (top + sum.ln() - own) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_run_in_parts_that_fit_and_none_is_lost() {
        let rows: Vec<Vec<u32>> = [700, 700, 600, 1, 3000, 5].iter().map(|&n| vec![0; n]).collect();
        assert_eq!(parts(&rows, None), [0..2, 2..4, 4..5, 5..6]);
        assert_eq!(parts(&rows, Some(4)), [0..4, 4..6]);
    }

    #[test]
    fn a_likelihood_is_that_of_the_softmax() {
        let logits = [1.0_f32, 3.0, -2.0];
        let p = 3.0_f64.exp() / (1.0_f64.exp() + 3.0_f64.exp() + (-2.0_f64).exp());
        assert!((f64::from(nll(logits.iter(), 1)) + p.ln()).abs() < 1e-6);
    }
}
