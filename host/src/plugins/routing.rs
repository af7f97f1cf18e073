//! What a method sees while it routes a request: the base model, and those of its patches that the request may see.
//!
//! A call is made on a thread of its own, and what it asks of the model goes back to the thread of the request: a call
//! that was left behind can no longer reach the model.

use std::sync::mpsc::{Sender, channel};

use engraft_plugin_api::{
    GenerateRequest, GradientReply, GradientRequest, Level, MethodError, ModelAccess, ModelFacts, ModuleCall,
    ModuleReply, OwnPatch, Route, RunReply, RunRequest, SecondMoment, Site, Tensor, Tokens, WeightRef,
};

use super::codes;
use crate::base::{Cancel, Error, Result, random};
use crate::model::Routing;

/// The base model, on the thread of the request.
pub(super) struct OfRequest<'m> {
    routing: &'m Routing<'m>,
    cancel: Cancel,
    facts: ModelFacts,
}

impl<'m> OfRequest<'m> {
    pub(super) fn new(routing: &'m Routing<'m>) -> Self {
        let cancel = routing.cancel.cloned().unwrap_or_else(Cancel::new);
        Self { routing, cancel, facts: routing.model.facts().unwrap_or_default() }
    }
}

impl ModelAccess for OfRequest<'_> {
    fn facts(&self) -> ModelFacts {
        self.facts.clone()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        Ok(self.routing.model.tokenizer()?.encode(text)?)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        Ok(self.routing.model.tokenizer()?.decode(ids)?)
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        Ok(self.routing.model.weight_of_base(weight)?)
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        Ok(self.routing.model.run_base(request, Some(&self.cancel))?)
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        Ok(self.routing.model.gradient_base(request, Some(&self.cancel))?)
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        Ok(self.routing.model.generate_base(request, Some(&self.cancel))?)
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        let model = self.routing.model;
        let corpus = model.corpus().ok_or_else(|| {
            let text = format!("a route asked for statistics of `{site}`, and the model names no text for them");
            Error::new(&codes::NO_CORPUS, text)
        })?;
        Ok(model.second_moment(site, corpus, Some(&self.cancel), &|_, _| {})?)
    }

    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        Ok(self.routing.patches())
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        Ok(self.routing.statistic(name)?)
    }

    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        Ok(self.routing.model.module(call, Some(&self.cancel))?)
    }

    fn random(&self, stream: &str) -> u64 {
        random::seed(0, &[stream])
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn log(&self, _: Level, _: &str) {}
}

/// Something that is asked of the model, with the way of its answer.
pub(super) type Ask = Box<dyn FnOnce(&dyn ModelAccess) + Send>;

/// What the thread of a call tells that of its request.
pub(super) enum Event {
    /// It asks for something of the model.
    Asked(Ask),
    /// It has returned.
    Answered(Result<Route>),
}

/// The access of a request from the thread of a call.
pub(super) struct Relay {
    facts: ModelFacts,
    cancel: Cancel,
    sender: Sender<Event>,
}

impl Relay {
    pub(super) fn new(access: &OfRequest<'_>, sender: Sender<Event>) -> Self {
        Self { facts: access.facts.clone(), cancel: access.cancel.clone(), sender }
    }

    /// Has something done on the thread of the request.
    fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn ModelAccess) -> Result<T, MethodError> + Send + 'static,
    ) -> Result<T, MethodError> {
        let (answer, found) = channel();
        let ask = move |access: &dyn ModelAccess| drop(answer.send(what(access)));
        let gone = || MethodError::new(MethodError::CANCELLED, "the request that was to be routed has ended");
        self.sender.send(Event::Asked(Box::new(ask))).map_err(|_| gone())?;
        found.recv().map_err(|_| gone())?
    }
}

impl ModelAccess for Relay {
    fn facts(&self) -> ModelFacts {
        self.facts.clone()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        let text = text.to_owned();
        self.ask(move |access| access.tokenize(&text))
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        let ids = ids.to_vec();
        self.ask(move |access| access.decode(&ids))
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        self.ask(move |access| access.weight(weight))
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        let request = request.clone();
        self.ask(move |access| access.run(&request))
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        let request = request.clone();
        self.ask(move |access| access.gradient(&request))
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        let request = request.clone();
        self.ask(move |access| access.generate(&request))
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        self.ask(move |access| access.second_moment(site))
    }

    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        self.ask(|access| access.patches())
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        let name = name.to_owned();
        self.ask(move |access| access.statistic(&name))
    }

    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        let call = call.clone();
        self.ask(move |access| access.module(&call))
    }

    fn random(&self, stream: &str) -> u64 {
        random::seed(0, &[stream])
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn log(&self, _: Level, _: &str) {}
}
