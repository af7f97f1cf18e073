//! What a method may ask of the host: data in, data out. The model itself is never handed over, and nothing a method
//! asks for changes it.
//!
//! Rows of tokens are right-padded by the host; positions are absolute and count from 0 at the row's first token.

mod module;

pub use module::{Module, ModuleCall, ModuleGraph, ModuleId, ModuleReply, ModuleSource, ModuleVariable};

use std::ops::Range;

use crate::change::Change;
use crate::error::MethodError;
use crate::method::Checkpoint;
use crate::request::EditRequest;
use crate::site::Site;
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// A position of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which row of the request.
    pub row: usize,
    /// Which token of the row.
    pub pos: usize,
}

/// Facts of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// The hash that binds artefacts to this model.
    pub hash: String,
    /// The number of blocks.
    pub layers: usize,
    /// The width of the residual stream.
    pub d_model: usize,
    /// The width of `mlp.post`.
    pub d_mlp: usize,
    /// The number of attention heads.
    pub heads: usize,
    /// The number of rows of the unembedding.
    pub vocab: usize,
    /// The longest row, in tokens; `usize::MAX` where nothing bounds it, as where positions are rotations.
    pub context: usize,
    /// The token that begins texts and separates documents, where the tokenizer has one.
    pub start_token: Option<u32>,
    /// The sites that the graph has.
    pub sites: Vec<Site>,
    /// The weights that the graph has.
    pub weights: Vec<WeightRef>,
    /// Context prefixes that ship with the model, each with one `{}` for the prompt.
    pub prefixes: Vec<String>,
}

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The bytes of the text that each token covers.
    pub spans: Vec<Range<usize>>,
}

impl Tokens {
    /// The index of the last token that covers a byte of `span`.
    pub fn last_in(&self, span: &Range<usize>) -> Option<usize> {
        self.spans.iter().rposition(|s| s.start < span.end && s.end > span.start)
    }

    /// The index of the first token that covers a byte of `span`.
    pub fn first_in(&self, span: &Range<usize>) -> Option<usize> {
        self.spans.iter().position(|s| s.start < span.end && s.end > span.start)
    }
}

/// Values put in at a site: after all that changes do there, and before anything reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Poke {
    /// Where.
    pub site: Site,
    /// At which rows and positions, each at most once.
    pub places: Vec<Place>,
    /// `[places.len(), width]`, or `[1, width]` for the same vector everywhere.
    pub values: Tensor,
}

/// An activation to read, after all that changes and pokes do there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Which.
    pub site: Site,
    /// `None` reads every position, `[rows, longest, ...]` with zeros in the padding; else `[places.len(), ...]`.
    pub places: Option<Vec<Place>>,
}

/// A forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunRequest {
    /// Token ids, a row each.
    pub rows: Vec<Vec<u32>>,
    /// The last token of each row's prompt, for changes that ask for it; empty where every row is all prompt.
    pub prompt_ends: Vec<usize>,
    /// Activations to read.
    pub taps: Vec<Tap>,
    /// Activations replaced, before anything is added.
    pub overwrites: Vec<Poke>,
    /// Vectors added to activations.
    pub adds: Vec<Poke>,
    /// Where to read logits.
    pub logits: Vec<Place>,
    /// Changes evaluated as if they were committed. Those that have a method called, interceptions and routes, are
    /// refused: a trial change does not say whose it is.
    pub under: Vec<Change>,
}

/// What a forward pass gave.
#[derive(Clone, Debug, PartialEq)]
pub struct RunReply {
    /// One tensor for each tap.
    pub taps: Vec<Tensor>,
    /// `[logits.len(), vocab]`
    pub logits: Tensor,
}

/// A term of a loss. The loss is the sum of `weight · term`.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// −log p(token) of the next-token distribution at a place, in nats.
    Nll {
        /// Where the distribution is read.
        place: Place,
        /// The token that should follow.
        token: u32,
        /// Its factor in the loss.
        weight: f32,
    },
    /// Kullback-Leibler divergence between the distribution at a place and a recorded one, in nats.
    Kl {
        /// Where the distribution is read.
        place: Place,
        /// Log-probabilities of the recorded distribution, `vocab` values.
        reference: Vec<f32>,
        /// Which of the two is the expectation's.
        direction: KlDirection,
        /// Its factor in the loss.
        weight: f32,
    },
    /// The dot product of a vector with an activation: its gradient at the place is the vector itself.
    Seed {
        /// Which activation.
        site: Site,
        /// Where.
        place: Place,
        /// One value for each channel of the site.
        vector: Vec<f32>,
        /// Its factor in the loss.
        weight: f32,
    },
}

impl Term {
    /// The term's factor in the loss.
    pub fn weight(&self) -> f32 {
        match self {
            Self::Nll { weight, .. } | Self::Kl { weight, .. } | Self::Seed { weight, .. } => *weight,
        }
    }
}

/// The direction of a divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KlDirection {
    /// KL(current ‖ recorded).
    FromCurrent,
    /// KL(recorded ‖ current).
    FromReference,
}

/// With respect to what a loss is differentiated.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrt {
    /// The values of `adds[i]`: `[places, width]`, one row for each place also where one vector is shared.
    Add(usize),
    /// A weight: the shape of the weight.
    Weight(WeightRef),
    /// The factors of a linear weight's gradient: its input `[rows, longest, in]` and the loss's gradient with
    /// respect to its output `[rows, longest, out]`.
    Pairs(WeightRef),
    /// The tensors of `under[i]`, in the order of [`Change::tensors`]: its own, also where they are folded with those
    /// of active patches.
    Trial(usize),
}

/// A loss and its gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientRequest {
    /// Token ids, a row each.
    pub rows: Vec<Vec<u32>>,
    /// The last token of each row's prompt, for changes that ask for it; empty where every row is all prompt.
    pub prompt_ends: Vec<usize>,
    /// Activations replaced, before anything is added.
    pub overwrites: Vec<Poke>,
    /// Vectors added to activations.
    pub adds: Vec<Poke>,
    /// Changes evaluated as if they were committed. Those that have a method called, interceptions and routes, are
    /// refused: a trial change does not say whose it is.
    pub under: Vec<Change>,
    /// The loss.
    pub terms: Vec<Term>,
    /// The variables.
    pub wrt: Vec<Wrt>,
}

/// A loss and its gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientReply {
    /// Σ weight · term.
    pub loss: f32,
    /// The terms, unweighted, in the order of the request.
    pub terms: Vec<f32>,
    /// The gradients, one list for each variable (two tensors for `Pairs`, those of the change for `Trial`).
    pub gradients: Vec<Vec<Tensor>>,
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Decoding {
    /// The most probable one.
    #[default]
    Greedy,
    /// Drawn.
    Sample(Sampling),
}

/// What is drawn from: the logits are divided by the temperature, of the `top_k` most probable tokens the fewest are
/// kept whose probabilities reach `top_p`, and one of these is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// How many of the most probable tokens are kept, at least 1; `None` keeps all.
    pub top_k: Option<usize>,
    /// The share of the probability of what `top_k` kept, above 0 and at most 1, that is reached by the most probable
    /// tokens; the others go. `None` keeps all.
    pub top_p: Option<f32>,
    /// Seeds the draws. A draw depends on the seed, the number of the row and the number of the new token alone.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: None, seed: 0 }
    }
}

/// A continuation of prompts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateRequest {
    /// Token ids, a row each; none empty.
    pub rows: Vec<Vec<u32>>,
    /// How many tokens are appended at most.
    pub max_new: usize,
    /// How they are chosen.
    pub decoding: Decoding,
    /// Tokens that end a row; they are not returned.
    pub stop: Vec<u32>,
    /// Texts that end a row, wherever they stand in what the new tokens say; the token that completes one is the last
    /// that is returned. They need the model's tokenizer.
    pub stop_texts: Vec<String>,
    /// Changes evaluated as if they were committed. Those that have a method called, interceptions and routes, are
    /// refused: a trial change does not say whose it is.
    pub under: Vec<Change>,
}

/// A statistic of a site over the experiment's corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondMoment {
    /// The uncentred second moment E[x xᵀ], `[width, width]`.
    pub matrix: Tensor,
    /// How many positions it is the mean of.
    pub tokens: u64,
}

/// An active patch of the method that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPatch {
    /// Its identifier: the hash of what it holds.
    pub id: String,
    /// What it fulfils.
    pub requests: Vec<EditRequest>,
    /// The bytes of its [`State`](Change::State); empty where it has none.
    pub state: Vec<u8>,
}

/// How serious a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// For whoever watches.
    Info,
    /// Something the user should know.
    Warn,
}

/// The host as a method sees it. All calls may be made from any thread; each may fail with an error of the host,
/// whose code begins with `host-`.
pub trait ModelAccess: Send + Sync {
    /// Facts of the model; cheap.
    fn facts(&self) -> ModelFacts;

    /// Splits a text into tokens. No special token is added.
    ///
    /// # Errors
    /// If the model has no tokenizer or it cannot encode the text.
    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError>;

    /// Joins tokens to a text.
    ///
    /// # Errors
    /// If the model has no tokenizer or an id is out of range.
    fn decode(&self, ids: &[u32]) -> Result<String, MethodError>;

    /// A weight as the model has it now, `W[in, out]`.
    ///
    /// # Errors
    /// If the model has no such weight.
    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError>;

    /// A forward pass.
    ///
    /// # Errors
    /// If a site, place or shape does not fit the model, or the runtime fails.
    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError>;

    /// A loss and its gradients.
    ///
    /// # Errors
    /// As [`run`](Self::run), and if an operator on the way has no gradient.
    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError>;

    /// Continues each row and returns the new tokens.
    ///
    /// # Errors
    /// As [`run`](Self::run), if a row fills the context already, and if the decoding cannot be.
    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError>;

    /// The second moment of a site over the experiment's corpus, computed once and kept.
    ///
    /// # Errors
    /// If there is no corpus, or the site has no vectors of one width.
    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError>;

    /// The active patches of this method, in the order of their commits.
    ///
    /// # Errors
    /// `abi-op` if the host does not know the call.
    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        Err(MethodError::unknown_call("patches"))
    }

    /// A running statistic of this method, whatever its parameters: the fold of the [`Increment`](crate::Increment)s of that name, those of
    /// [`Change::Statistic`] and the tables of splices, over the active patches. `None` if there are none.
    ///
    /// # Errors
    /// `abi-op` if the host does not know the call.
    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        let _ = name;
        Err(MethodError::unknown_call("statistic"))
    }

    /// Asks for something of a network of the method's own; [`Module`] asks for its caller.
    ///
    /// # Errors
    /// `abi-op` if the host does not know the call. Else what is wrong with the network, the feeds or the runtime.
    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        let _ = call;
        Err(MethodError::unknown_call("module"))
    }

    /// Keeps a training's state, in place of an earlier one; [`TrainData::resume`](crate::TrainData::resume) gives it
    /// back after a training was cut off. When this returns, it is safe.
    ///
    /// # Errors
    /// If it cannot be written, with the earlier one intact; `abi-op` if the host does not know the call.
    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        let _ = checkpoint;
        Err(MethodError::unknown_call("checkpoint"))
    }

    /// Tells a figure of a training after so many steps: a loss, a learning rate, an accuracy. A host that does not
    /// know the call ignores it.
    fn metric(&self, step: u64, name: &str, value: f64) {
        let _ = (step, name, value);
    }

    /// The seed of a named random stream of this edit: the same name gives the same seed.
    fn random(&self, stream: &str) -> u64;

    /// True once the user has asked to stop: return [`MethodError::cancelled`] soon.
    fn cancelled(&self) -> bool;

    /// Tells how far the call is.
    fn progress(&self, done: u64, total: u64, what: &str);

    /// Says something.
    fn log(&self, level: Level, message: &str);
}
