//! A method that learns: `train` fits a scope to facts with their paraphrases and neighbours, `edit` keeps where an
//! edit's prompt lies in it, and `route` tells which edit a request is in the scope of. The edits themselves change
//! nothing: what an edit says is for a method that builds on this to add.
#![forbid(unsafe_code)]

use engraft_method_common::prompt_row;
use engraft_method_common::scope::{Scope, ScopeParams, learn, vector_of_bytes, vector_to_bytes};
use engraft_method_common::subject::FactToken;
use engraft_plugin_api::{
    Artefact, Calls, Capabilities, Change, Descriptor, EditMethod, EditRequest, Family, MethodError, ModelAccess,
    Params, Plugin, Route, RouteQuery, TrainData, export_method,
};

struct Classifier {
    params: ScopeParams,
    /// What it learnt; `None` before.
    scope: Option<Scope>,
}

impl Classifier {
    fn scope(&self) -> Result<&Scope, MethodError> {
        self.scope.as_ref().ok_or_else(|| MethodError::new("scope-untrained", "no scope was learnt yet"))
    }
}

impl EditMethod for Classifier {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        let [request] = requests else {
            let text = format!("a scope is that of one edit, found {} requests", requests.len());
            return if requests.is_empty() { Ok(vec![]) } else { Err(MethodError::new("scope-batch", text)) };
        };
        let row = prompt_row(access, request, "{}", FactToken::Last, access.facts().context)?;
        let vector = self.scope()?.embed(access, &[row.ids])?.remove(0);
        Ok(vec![Change::State(vector_to_bytes(&vector)), Change::Route])
    }

    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        learn(access, data, &self.params)
    }

    fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        if query.patches.is_empty() || query.tokens.is_empty() {
            return Ok(Route::Base);
        }
        let vector = self.scope()?.embed(access, std::slice::from_ref(&query.tokens))?.remove(0);
        let edits = query.patches.iter().map(|patch| vector_of_bytes(patch.state));
        let edits = edits.collect::<Result<Vec<_>, _>>()?;
        let nearest = self.scope()?.nearest(&vector, edits.iter().map(Vec::as_slice));
        Ok(nearest.map_or(Route::Base, |(edit, _)| Route::Changes(vec![edit])))
    }
}

impl Plugin for Classifier {
    fn describe() -> Descriptor {
        Descriptor {
            name: "scope-classifier".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::ExternalExtension,
            summary: "Learns to tell by activations which edit a prompt is in the scope of; changes nothing.".into(),
            paper: "after the scope classifier of SERAC: Mitchell et al. 2022, Memory-Based Model Editing at Scale"
                .into(),
            capabilities: Capabilities { batch: false, sequential: true, needs_subject: false },
            params: ScopeParams::specs(""),
        }
    }

    fn calls() -> Calls {
        Calls { train: true, needs_artefact: true, route: true, intercept: false }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Self { params: ScopeParams::read(params, "")?, scope: None }))
    }

    fn create_trained(params: &Params, artefact: &Artefact) -> Result<Box<dyn EditMethod>, MethodError> {
        let (params, scope) = (ScopeParams::read(params, "")?, Scope::from_bytes(&artefact.bytes)?);
        if params.layer >= 0 && params.layer != scope.layer() as i64 {
            let text = format!("the scope was learnt behind block {}, not {}", scope.layer(), params.layer);
            return Err(MethodError::new("scope-layer", text).help("train anew, or leave the layer out"));
        }
        Ok(Box::new(Self { params, scope: Some(scope) }))
    }
}

export_method!(Classifier);
