//! Methods that are attached to a model: an embedder hands them in, and requests call them for the patches they made.
//!
//! `intercept` calls them in the middle of a pass, `route` before the first one. A patch that needs a method which is
//! not attached is refused; one that the journal brought in makes requests that see it fail until its method is there.

use std::sync::{Arc, RwLock};

use engraft_plugin_api::{InterceptCall, Params, Route, RouteQuery, Tensor};

use super::codes;
use super::open::Model;
use super::route::Routing;
use crate::base::{Error, Hash, Result};
use crate::weights::Patch;

/// A method that requests call: it decides what becomes of them, or sees and replaces activations on their way through
/// the model. Requests may call it at once. A call that blocks holds up its own request alone, until as many block as a
/// structure may have requests at once ([`OpenOptions::sessions`](super::OpenOptions)).
pub trait Attached: Send + Sync {
    /// What an activation becomes, in its shape; none to leave it as it is.
    ///
    /// # Errors
    /// Whatever went wrong; the request fails with it, and the model serves on.
    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
        let _ = call;
        Ok(None)
    }

    /// What becomes of a request, asked before its first pass. It is to depend on the query and the base model alone.
    ///
    /// # Errors
    /// Whatever went wrong; the request fails with it, and the model serves on.
    fn route(&self, routing: &Routing<'_>, query: &RouteQuery<'_>) -> Result<Route> {
        let _ = (routing, query);
        Ok(Route::Base)
    }

    /// The hash of what the method learnt before: it serves the patches that were made with the same.
    fn artefact(&self) -> Option<Hash> {
        None
    }
}

/// What to do about a method that is not attached.
pub(super) const HOW_TO_ATTACH: &str = "put its plugin where plugins are looked for (`--plugin-dir` on the command line), \
    or attach it in a program with `Model::attach`";

/// The methods that were attached to a model.
#[derive(Default)]
pub(super) struct Attachments(RwLock<Vec<Method>>);

/// A method that was attached, by its name and its parameters.
type Method = (String, Params, Arc<dyn Attached>);

impl Attachments {
    /// The method that made a patch: of the same name, with the same parameters and artefact.
    pub(super) fn find(&self, patch: &Patch) -> Option<Arc<dyn Attached>> {
        let Patch { method, params, artefact, .. } = patch;
        let all = self.0.read().unwrap_or_else(|e| e.into_inner());
        let found = all.iter().find(|(m, p, i)| m == method && p == params && i.artefact() == *artefact);
        found.map(|(_, _, attached)| attached.clone())
    }

    /// The method that intercepts for a patch.
    pub(super) fn interceptor(&self, patch: &Patch) -> Result<Arc<dyn Attached>> {
        self.find(patch).ok_or_else(|| {
            let method = &patch.method;
            let with = if patch.artefact.is_some() { "parameters and artefact" } else { "parameters" };
            let text = format!("a patch of `{method}` intercepts, and `{method}` with its {with} is not attached");
            Error::new(&codes::INTERCEPT_METHOD, text).help(HOW_TO_ATTACH)
        })
    }
}

impl Model {
    /// Hands in the method that intercepts and routes for patches which were made by a method of this name with these
    /// parameters and this artefact. It takes the place of an earlier one; requests in flight keep theirs.
    pub fn attach(&self, method: &str, params: &Params, attached: Arc<dyn Attached>) {
        let artefact = attached.artefact();
        let mut all = self.attached.0.write().unwrap_or_else(|e| e.into_inner());
        all.retain(|(m, p, i)| m != method || p != params || i.artefact() != artefact);
        all.push((method.to_owned(), params.clone(), attached));
    }
}
