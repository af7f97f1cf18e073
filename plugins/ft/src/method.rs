//! The descent: dense deltas of a few weights, evaluated as if committed, moved by Adam on the rows' loss.

use engraft_method_common::{Adam, check_cancelled};
use engraft_plugin_api::{
    Capabilities, Change, Delta, Descriptor, EditMethod, EditRequest, Family, GradientRequest, Level, MethodError,
    ModelAccess, Params, Plugin, Tensor, Wrt,
};

use crate::constraint::clamp;
use crate::objective::TaughtRow;
use crate::params::FtParams;

/// FT, FT-L and FT-M with their parameters.
pub struct Ft {
    params: FtParams,
}

impl Plugin for Ft {
    fn describe() -> Descriptor {
        Descriptor {
            name: "ft".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::InternalModification,
            summary: "Fine-tunes one weight of a few layers on the edit itself (FT, FT-L, FT-M).".into(),
            paper: "Zhu et al. 2020: Modifying Memories in Transformer Models; Meng et al. 2022 (settings); \
                    Zhang et al. 2024: A Comprehensive Study of Knowledge Editing for LLMs (FT-M)"
                .into(),
            capabilities: Capabilities { batch: true, sequential: true, needs_subject: false },
            params: FtParams::specs(),
        }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Self { params: FtParams::read(params)? }))
    }
}

/// One trained weight.
struct Trained {
    adam: Adam,
    delta: Vec<f32>,
    shape: Vec<usize>,
    /// The weight before the edit, kept only where it decays.
    base: Option<Vec<f32>>,
}

impl EditMethod for Ft {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        check_cancelled(access)?;
        let mut batches = self.batches(access, requests)?;
        let mut trained = self.trained(access)?;
        // The trial changes travel from batch to batch: nothing is copied within a step but the new values.
        let mut trial = self.changes(&trained)?;
        let mut passes = 0;
        for step in 0..self.params.steps {
            access.progress(step as u64, self.params.steps as u64, "fine-tuning");
            let mut mean = 0.0;
            for batch in &mut batches {
                check_cancelled(access)?;
                batch.under = trial;
                let loss = self.step(access, batch, &mut trained)?;
                mean += loss * batch.rows.len() as f64 / requests.len() as f64;
                trial = std::mem::take(&mut batch.under);
                if loss >= self.params.early_stop_loss {
                    refill(&mut trial, &trained)?;
                }
            }
            passes = step + 1;
            access.log(Level::Debug, &format!("fine-tuning: pass {passes}, loss {mean:.4}"));
            if mean < self.params.early_stop_loss {
                break;
            }
        }
        if trained.iter().all(|t| t.delta.iter().all(|&d| d == 0.0)) {
            access.log(Level::Info, "the model already gives the targets: nothing to change");
            return Ok(Vec::new());
        }
        access.progress(passes as u64, passes as u64, "fine-tuning");
        Ok(trial)
    }
}

impl Ft {
    /// One gradient request for each batch of requests, complete but for the trial changes.
    fn batches(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<GradientRequest>, MethodError> {
        let context = access.facts().context;
        let batch = |requests: &[EditRequest]| {
            let rows = requests.iter().map(|r| TaughtRow::new(access, self.params.objective, r, context));
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            Ok(GradientRequest {
                terms: rows.iter().enumerate().flat_map(|(i, row)| row.terms(i, rows.len())).collect(),
                rows: rows.into_iter().map(|r| r.ids).collect(),
                wrt: (0..self.params.weights.len()).map(Wrt::Trial).collect(),
                ..GradientRequest::default()
            })
        };
        requests.chunks(self.params.batch_size).map(batch).collect()
    }

    fn trained(&self, access: &dyn ModelAccess) -> Result<Vec<Trained>, MethodError> {
        let one = |&weight| {
            let base = access.weight(weight)?;
            let (len, shape) = (base.len(), base.shape().to_vec());
            let base = if self.params.weight_decay > 0.0 { Some(base.into_f32()?) } else { None };
            Ok(Trained { adam: Adam::new(len, self.params.lr), delta: vec![0.0; len], shape, base })
        };
        self.params.weights.iter().map(one).collect()
    }

    /// One Adam step on one batch, unless its loss is small enough already; returns the loss before it.
    fn step(
        &self,
        access: &dyn ModelAccess,
        batch: &GradientRequest,
        trained: &mut [Trained],
    ) -> Result<f64, MethodError> {
        let reply = access.gradient(batch)?;
        let loss = f64::from(reply.loss);
        if !loss.is_finite() {
            return Err(MethodError::new("loss-not-finite", format!("the loss of fine-tuning became {loss}"))
                .help("a smaller `lr` or a `norm_constraint` may help"));
        }
        if loss < self.params.early_stop_loss {
            return Ok(loss);
        }
        let mut gradients = reply.gradients.into_iter();
        for weight in trained {
            let tensor = gradients.next().and_then(|g| g.into_iter().next()).filter(|t| t.shape() == weight.shape);
            let mut gradient = tensor
                .ok_or_else(|| {
                    let message = format!("the host gave no gradient of shape {:?} for a trained weight", weight.shape);
                    MethodError::new("reply-shape", message)
                })?
                .into_f32()?;
            if let Some(base) = &weight.base {
                let decay = self.params.weight_decay; // g ← g + λ θ with θ = W₀ + Δ, as torch's Adam has it
                gradient.iter_mut().zip(base).zip(&weight.delta).for_each(|((g, w), d)| *g += decay * (w + d));
            }
            weight.adam.step(&mut weight.delta, &gradient);
            clamp(&mut weight.delta, self.params.norm_constraint); // FT-L: W ∈ [W₀ − ε, W₀ + ε] after every step
        }
        Ok(loss)
    }

    fn changes(&self, trained: &[Trained]) -> Result<Vec<Change>, MethodError> {
        let one = |(&weight, t): (_, &Trained)| {
            Ok(Change::Weight { weight, delta: Delta::Dense(Tensor::f32(t.shape.clone(), t.delta.clone())?) })
        };
        self.params.weights.iter().zip(trained).map(one).collect()
    }
}

/// Copies the deltas into the buffers of the trial changes.
fn refill(trial: &mut [Change], trained: &[Trained]) -> Result<(), MethodError> {
    for (change, now) in trial.iter_mut().zip(trained) {
        if let Change::Weight { delta: Delta::Dense(tensor), .. } = change {
            let mut values = std::mem::replace(tensor, Tensor::zeros([0])).into_f32()?;
            values.copy_from_slice(&now.delta);
            *tensor = Tensor::f32(now.shape.clone(), values)?;
        }
    }
    Ok(())
}
