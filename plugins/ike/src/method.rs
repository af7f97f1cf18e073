//! The calls: an edit writes down its facts, a route finds the one that a request concerns and shows it, and training
//! keeps facts to demonstrate with and learns a scope.

use engraft_method_common::{check_cancelled, scope};
use engraft_plugin_api::{
    Artefact, Calls, Capabilities, Change, Descriptor, EditMethod, EditRequest, Example, Family, MethodError,
    ModelAccess, Params, Plugin, Route, RouteQuery, TrainData, TrainRecord,
};

use crate::demonstrations::{demonstrations, statement};
use crate::keys::{Keys, cosine};
use crate::memory::{Fact, Lesson, Memory};
use crate::params::{IkeParams, Scope};

/// IKE with its parameters, and what it learnt.
pub struct Ike {
    params: IkeParams,
    learnt: Option<Learnt>,
}

/// What was learnt, as it is used.
struct Learnt {
    lessons: Vec<Lesson>,
    scope: Option<scope::Scope>,
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
        let (params, memory) = (IkeParams::read(params)?, Memory::read(&artefact.bytes)?);
        let other =
            |text: String| Err(MethodError::new("ike-artefact", text).help("train again with these parameters"));
        if memory.layer != params.layer {
            return other(format!(
                "the artefact was trained with `layer` {}, it is {} now",
                memory.layer, params.layer
            ));
        }
        if memory.scope.is_empty() && params.scope == Scope::Learned {
            return other("the artefact was trained without a scope, and `scope` is `learned`".into());
        }
        let scope = match params.scope {
            Scope::Learned => Some(scope::Scope::from_bytes(&memory.scope)?),
            Scope::Always => None,
        };
        Ok(Box::new(Self { params, learnt: Some(Learnt { lessons: memory.lessons, scope }) }))
    }
}

impl EditMethod for Ike {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        check_cancelled(access)?;
        let scope = self.scope()?;
        let lessons = match (&self.learnt, self.params.demonstrations) {
            (_, 0) => &[][..],
            (Some(learnt), _) => &learnt.lessons,
            (None, n) => return Err(untrained(&format!("`demonstrations` is {n}"))),
        };
        let keys = Keys::after(self.params.layer).of_facts(access, requests)?;
        let vectors = match scope {
            Some(scope) => {
                let row = |request: &EditRequest| Ok(access.tokenize(&request.filled()?)?.ids);
                scope.embed(access, &requests.iter().map(row).collect::<Result<Vec<_>, MethodError>>()?)?
            }
            None => vec![Vec::new(); requests.len()],
        };
        let seed = access.random("demonstrations");
        let fact = |((key, scope), request): ((Vec<f32>, Vec<f32>), &EditRequest)| {
            let IkeParams { template, demonstrations: count, ratio, .. } = &self.params;
            let (said, prompt) = (statement(request)?, request.filled()?);
            let mut shown = demonstrations(&key, lessons, template, *count, *ratio, seed);
            if *count > 0 {
                shown.push(template.shown(&said, &prompt, request.target.new.trim_start()));
            }
            Ok(Fact { said, shown, key, scope })
        };
        let found = keys.into_iter().zip(vectors).zip(requests);
        let facts = found.map(fact).collect::<Result<Vec<_>, MethodError>>()?;
        check_cancelled(access)?;
        Ok(vec![Change::State(Fact::write(&facts)), Change::Route])
    }

    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        check_cancelled(access)?;
        let requests: Vec<EditRequest> = data.train.iter().map(|record| record.request.clone()).collect();
        let keys = Keys::after(self.params.layer).of_facts(access, &requests)?;
        let pair = |example: &Example| {
            example.answer.as_ref().map(|answer| (example.prompt.clone(), answer.trim_start().to_owned()))
        };
        let lesson = |(record, key): (&TrainRecord, Vec<f32>)| {
            let copy = (record.request.filled()?, record.request.target.new.trim_start().to_owned());
            let (update, retain) = (record.in_scope.iter().find_map(pair), record.out_of_scope.iter().find_map(pair));
            Ok(Lesson { copy, update, retain, key })
        };
        let lessons = data.train.iter().zip(keys).map(lesson).collect::<Result<_, MethodError>>()?;
        let scope = match self.params.scope {
            Scope::Learned => scope::learn(access, data, &self.params.training)?.bytes,
            Scope::Always => Vec::new(),
        };
        let memory = Memory { layer: self.params.layer, scope, lessons };
        Ok(Artefact::new(&access.facts(), data, memory.write()))
    }

    fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        if query.patches.is_empty() {
            return Ok(Route::Base);
        }
        // Of equals the first is taken: the newest.
        let facts = query.patches.iter().map(|patch| Fact::read(patch.state)).collect::<Result<Vec<_>, _>>()?.concat();
        let facts: Vec<&Fact> = facts.iter().rev().collect();
        let fact = match self.scope()? {
            Some(scope) => {
                let vector = scope.embed(access, std::slice::from_ref(&query.tokens))?.remove(0);
                scope.nearest(&vector, facts.iter().map(|fact| fact.scope.as_slice())).map(|(number, _)| facts[number])
            }
            None => self.nearest(access, query, &facts)?,
        };
        match fact {
            Some(fact) => self.shown(access, fact, &query.tokens).map(Route::Prompt),
            None => Ok(Route::Base),
        }
    }
}

impl Ike {
    /// The scope that was learnt, where one is asked for.
    fn scope(&self) -> Result<Option<&scope::Scope>, MethodError> {
        match (self.params.scope, self.learnt.as_ref().and_then(|learnt| learnt.scope.as_ref())) {
            (Scope::Learned, None) => Err(untrained("`scope` is `learned`")),
            (_, scope) => Ok(scope),
        }
    }

    /// The fact that is nearest to a request.
    fn nearest<'f>(
        &self,
        access: &dyn ModelAccess,
        query: &RouteQuery<'_>,
        facts: &[&'f Fact],
    ) -> Result<Option<&'f Fact>, MethodError> {
        let vector = Keys::after(self.params.layer).of_tokens(access, &query.tokens)?;
        let mut nearest: Option<(f32, &Fact)> = None;
        for &fact in facts {
            let similar = cosine(&fact.key, &vector);
            if nearest.is_none_or(|(most, _)| similar > most) {
                nearest = Some((similar, fact));
            }
        }
        Ok(nearest.map(|(_, fact)| fact))
    }

    /// The tokens of a request with a fact, and as many of its demonstrations as leave room, the nearest ones.
    fn shown(&self, access: &dyn ModelAccess, fact: &Fact, query: &[u32]) -> Result<Vec<u32>, MethodError> {
        let prompt = access.decode(query)?;
        // Tokens that no text is split into, as the half of a character, stand behind the fact as they are.
        let is_text = access.tokenize(&prompt)?.ids == query;
        let last = self.params.template.fill(&fact.said, if is_text { &prompt } else { "" });
        let limit = access.facts().context.saturating_sub(self.params.room);
        let mut tokens = Vec::new();
        for from in 0..=fact.shown.len() {
            let parts: Vec<&str> = fact.shown[from..].iter().map(String::as_str).chain([last.as_str()]).collect();
            tokens = access.tokenize(&parts.join(&self.params.separator))?.ids;
            if !is_text {
                tokens.extend(query);
            }
            if tokens.len() <= limit {
                break;
            }
        }
        Ok(tokens)
    }
}

fn untrained(why: &str) -> MethodError {
    MethodError::new("ike-untrained", format!("{why}, and the method was created without what it has to learn"))
        .help("train it with `engraft train`, and name the artefact")
}
