//! A model as methods see it: [`ModelAccess`] over a [`Model`]. Nothing that a method asks for is routed.

use std::path::PathBuf;

use engraft_plugin_api::{
    Checkpoint, GenerateRequest, GradientReply, GradientRequest, Level, MethodError, ModelAccess, ModelFacts,
    ModuleCall, ModuleReply, OwnPatch, RunReply, RunRequest, SecondMoment, Site, Tensor, Tokens, WeightRef,
};

use super::codes;
use crate::base::{Cancel, Error, random};
use crate::model::{Model, View};

/// What hears a method: its messages and how far it is.
pub trait Listener: Send + Sync {
    /// A message.
    fn log(&self, level: Level, message: &str);

    /// How far a call is.
    fn progress(&self, done: u64, total: u64, what: &str);

    /// A figure of a training after so many steps.
    fn metric(&self, step: u64, name: &str, value: f64) {
        let _ = (step, name, value);
    }

    /// Keeps the state of a training, in place of an earlier one. Where nobody keeps any, the method is told so.
    ///
    /// # Errors
    /// `abi-op`, or why it could not be written.
    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        let _ = checkpoint;
        Err(MethodError::unknown_call("checkpoint"))
    }
}

/// A listener that hears nothing.
pub struct Deaf;

impl Listener for Deaf {
    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, _: u64, _: u64, _: &str) {}
}

/// What one edit may ask of a model.
pub struct Access<'m> {
    /// The model.
    pub model: &'m Model,
    /// The method that asks, by its name: whose patches and statistics are told.
    pub method: Option<String>,
    /// The text that statistics are gathered from; `None` for the one that the model names.
    pub corpus: Option<PathBuf>,
    /// Stops calls in flight and tells the method to stop.
    pub cancel: Cancel,
    /// The root of the edit's random streams.
    pub seed: u64,
    /// Hears the method.
    pub listener: &'m dyn Listener,
}

impl<'m> Access<'m> {
    /// Access without statistics of another text than the model's own, silent, of no method.
    pub fn new(model: &'m Model, cancel: Cancel, seed: u64) -> Self {
        Self { model, method: None, corpus: None, cancel, seed, listener: &Deaf }
    }

    /// The access of a method.
    #[must_use]
    pub fn of(self, method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..self }
    }

    fn asking(&self) -> Result<&str, MethodError> {
        let nobody = || {
            Error::new(
                &codes::ACCESS_METHOD,
                "a method asked for its own patches, and the access does not say whose it is",
            )
            .help("name the method with `Access::of`")
        };
        Ok(self.method.as_deref().ok_or_else(nobody)?)
    }
}

impl ModelAccess for Access<'_> {
    fn facts(&self) -> ModelFacts {
        self.model.facts().unwrap_or_default()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        Ok(self.model.tokenizer()?.encode(text)?)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        Ok(self.model.tokenizer()?.decode(ids)?)
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        Ok(self.model.weight(weight)?)
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        Ok(self.model.run_until(request, Some(&self.cancel))?)
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        Ok(self.model.gradient_until(request, Some(&self.cancel))?)
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        Ok(self.model.generate_seeing(request, &View::unrouted(), Some(&self.cancel))?)
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        let corpus = self.corpus.as_deref().or_else(|| self.model.corpus()).ok_or_else(|| {
            Error::new(&codes::NO_CORPUS, format!("no text is named that statistics of `{site}` are gathered from"))
                .help("set `[statistics] corpus` in the experiment")
        })?;
        let what = format!("second moment of {site}");
        let progress = |done, total| self.listener.progress(done, total, &what);
        Ok(self.model.second_moment(site, corpus, Some(&self.cancel), &progress)?)
    }

    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        Ok(self.model.patches_of(self.asking()?))
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        Ok(self.model.statistic(self.asking()?, name)?)
    }

    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        Ok(self.model.module(call, Some(&self.cancel))?)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        self.listener.checkpoint(checkpoint)
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.listener.metric(step, name, value);
    }

    fn random(&self, stream: &str) -> u64 {
        random::seed(self.seed, &[stream])
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        self.listener.progress(done, total, what);
    }

    fn log(&self, level: Level, message: &str) {
        self.listener.log(level, message);
    }
}
