//! What a plugin asks, with the plugin's name on its networks: no plugin finds those of another.

use engraft_plugin_api::{
    Checkpoint, GenerateRequest, GradientReply, GradientRequest, Level, MethodError, ModelAccess, ModelFacts,
    ModuleCall, ModuleId, ModuleReply, OwnPatch, RunReply, RunRequest, SecondMoment, Site, Tensor, Tokens, WeightRef,
};

use crate::model::codes;

/// An access as one plugin has it.
pub(super) struct Named<'a> {
    pub(super) plugin: &'a str,
    pub(super) access: &'a dyn ModelAccess,
}

impl Named<'_> {
    /// Refuses a network of another plugin.
    pub(super) fn owns(&self, module: &ModuleId) -> Result<(), MethodError> {
        if module.0.strip_prefix(self.plugin).is_some_and(|rest| rest.starts_with('/')) {
            return Ok(());
        }
        let text = format!("`{}` is no network of `{}`", module.0, self.plugin);
        Err(crate::base::Error::new(&codes::MODULE_UNKNOWN, text).into())
    }
}

impl ModelAccess for Named<'_> {
    /// Keys get the plugin's name before them, and only identifiers with it are passed on.
    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        let own = format!("{}/", self.plugin);
        let mut call = call.clone();
        match &mut call {
            ModuleCall::Find { key } | ModuleCall::Open { key, .. } => key.insert_str(0, &own),
            ModuleCall::Run { module, .. }
            | ModuleCall::Gradient { module, .. }
            | ModuleCall::Weights { module, .. }
            | ModuleCall::Set { module, .. }
            | ModuleCall::Tokenize { module, .. } => self.owns(module)?,
            _ => return Err(MethodError::unknown_call("module")),
        }
        self.access.module(&call)
    }

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
        self.access.patches()
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        self.access.statistic(name)
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
