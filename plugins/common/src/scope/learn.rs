//! The training of a scope: logistic losses over pairs of prompts and edits, Adam, early stopping.
//!
//! With S the logit of a query and an edit, the loss is the sum of two means: of log(1 + e^−S) over queries and the edit
//! in whose scope they are, and of log(1 + Σ e^S) over all queries, the sum going over the edits of the step in whose
//! scope they are not; queries within and without a scope have the same weight in it.

use engraft_plugin_api::{Artefact, Checkpoint, MethodError, ModelAccess, Tensor, TrainData};
use ndarray::{Array1, Array2};

use super::metric::Metric;
use super::network::{Feeds, Network};
use super::pairs::{Judged, Pairs, Prompts, metric, prefixes};
use super::{Scope, ScopeParams};
use crate::train::{Decay, EarlyStop, Optimizer, Store};
use crate::{Adam, check_cancelled};

/// Stretch and shift before the first step: a cosine of 0.8 is the border.
pub(super) const START: [f32; 2] = [15.0, -12.0];

/// Learns a scope from records.
///
/// # Errors
/// `scope-data` if no record has a prompt in its scope; `scope-layer`; `cancelled`; those of the host.
pub fn learn(access: &dyn ModelAccess, data: &TrainData, params: &ScopeParams) -> Result<Artefact, MethodError> {
    let facts = access.facts();
    let layer = params.block(&facts)?;
    if !data.train.iter().any(|record| !record.in_scope.is_empty()) {
        let text =
            format!("none of {} records has a prompt in its scope, from which it could be learnt", data.train.len());
        return Err(MethodError::new("scope-data", text).help("train on records with paraphrases"));
    }
    access.progress(0, params.steps, "reading prompts");
    let texts = prefixes(access, data)?;
    let mut train = Prompts::of(access, &data.train, facts.context, texts)?;
    let mut validation = Prompts::of(access, &data.validation, facts.context, Vec::new())?;
    let start = metric(&train.read(access, layer)?, params.rank, access.random("metric"));
    let (train, validation) = (train.pairs(access, layer, &start)?, validation.pairs(access, layer, &start)?);
    let mut course = Course::new(access, params, start);
    course.resume(data.resume.as_ref())?;
    let network = Network::open(access)?;
    let seed = access.random("batches");
    while course.step < params.steps && !course.over() {
        check_cancelled(access)?;
        course.descend(&network, &train.drawn(params.batch, seed.wrapping_add(course.step)))?;
        let step = course.step;
        if step.is_multiple_of(params.every) || step == params.steps {
            course.validate(&network, &validation)?;
            access.checkpoint(&course.checkpoint()?)?;
        }
        access.progress(step, params.steps, "learning a scope");
    }
    Ok(Artefact::new(&facts, data, Scope { layer, metric: course.best() }.to_bytes()?))
}

/// A training on its way.
struct Course<'a> {
    access: &'a dyn ModelAccess,
    params: &'a ScopeParams,
    start: Metric,
    step: u64,
    /// Gain, left and right, one after the other.
    weights: Vec<f32>,
    /// Stretch and shift.
    border: Vec<f32>,
    adam: [Adam; 2],
    stop: EarlyStop,
    /// Weights and border of the best validation.
    kept: Option<(Vec<f32>, Vec<f32>)>,
}

impl<'a> Course<'a> {
    fn new(access: &'a dyn ModelAccess, params: &'a ScopeParams, start: Metric) -> Self {
        let weights: Vec<f32> = start.gain.iter().chain(&start.left).chain(&start.right).copied().collect();
        let adam = [Adam::new(weights.len(), params.lr), Adam::new(2, params.lr)];
        let (border, stop) = (START.to_vec(), EarlyStop::new(params.patience));
        Self { access, params, start, step: 0, weights, border, adam, stop, kept: None }
    }

    fn tensors(&self) -> Result<[Tensor; 3], MethodError> {
        let (d, rank) = (self.start.width(), self.params.rank);
        let (gain, rest) = self.weights.split_at(d);
        let (left, right) = rest.split_at(d * rank);
        Ok([
            Tensor::f32([d], gain.to_vec())?,
            Tensor::f32([d, rank], left.to_vec())?,
            Tensor::f32([rank, d], right.to_vec())?,
        ])
    }

    fn judge(&self, network: &Network<'_>, pairs: &Pairs) -> Result<(Judged, Array2<f32>), MethodError> {
        let feeds = Feeds { queries: &pairs.queries, edits: &pairs.edits, weights: self.tensors()? };
        let cosines = network.cosines(&feeds)?;
        Ok((pairs.judged(&cosines, self.border[0].into(), self.border[1].into()), cosines))
    }

    fn descend(&mut self, network: &Network<'_>, pairs: &Pairs) -> Result<(), MethodError> {
        let (Judged { loss, gradient, .. }, cosines) = self.judge(network, pairs)?;
        let seed = gradient.mapv(|g| (g * f64::from(self.border[0])) as f32);
        let feeds = Feeds { queries: &pairs.queries, edits: &pairs.edits, weights: self.tensors()? };
        let mut flat = Vec::with_capacity(self.weights.len());
        for tensor in network.gradients(&feeds, &seed)? {
            flat.extend_from_slice(tensor.as_f32()?);
        }
        let stretch: f64 = gradient.iter().zip(&cosines).map(|(g, &c)| g * f64::from(c)).sum();
        let border = [stretch as f32, gradient.sum() as f32];
        let lr = self.params.lr;
        Decay::Decoupled(self.params.decay).step(&mut self.adam[0], lr, &mut self.weights, &flat);
        Optimizer::step(&mut self.adam[1], 10.0 * lr, &mut self.border, &border);
        self.step += 1;
        self.access.metric(self.step, "loss", loss);
        Ok(())
    }

    fn validate(&mut self, network: &Network<'_>, pairs: &Pairs) -> Result<(), MethodError> {
        if pairs.edits.nrows() == 0 {
            return Ok(());
        }
        let (Judged { loss, shares: [within, without], .. }, _) = self.judge(network, pairs)?;
        self.access.metric(self.step, "validation loss", loss);
        self.access.metric(self.step, "accepted share", within);
        self.access.metric(self.step, "refused share", without);
        if self.stop.measured(self.step, loss) {
            self.kept = Some((self.weights.clone(), self.border.clone()));
        }
        Ok(())
    }

    fn over(&self) -> bool {
        self.kept.is_some() && self.stop.done(self.step)
    }

    /// The metric of the best validation; the last one where there was none.
    fn best(&self) -> Metric {
        let (weights, border) = self.kept.as_ref().map_or((&self.weights, &self.border), |(w, b)| (w, b));
        let (d, rank) = (self.start.width(), self.params.rank);
        let at = |from: usize, index: usize| weights[from + index];
        Metric {
            gain: Array1::from_shape_fn(d, |i| at(0, i)),
            left: Array2::from_shape_fn((d, rank), |(i, j)| at(d, i * rank + j)),
            right: Array2::from_shape_fn((rank, d), |(i, j)| at(d + d * rank, i * d + j)),
            stretch: border[0].into(),
            shift: border[1].into(),
            ..self.start.clone()
        }
    }

    fn checkpoint(&self) -> Result<Checkpoint, MethodError> {
        let mut store = Store::default();
        let vector = |v: &[f32]| Tensor::from_array(&ndarray::ArrayView1::from(v));
        store.set("weights", vector(&self.weights));
        store.set("border", vector(&self.border));
        self.adam[0].save("adam", &mut store);
        self.adam[1].save("adam of the border", &mut store);
        self.stop.save("stop", &mut store);
        if let Some((weights, border)) = &self.kept {
            store.set("best weights", vector(weights));
            store.set("best border", vector(border));
        }
        Ok(Checkpoint { step: self.step, bytes: store.to_bytes()? })
    }

    fn resume(&mut self, checkpoint: Option<&Checkpoint>) -> Result<(), MethodError> {
        let Some(checkpoint) = checkpoint else { return Ok(()) };
        let store = Store::from_bytes(&checkpoint.bytes)?;
        self.step = checkpoint.step;
        self.weights = store.floats("weights", self.weights.len())?;
        self.border = store.floats("border", 2)?;
        self.adam[0].load("adam", &store)?;
        self.adam[1].load("adam of the border", &store)?;
        self.stop.load("stop", &store)?;
        if store.tensor("best weights").is_ok() {
            self.kept = Some((store.floats("best weights", self.weights.len())?, store.floats("best border", 2)?));
        }
        Ok(())
    }
}
