//! Routing: what becomes of each row of a request, asked of the methods of its patches before the first pass.
//!
//! Methods are asked in the order of their first commits, each once for a row, about those of its patches that the row
//! may see. `Base` and `Changes` restrict what the row sees of the method's own patches. The first method that gives a
//! prompt or a delegate ends it: later ones are not asked, and the row sees none of the patches that they route.
//! `delegate` runs the networks that answer or have a say.

mod delegate;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engraft_plugin_api::{ActivePatch, Change, OwnPatch, Route, RouteQuery, Tensor};

pub(super) use delegate::{Delegate, Voice, Voices, mixed};

use super::codes;
use super::edit::statistic::{fold, own, state_of};
use super::intercept::words;
use super::open::{Model, State};
use super::run::Seen;
use super::run::visible::{View, Visible, active_of, check_active};
use crate::base::{Cancel, Error, Hash, Hasher, Result};
use crate::weights::{Patch, PatchId};

/// The patches that have requests routed, by method in the order of their first commits.
#[derive(Clone, Default)]
pub(super) struct Routes(Vec<Vec<Own>>);

#[derive(Clone)]
struct Own {
    /// The number of its patch among those that are active.
    source: usize,
    id: String,
    patch: Arc<Patch>,
}

/// True if some of the changes have requests routed.
pub(super) fn routes(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change, Change::Route))
}

impl Routes {
    pub(super) fn of(patches: &[(PatchId, Arc<Patch>)]) -> Self {
        let mut methods: Vec<Vec<Own>> = Vec::new();
        for (source, (id, patch)) in patches.iter().enumerate().filter(|(_, (_, patch))| routes(&patch.changes)) {
            let own = Own { source, id: id.to_string(), patch: patch.clone() };
            match methods.iter_mut().find(|all| all[0].patch.is_of_the_maker_of(patch)) {
                Some(all) => all.push(own),
                None => methods.push(vec![own]),
            }
        }
        Self(methods)
    }

    /// A hash, with what is routed where something is.
    pub(super) fn hash(&self, of: Hash) -> Hash {
        if self.0.is_empty() {
            return of;
        }
        let mut hasher = Hasher::new();
        hasher.part(of.bytes()).part("routes");
        for own in self.0.iter().flatten() {
            hasher.part(&own.id);
        }
        hasher.finish()
    }
}

/// What a method is asked for about a request: the base model, whatever patches are active, and those of the method's
/// own patches that the request may see.
pub struct Routing<'m> {
    /// The model. A method sees it without any patch.
    pub model: &'m Model,
    /// Stops the request.
    pub cancel: Option<&'m Cancel>,
    own: Vec<&'m (PatchId, Arc<Patch>)>,
}

impl Routing<'_> {
    /// The method's patches that the request may see, whatever their parameters, in the order of their commits.
    pub fn patches(&self) -> Vec<OwnPatch> {
        own(self.own.iter().copied())
    }

    /// The fold of the parts of one name over those patches.
    ///
    /// # Errors
    /// As [`Model::statistic`].
    pub fn statistic(&self, name: &str) -> Result<Option<Tensor>> {
        fold(self.own.iter().copied(), name)
    }
}

/// Of each patch, whether a row sees it.
type Mask = Vec<bool>;

/// What becomes of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Way {
    /// It is run as it is.
    #[default]
    Own,
    /// Other tokens stand in place of its prompt; of the method of this name.
    Prompt(String, Vec<u32>),
    /// Another network answers, or has a say.
    Delegate(Delegate),
}

impl Way {
    /// The method that gave a prompt or a delegate.
    pub(super) fn method(&self) -> Option<&str> {
        match self {
            Self::Own => None,
            Self::Prompt(method, _) => Some(method),
            Self::Delegate(delegate) => Some(&delegate.method),
        }
    }

    /// The tokens that the model reads in place of a prompt.
    pub(super) fn prompt<'w>(&'w self, prompt: &'w [u32]) -> &'w [u32] {
        if let Self::Prompt(_, tokens) = self { tokens } else { prompt }
    }

    /// The network that answers or has a say.
    pub(super) fn delegate(&self) -> Option<&Delegate> {
        if let Self::Delegate(delegate) = self { Some(delegate) } else { None }
    }

    /// True if the model itself does not run.
    pub(super) fn is_away(&self) -> bool {
        self.delegate().is_some_and(|delegate| delegate.mix >= 1.0)
    }
}

impl Model {
    /// What the rows of a request see, and what becomes of each.
    ///
    /// # Errors
    /// `patch-unknown` or `active-rows`; `route-method` if a method that has to be asked is not attached; what it meets,
    /// `route-panicked`, and `route-invalid` if it answers what cannot be.
    pub(super) fn routed(
        &self,
        seen: &Seen<'_>,
        view: &View,
        prompts: &[&[u32]],
        cancel: Option<&Cancel>,
    ) -> Result<(Visible, Vec<Way>)> {
        let state = &seen.state;
        if !view.routed || state.routes.0.is_empty() {
            return Ok((seen.visible(&view.active, prompts.len())?, vec![Way::Own; prompts.len()]));
        }
        check_active(&view.active, prompts.len())?;
        let mut ways = Vec::with_capacity(prompts.len());
        let mut masks = Vec::with_capacity(prompts.len());
        // Equal requests are asked for once: the answer depends on the query and the base model alone.
        let mut asked: HashMap<(&[u32], Mask), (Mask, Way)> = HashMap::new();
        for (row, &prompt) in prompts.iter().enumerate() {
            let all = || vec![true; state.patches.len()];
            let may_see = state.seen_by(active_of(&view.active, row))?.unwrap_or_else(all);
            let (mask, way) = match asked.entry((prompt, may_see)) {
                Entry::Occupied(found) => found.get().clone(),
                Entry::Vacant(new) => {
                    let found = self.routed_row(state, prompt, new.key().1.clone(), cancel)?;
                    new.insert(found).clone()
                }
            };
            masks.push(Some(mask));
            ways.push(way);
        }
        Ok((Visible::of(masks), ways))
    }

    /// What becomes of one row that may see some of the patches.
    fn routed_row(
        &self,
        state: &State,
        prompt: &[u32],
        mut mask: Mask,
        cancel: Option<&Cancel>,
    ) -> Result<(Mask, Way)> {
        let mut way = Way::Own;
        for method in &state.routes.0 {
            let own: Vec<&Own> = method.iter().filter(|own| mask[own.source]).collect();
            let Some(maker) = own.first().map(|own| &own.patch).filter(|_| way == Way::Own) else {
                own.iter().for_each(|own| mask[own.source] = false);
                continue;
            };
            let visible = state.patches.iter().zip(&mask).filter(|(_, sees)| **sees).map(|(patch, _)| patch);
            let of_method = visible.filter(|(_, patch)| patch.method == maker.method).collect();
            let routing = Routing { model: self, cancel, own: of_method };
            let patches = own.iter().map(|own| ActivePatch { id: &own.id, state: state_of(&own.patch) }).collect();
            let query = RouteQuery { tokens: prompt.to_vec(), patches };
            let route = self.asked(maker, &routing, &query)?;
            let stays = |number: usize| matches!(&route, Route::Changes(numbers) if numbers.contains(&number));
            own.iter().enumerate().for_each(|(number, own)| mask[own.source] = stays(number));
            way = self.way(&maker.method, route)?;
        }
        Ok((mask, way))
    }

    /// The checked answer of a method.
    fn asked(&self, maker: &Patch, routing: &Routing<'_>, query: &RouteQuery<'_>) -> Result<Route> {
        let method = &maker.method;
        let found = self.attached.find(maker).ok_or_else(|| unattached(maker))?;
        // What a panic left half changed belongs to the method, which may refuse to be called again.
        let answer = catch_unwind(AssertUnwindSafe(|| found.route(routing, query)));
        let route = answer.unwrap_or_else(|payload| {
            let text = format!("`{method}` panicked while it routed a request: {}", words(&*payload));
            Err(Error::new(&codes::ROUTE_PANICKED, text))
        })?;
        route.check(query).map_err(|e| invalid(method, &e.message))?;
        Ok(route)
    }

    fn way(&self, method: &str, route: Route) -> Result<Way> {
        match route {
            Route::Base | Route::Changes(_) => Ok(Way::Own),
            Route::Prompt(tokens) => {
                if let Some(bad) = tokens.iter().find(|&&t| t as usize >= self.anatomy().vocab) {
                    return Err(invalid(method, &format!("its prompt holds the token {bad}, which the model lacks")));
                }
                Ok(Way::Prompt(method.to_owned(), tokens))
            }
            Route::Delegate { mix: 0.0, .. } => Ok(Way::Own),
            Route::Delegate { module, tokens, mix } => {
                Ok(Way::Delegate(Delegate { method: method.to_owned(), module, tokens, mix }))
            }
        }
    }

    /// That the method which routes for a patch is attached.
    pub(super) fn check_routing(&self, patch: &Patch) -> Result<()> {
        match routes(&patch.changes) && self.attached.find(patch).is_none() {
            true => Err(unattached(patch)),
            false => Ok(()),
        }
    }
}

fn unattached(patch: &Patch) -> Error {
    let method = &patch.method;
    let with = if patch.artefact.is_some() { "parameters and artefact" } else { "parameters" };
    let text = format!("a patch of `{method}` routes requests, and `{method}` with its {with} is not attached");
    Error::new(&codes::ROUTE_METHOD, text).help(super::attached::HOW_TO_ATTACH)
}

fn invalid(method: &str, why: &str) -> Error {
    Error::new(&codes::ROUTE_INVALID, format!("`{method}` answered what cannot be: {why}"))
}
