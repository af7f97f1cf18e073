//! The access of an edit, with what it was told of the method's own patches.

use std::sync::Mutex;

use engraft_plugin_api::{
    Checkpoint, GenerateRequest, GradientReply, GradientRequest, Level, MethodError, ModelAccess, ModelFacts,
    ModuleCall, ModuleReply, OwnPatch, RunReply, RunRequest, SecondMoment, Site, Tensor, Tokens, WeightRef,
};

use crate::plugins::Access;

/// What a method was told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// Its patches.
    Patches(Vec<OwnPatch>),
    /// The fold of the parts of a name.
    Statistic(String, Option<Tensor>),
}

/// An access that keeps what it tells.
pub(super) struct Watched<'m> {
    access: Access<'m>,
    told: Mutex<Vec<Told>>,
}

impl<'m> Watched<'m> {
    pub(super) fn new(access: Access<'m>) -> Self {
        Self { access, told: Mutex::default() }
    }

    /// What was told, in order.
    pub(super) fn told(self) -> Vec<Told> {
        self.told.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    fn keep(&self, told: Told) {
        self.told.lock().unwrap_or_else(|e| e.into_inner()).push(told);
    }
}

impl ModelAccess for Watched<'_> {
    fn facts(&self) -> ModelFacts {
        self.access.facts()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        self.access.tokenize(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        self.access.decode(ids)
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        self.access.weight(weight)
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        self.access.run(request)
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        self.access.gradient(request)
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        self.access.generate(request)
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        self.access.second_moment(site)
    }

    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        let patches = self.access.patches()?;
        self.keep(Told::Patches(patches.clone()));
        Ok(patches)
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        let fold = self.access.statistic(name)?;
        self.keep(Told::Statistic(name.to_owned(), fold.clone()));
        Ok(fold)
    }

    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        self.access.module(call)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        self.access.checkpoint(checkpoint)
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.access.metric(step, name, value);
    }

    fn random(&self, stream: &str) -> u64 {
        self.access.random(stream)
    }

    fn cancelled(&self) -> bool {
        self.access.cancelled()
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        self.access.progress(done, total, what);
    }

    fn log(&self, level: Level, message: &str) {
        self.access.log(level, message);
    }
}
