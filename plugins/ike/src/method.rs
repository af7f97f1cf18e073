//! The calls: an edit writes down its facts, a route finds the one that a request concerns and shows it, and training
//! keeps facts to demonstrate with and learns how similar a request has to be.

use engraft_method_common::check_cancelled;
use engraft_plugin_api::{
    Artefact, Calls, Capabilities, Change, Descriptor, EditMethod, EditRequest, Example, Family, MethodError,
    ModelAccess, Params, Plugin, Route, RouteQuery, TrainData,
};

use crate::demonstrations::{demonstrations, statement};
use crate::keys::{Keys, best_threshold, similarity};
use crate::memory::{Fact, Lesson, Memory};
use crate::params::{IkeParams, Scope};

/// IKE with its parameters, and what it learnt.
pub struct Ike {
    params: IkeParams,
    learnt: Option<Memory>,
}

impl Plugin for Ike {
    fn describe() -> Descriptor {
        Descriptor {
            name: "ike".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::ExternalExtension,
            summary: "Shows a request the new fact that it concerns, with demonstrations, in its prompt.".into(),
            paper: "Zheng et al. 2023: Can We Edit Factual Knowledge by In-Context Learning?".into(),
            capabilities: Capabilities { batch: true, sequential: true, needs_subject: false },
            params: IkeParams::specs(),
        }
    }

    fn calls() -> Calls {
        Calls { train: true, route: true, ..Calls::default() }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Self { params: IkeParams::read(params)?, learnt: None }))
    }

    fn create_trained(params: &Params, artefact: &Artefact) -> Result<Box<dyn EditMethod>, MethodError> {
        let (params, learnt) = (IkeParams::read(params)?, Memory::read(&artefact.bytes)?);
        if learnt.layer != params.layer {
            let text = format!("the artefact was trained at layer {}, `layer` is {}", learnt.layer, params.layer);
            return Err(MethodError::new("ike-artefact", text).help("train again, or set the layer of the training"));
        }
        Ok(Box::new(Self { params, learnt: Some(learnt) }))
    }
}

impl EditMethod for Ike {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        check_cancelled(access)?;
        self.threshold()?;
        let lessons = match (&self.learnt, self.params.demonstrations) {
            (_, 0) => &[][..],
            (Some(learnt), _) => &learnt.lessons,
            (None, n) => return Err(untrained(&format!("`demonstrations` is {n}"))),
        };
        let keys = Keys::after(self.params.layer).of_facts(access, requests)?;
        let seed = access.random("demonstrations");
        let fact = |(key, request): (Vec<f32>, &EditRequest)| {
            let IkeParams { template, demonstrations: count, ratio, .. } = &self.params;
            let shown = demonstrations(&key, lessons, template, *count, *ratio, seed);
            Ok(Fact { said: statement(request)?, shown, key })
        };
        let facts = keys.into_iter().zip(requests).map(fact).collect::<Result<Vec<_>, MethodError>>()?;
        check_cancelled(access)?;
        Ok(vec![Change::State(Fact::write(&facts)), Change::Route])
    }

    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        check_cancelled(access)?;
        let keys = Keys::after(self.params.layer);
        let requests: Vec<EditRequest> = data.train.iter().map(|record| record.request.clone()).collect();
        let found = keys.of_facts(access, &requests)?;
        let (mut within, mut without, mut lessons) = (Vec::new(), Vec::new(), Vec::new());
        for (step, (record, key)) in data.train.iter().zip(&found).enumerate() {
            check_cancelled(access)?;
            access.progress(step as u64, data.train.len() as u64, "comparing prompts");
            let similar = |example: &Example| {
                let tokens = access.tokenize(&example.prompt)?.ids;
                Ok::<f32, MethodError>(similarity(key, &keys.of_tokens(access, &tokens)?))
            };
            within.extend(record.in_scope.iter().map(similar).collect::<Result<Vec<_>, _>>()?);
            without.extend(record.out_of_scope.iter().map(similar).collect::<Result<Vec<_>, _>>()?);
            let pair = |example: &Example| {
                example.answer.as_ref().map(|answer| (example.prompt.clone(), answer.trim_start().to_owned()))
            };
            let copy = (record.request.filled()?, record.request.target.new.trim_start().to_owned());
            let (update, retain) = (record.in_scope.iter().find_map(pair), record.out_of_scope.iter().find_map(pair));
            lessons.push(Lesson { copy, update, retain, key: key.clone() });
        }
        let threshold = best_threshold(&within, &without);
        let share = |side: &[f32], holds: &dyn Fn(f32) -> bool| {
            side.iter().filter(|s| holds(**s)).count() as f64 / side.len().max(1) as f64
        };
        let steps = data.train.len() as u64;
        access.metric(steps, "accepted within", share(&within, &|s| s >= threshold));
        access.metric(steps, "refused without", share(&without, &|s| s < threshold));
        access.progress(steps, steps, "comparing prompts");
        let memory = Memory { layer: self.params.layer, threshold, lessons };
        Ok(Artefact::new(&access.facts(), data, memory.write()))
    }

    fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        if query.patches.is_empty() {
            return Ok(Route::Base);
        }
        let facts = query.patches.iter().map(|patch| Fact::read(patch.state)).collect::<Result<Vec<_>, _>>()?.concat();
        let vectors = Keys::after(self.params.layer).of_tokens(access, &query.tokens)?;
        // Of equals the later is the newer.
        let nearest =
            facts.iter().map(|fact| (similarity(&fact.key, &vectors), fact)).max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((similar, fact)) = nearest else { return Ok(Route::Base) };
        if similar < self.threshold()? {
            return Ok(Route::Base);
        }
        self.shown(access, fact, &access.decode(&query.tokens)?).map(Route::Prompt)
    }
}

impl Ike {
    /// How similar a request has to be.
    fn threshold(&self) -> Result<f32, MethodError> {
        match (self.params.scope, &self.learnt) {
            (Scope::Always, _) => Ok(f32::NEG_INFINITY),
            (Scope::Threshold, _) => Ok(self.params.threshold),
            (Scope::Learned, Some(learnt)) => Ok(learnt.threshold),
            (Scope::Learned, None) => Err(untrained("`scope` is `learned`")),
        }
    }

    /// The tokens of a request with a fact, and as many of its demonstrations as leave room, the nearest ones.
    fn shown(&self, access: &dyn ModelAccess, fact: &Fact, prompt: &str) -> Result<Vec<u32>, MethodError> {
        let last = self.params.template.fill(&fact.said, prompt);
        let limit = access.facts().context.saturating_sub(self.params.room);
        for from in 0..=fact.shown.len() {
            let parts: Vec<&str> = fact.shown[from..].iter().map(String::as_str).chain([last.as_str()]).collect();
            let tokens = access.tokenize(&parts.join(&self.params.separator))?.ids;
            if tokens.len() <= limit || from == fact.shown.len() {
                return Ok(tokens);
            }
        }
        Ok(access.tokenize(&last)?.ids)
    }
}

fn untrained(why: &str) -> MethodError {
    MethodError::new("ike-untrained", format!("{why}, and the method was created without what it has to learn"))
        .help("train it with `engraft train`, and name the artefact")
}
