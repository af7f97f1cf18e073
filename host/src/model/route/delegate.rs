//! Networks that answer in a model's place, or have a say in what it answers.

use std::sync::Arc;

use engraft_plugin_api::{ModuleCall, ModuleId, ModuleReply, Place, RunRequest, Tensor};

use super::Way;
use crate::base::{Cancel, Error, Result};
use crate::model::codes;
use crate::model::module::INPUT;
use crate::model::open::Model;

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

/// A network that has a say in some rows of a request, as it is when the request begins.
pub(in crate::model) struct Voice<'m> {
    /// The model in whose place it speaks.
    model: &'m Model,
    method: String,
    module: ModuleId,
    /// The network as a model of its own; none where it is not read as a decoder, and whole rows go in and out.
    pub(in crate::model) decoder: Option<Arc<Model>>,
    /// The longest row that it reads, in tokens.
    limit: usize,
}

/// The networks that have a say in the rows of a request, each once.
pub(in crate::model) struct Voices<'m>(pub(in crate::model) Vec<Voice<'m>>);

impl<'m> Voices<'m> {
    /// # Errors
    /// `module-unknown`, `model-dtype`; `route-vocab` if the tokenizer beside a network is not the model's
    pub(in crate::model) fn of<'w>(model: &'m Model, ways: impl IntoIterator<Item = &'w Way>) -> Result<Self> {
        let mut all = Self(Vec::new());
        for delegate in ways.into_iter().filter_map(Way::delegate) {
            if all.number(delegate).is_none() {
                all.0.push(Voice::of(model, delegate)?);
            }
        }
        Ok(all)
    }

    /// Which of them is a row's.
    pub(in crate::model) fn number(&self, delegate: &Delegate) -> Option<usize> {
        self.0.iter().position(|voice| voice.module == delegate.module && voice.method == delegate.method)
    }

    /// The one that has a say in a row.
    pub(in crate::model) fn find(&self, way: &Way) -> Option<&Voice<'m>> {
        self.number(way.delegate()?).map(|number| &self.0[number])
    }
}

impl<'m> Voice<'m> {
    fn of(model: &'m Model, delegate: &Delegate) -> Result<Self> {
        let Delegate { method, module, .. } = delegate;
        if let Some(found) = model.foreign_vocabulary(module)? {
            let text = format!("`{method}` lets `{}` answer, which has another vocabulary: {found}", module.0);
            return Err(Error::new(&codes::ROUTE_VOCAB, text));
        }
        let (decoder, said) = (model.decoder(module)?, model.said_context(module)?);
        // Positions have a row each in a table, or the network was made for so many.
        let learned = decoder.as_ref().and_then(|decoder| decoder.anatomy().context);
        let limit = learned.into_iter().chain(said).min().unwrap_or(usize::MAX);
        Ok(Self { model, method: method.clone(), module: module.clone(), decoder, limit })
    }

    /// True if nothing can be appended to a row of so many tokens.
    pub(in crate::model) fn is_full(&self, length: usize) -> bool {
        length >= self.limit
    }

    /// Refuses a row of so many tokens that is to be continued.
    ///
    /// # Errors
    /// `row-too-long`
    pub(in crate::model) fn check_room(&self, length: usize) -> Result<()> {
        let what = || format!("leaves no room to continue in its context of {}", self.limit);
        if self.is_full(length) { Err(self.too_long(length, &what())) } else { Ok(()) }
    }

    /// Refuses a row of so many tokens that is to be read.
    ///
    /// # Errors
    /// `row-too-long`
    pub(in crate::model) fn check_length(&self, length: usize) -> Result<()> {
        let what = || format!("is longer than its context of {}", self.limit);
        if length > self.limit { Err(self.too_long(length, &what())) } else { Ok(()) }
    }

    fn too_long(&self, length: usize, what: &str) -> Error {
        let Self { method, module, .. } = self;
        let text = format!("a row of {length} tokens that `{method}` gives the network `{}` {what}", module.0);
        Error::new(&codes::ROW_TOO_LONG, text)
    }

    /// What it says of the token after each of its tokens from `from` on: logits, a line each.
    ///
    /// # Errors
    /// `route-vocab` if it does not give finite logits of the model's vocabulary; what the network meets.
    pub(in crate::model) fn lines(
        &self,
        tokens: &[u32],
        from: usize,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Vec<f32>>> {
        let Some(decoder) = &self.decoder else { return self.whole(tokens, from, cancel) };
        let logits = (from..tokens.len()).map(|pos| Place { row: 0, pos }).collect();
        let request = RunRequest { rows: vec![tokens.to_vec()], logits, ..RunRequest::default() };
        self.check_vocab()?;
        self.checked(&decoder.run_until(&request, cancel)?.logits)
    }

    /// The logits of a whole row, of which those from `from` on are kept.
    fn whole(&self, tokens: &[u32], from: usize, cancel: Option<&Cancel>) -> Result<Vec<Vec<f32>>> {
        let ids = Tensor::i64([1, tokens.len()], tokens.iter().map(|&t| i64::from(t)).collect())?;
        let fetch = vec![self.model.first_output(&self.module)?];
        let call = ModuleCall::Run { module: self.module.clone(), feeds: vec![(INPUT.to_owned(), ids)], fetch };
        let ModuleReply::Values { outputs, .. } = self.model.module(&call, cancel)? else {
            return Err(self.refused("nothing"));
        };
        let expected = [1, tokens.len(), self.model.anatomy().vocab];
        match outputs.first() {
            Some(logits) if logits.shape() == expected && logits.as_f32().is_ok() => {
                Ok(self.checked(logits)?.split_off(from))
            }
            Some(other) => Err(self.refused(&format!("{:?}", other.shape()))),
            None => Err(self.refused("nothing")),
        }
    }

    /// That a decoder has the vocabulary of the model.
    ///
    /// # Errors
    /// `route-vocab`
    pub(in crate::model) fn check_vocab(&self) -> Result<()> {
        match self.decoder.as_ref().map(|decoder| decoder.anatomy().vocab) {
            Some(vocab) if vocab != self.model.anatomy().vocab => {
                Err(self.refused(&format!("[rows, columns, {vocab}]")))
            }
            _ => Ok(()),
        }
    }

    /// Logits as lines, if they are of the model's vocabulary and finite.
    ///
    /// # Errors
    /// `route-vocab`
    pub(in crate::model) fn checked(&self, logits: &Tensor) -> Result<Vec<Vec<f32>>> {
        let (flat, vocab) = (logits.as_f32()?, self.model.anatomy().vocab);
        if logits.shape().last() != Some(&vocab) {
            return Err(self.refused(&format!("{:?}", logits.shape())));
        }
        if flat.iter().any(|v| v.is_nan() || *v == f32::INFINITY) {
            return Err(self.refused("not finite"));
        }
        Ok(flat.chunks(vocab).map(<[f32]>::to_vec).collect())
    }

    fn refused(&self, found: &str) -> Error {
        let text = format!("`{}` lets `{}` answer, whose first output is {found}", self.method, self.module.0);
        let expected = format!("expected finite logits [rows, columns, {}]", self.model.anatomy().vocab);
        Error::new(&codes::ROUTE_VOCAB, format!("{text}: {expected}"))
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
