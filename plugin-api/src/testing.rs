//! For the tests of plugins: a host that holds weights and does not run. With
//! [`ForeignModule::of`](crate::abi::ForeignModule::of), a plugin is called through the whole border without a library
//! or a model.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::access::{
    GenerateRequest, GradientReply, GradientRequest, Level, ModelAccess, ModelFacts, ModuleCall, ModuleReply, OwnPatch,
    RunReply, RunRequest, SecondMoment, Tokens,
};
use crate::error::MethodError;
use crate::method::Checkpoint;
use crate::site::Site;
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// A model at rest: facts and weights; one token a byte; anything that needs a forward pass is the error `host-still`.
#[derive(Debug, Default)]
pub struct StillModel {
    /// What [`ModelAccess::facts`] tells.
    pub facts: ModelFacts,
    /// The weights, `W[in, out]`.
    pub weights: BTreeMap<WeightRef, Tensor>,
    /// What [`ModelAccess::cancelled`] tells.
    pub cancelled: AtomicBool,
    /// What [`ModelAccess::patches`] tells.
    pub patches: Vec<OwnPatch>,
    /// What [`ModelAccess::statistic`] tells.
    pub statistics: BTreeMap<String, Tensor>,
    /// What was logged, and the progress and the figures that were told.
    pub messages: Mutex<Vec<String>>,
    /// The checkpoints that were kept, all of them.
    pub checkpoints: Mutex<Vec<Checkpoint>>,
}

impl StillModel {
    /// A model with the given weights, whose facts name them.
    pub fn with_weights(weights: impl IntoIterator<Item = (WeightRef, Tensor)>) -> Self {
        let weights: BTreeMap<_, _> = weights.into_iter().collect();
        let facts = ModelFacts { vocab: 256, weights: weights.keys().copied().collect(), ..ModelFacts::default() };
        Self { facts, weights, ..Self::default() }
    }

    fn note(&self, message: String) {
        self.messages.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(message);
    }
}

fn still<T>(call: &str) -> Result<T, MethodError> {
    Err(MethodError::new("host-still", format!("a model at rest cannot do `{call}`")))
}

impl ModelAccess for StillModel {
    fn facts(&self) -> ModelFacts {
        self.facts.clone()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        let ids = text.bytes().map(u32::from).collect();
        Ok(Tokens { ids, spans: (0..text.len()).map(|i| i..i + 1).collect() })
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        let bytes: Result<Vec<u8>, _> = ids.iter().map(|&id| u8::try_from(id)).collect();
        bytes
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| MethodError::new("host-tokens", "the tokens are not the bytes of a text"))
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        let unknown = || MethodError::new("host-weight", format!("the model has no weight `{weight}`"));
        self.weights.get(&weight).cloned().ok_or_else(unknown)
    }

    fn run(&self, _: &RunRequest) -> Result<RunReply, MethodError> {
        still("run")
    }

    fn gradient(&self, _: &GradientRequest) -> Result<GradientReply, MethodError> {
        still("gradient")
    }

    fn generate(&self, _: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        still("generate")
    }

    fn second_moment(&self, _: Site) -> Result<SecondMoment, MethodError> {
        still("second_moment")
    }

    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        Ok(self.patches.clone())
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        Ok(self.statistics.get(name).cloned())
    }

    fn module(&self, _: &ModuleCall) -> Result<ModuleReply, MethodError> {
        still("module")
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        self.checkpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(checkpoint.clone());
        Ok(())
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.note(format!("{name} after {step}: {value}"));
    }

    fn random(&self, stream: &str) -> u64 {
        // FNV-1a.
        stream.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        self.note(format!("{what}: {done} of {total}"));
    }

    fn log(&self, level: Level, message: &str) {
        self.note(format!("{level:?}: {message}"));
    }
}
