//! What a method learns from, and what is left of it: data, checkpoints and the artefact.

use crate::access::ModelFacts;
use crate::error::MethodError;
use crate::request::EditRequest;

/// What a method is trained on. Its records are of a training split: what metrics measure is never among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainData {
    /// The hash that binds an artefact to this data.
    pub hash: String,
    /// What is learnt.
    pub train: Vec<TrainRecord>,
    /// What tells when to stop.
    pub validation: Vec<TrainRecord>,
    /// Plain texts, a document each.
    pub texts: Vec<String>,
    /// Where an earlier training of the same data, model and parameters was cut off.
    pub resume: Option<Checkpoint>,
}

/// An edit with what should and what should not follow it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainRecord {
    /// The edit.
    pub request: EditRequest,
    /// Prompts that the edit should reach: paraphrases and consequences, with the answers after it.
    pub in_scope: Vec<Example>,
    /// Prompts that it should leave alone, with the answers before it where they are known.
    pub out_of_scope: Vec<Example>,
}

/// A prompt with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The prompt.
    pub prompt: String,
    /// The continuation, without a leading space.
    pub answer: Option<String>,
}

/// A training on its way. The bytes are the method's own; with them and the same data, model, parameters and seed it
/// ends as if it had never stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many steps are done.
    pub step: u64,
    /// Whatever the method needs to go on.
    pub bytes: Vec<u8>,
}

/// What a method learnt, bound to the model and the data that it learnt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artefact {
    /// [`ModelFacts::hash`] of the base model.
    pub base: String,
    /// [`TrainData::hash`].
    pub data: String,
    /// The method's own bytes.
    pub bytes: Vec<u8>,
}

impl Artefact {
    /// An artefact of a model and data.
    pub fn new(facts: &ModelFacts, data: &TrainData, bytes: Vec<u8>) -> Self {
        Self { base: facts.hash.clone(), data: data.hash.clone(), bytes }
    }

    /// Checks that the artefact was made on a model.
    ///
    /// # Errors
    /// `artefact-base` if it was another one.
    pub fn check(&self, facts: &ModelFacts) -> Result<(), MethodError> {
        if self.base == facts.hash {
            return Ok(());
        }
        let text = format!("the artefact was trained on the model {}, this is {}", self.base, facts.hash);
        Err(MethodError::new("artefact-base", text).help("train the method on this model"))
    }
}
