//! Networks that answer in a model's place, or have a say in what it answers.

use engraft_plugin_api::{ModuleCall, ModuleId, ModuleReply, Tensor};

use crate::base::{Cancel, Error, Result};
use crate::model::codes;
use crate::model::open::Model;

/// The input of a delegate.
const INPUT: &str = "input_ids";

/// A network that has a say.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::model) struct Delegate {
    /// The method that named it.
    pub(in crate::model) method: String,
    /// The network.
    pub(in crate::model) module: ModuleId,
    /// What it reads: in place of the prompt, then what was answered.
    pub(in crate::model) tokens: Vec<u32>,
    /// Its share of the probability, above 0.
    pub(in crate::model) mix: f32,
}

impl Model {
    /// What a delegate says of the token after each of its tokens from `from` on: logits, a line each.
    ///
    /// # Errors
    /// `module-unknown`; `route-vocab` if it does not give finite logits of the model's vocabulary; what the network
    /// meets.
    pub(in crate::model) fn delegated(
        &self,
        delegate: &Delegate,
        tokens: &[u32],
        from: usize,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Vec<f32>>> {
        let Delegate { method, module, .. } = delegate;
        let ids = Tensor::i64([1, tokens.len()], tokens.iter().map(|&t| i64::from(t)).collect())?;
        let fetch = vec![self.first_output(module)?];
        let call = ModuleCall::Run { module: module.clone(), feeds: vec![(INPUT.to_owned(), ids)], fetch };
        let reply = self.module(&call, cancel)?;
        let logits = match &reply {
            ModuleReply::Values { outputs, .. } => outputs.first(),
            _ => None,
        };
        let expected = [1, tokens.len(), self.anatomy().vocab];
        let refused = |found: String| {
            let text = format!("`{method}` lets `{}` answer, whose first output is {found}", module.0);
            Error::new(&codes::ROUTE_VOCAB, format!("{text}: expected finite logits {expected:?}"))
        };
        let Some(logits) = logits.filter(|logits| logits.shape() == expected && logits.as_f32().is_ok()) else {
            return Err(refused(logits.map_or_else(|| "nothing".into(), |found| format!("{:?}", found.shape()))));
        };
        let flat = logits.as_f32()?;
        if flat.iter().any(|v| v.is_nan() || *v == f32::INFINITY) {
            return Err(refused("not finite".into()));
        }
        Ok(flat.chunks(self.anatomy().vocab).skip(from).map(<[f32]>::to_vec).collect())
    }
}

/// The logarithms of `(1 − mix) · own + mix · other`, both given by logits; of the other alone where there is no own.
pub(in crate::model) fn mixed(own: Option<&[f32]>, other: &[f32], mix: f32) -> Vec<f32> {
    let probabilities = |logits: &[f32]| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let parts: Vec<f64> = logits.iter().map(|&v| f64::from(v - max).exp()).collect();
        let sum: f64 = parts.iter().sum();
        parts.into_iter().map(move |part| part / sum)
    };
    let other = probabilities(other);
    let Some(own) = own else { return other.map(|p| p.ln() as f32).collect() };
    let mix = f64::from(mix);
    probabilities(own).zip(other).map(|(own, other)| ((1.0 - mix) * own + mix * other).ln() as f32).collect()
}
