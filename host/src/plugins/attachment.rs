//! A loaded method as what is attached to a model, which calls it in the middle of passes and before the first pass of a
//! request.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use engraft_plugin_api::{ActivePatch, InterceptCall, InterceptRow, Route, RouteQuery, Site, Tensor};
use ndarray::{Array2, ArrayD};

use super::codes;
use super::foreign::Method;
use super::routing::{Event, OfRequest, Relay};
use crate::base::{Error, Hash, Result};
use crate::model::{Attached, Model, Routing};

/// How long a call in the middle of a pass may take, where nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// A method as what a model calls. A call that does not return in time fails its request: then the method is left
/// behind on its thread, with a copy of what it was shown, and is not called again.
pub struct Attachment {
    method: Arc<Method>,
    patience: Option<Duration>,
    hangs: Mutex<bool>,
    /// The states of the patches of the last call, by the patch.
    states: Mutex<BTreeMap<String, Arc<[u8]>>>,
}

impl Attachment {
    /// A method whose calls may take a minute each, without the time that the model takes for what it asks.
    pub fn new(method: Arc<Method>) -> Self {
        Self { method, patience: Some(PATIENCE), hangs: Mutex::new(false), states: Mutex::default() }
    }

    /// As said; `None` waits as long as it takes, and shows the method the model's own memory.
    #[must_use]
    pub fn patience(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// Attaches a method to a model, if it intercepts or routes, for the patches that it makes with its parameters and
    /// its artefact.
    pub fn attach(method: &Arc<Method>, model: &Model) {
        let calls = method.library().calls();
        if calls.intercept || calls.route {
            let name = &method.library().descriptor().name;
            model.attach(name, method.params(), Arc::new(Self::new(method.clone())));
        }
    }

    /// The states of patches, copied where they are new: one identifier is one patch.
    fn states(&self, patches: &[ActivePatch<'_>]) -> Vec<(String, Arc<[u8]>)> {
        let mut known = self.states.lock().unwrap_or_else(|e| e.into_inner());
        let of = |patch: &ActivePatch<'_>| {
            let state = known.get(patch.id).filter(|known| known.len() == patch.state.len()).cloned();
            (patch.id.to_owned(), state.unwrap_or_else(|| patch.state.into()))
        };
        let states: Vec<_> = patches.iter().map(of).collect();
        *known = states.iter().cloned().collect();
        states
    }

    fn hangs(&self) -> MutexGuard<'_, bool> {
        self.hangs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Refuses to call a method that did not return from an earlier call.
    fn check_free(&self, what: &str, patience: Duration) -> Result<()> {
        if *self.hangs() { Err(self.hanging(what, patience)) } else { Ok(()) }
    }

    fn hanging(&self, what: &str, patience: Duration) -> Error {
        let name = &self.method.library().descriptor().name;
        let text = format!(
            "`{name}` did not return from {what} within {:.1} s; a blocked native call cannot be stopped",
            patience.as_secs_f64()
        );
        Error::new(&codes::HANGS, text).help("roll its patches back; end the process to be rid of its thread")
    }

    fn panicked(&self, what: &str) -> Error {
        let name = &self.method.library().descriptor().name;
        Error::new(&codes::PANICKED, format!("`{name}` panicked in {what}"))
    }
}

/// What a call lends, as its own.
struct Owned {
    site: Site,
    activation: ArrayD<f32>,
    positions: Array2<i64>,
    rows: Vec<InterceptRow>,
    states: Vec<(String, Arc<[u8]>)>,
}

/// Starts a call on a thread of its own.
fn start(call: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let worker = thread::Builder::new().name(format!("engraft-{call}")).spawn(run);
    worker.map_err(|e| Error::new(&codes::THREAD, format!("no thread can be started for `{call}`")).because(e))?;
    Ok(())
}

impl Attached for Attachment {
    fn artefact(&self) -> Option<Hash> {
        self.method.artefact()
    }

    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
        let Some(patience) = self.patience else { return self.method.intercept(call) };
        let what = format!("`intercept` at `{}`", call.site);
        self.check_free(&what, patience)?;
        let owned = Owned {
            site: call.site,
            activation: call.activation.to_owned(),
            positions: call.positions.to_owned(),
            rows: call.rows.clone(),
            states: self.states(&call.patches),
        };
        let (method, (sender, answer)) = (self.method.clone(), channel());
        start("intercept", move || {
            let Owned { site, activation, positions, rows, states } = owned;
            let patches = states.iter().map(|(id, state)| ActivePatch { id, state }).collect();
            let (activation, positions) = (activation.view(), positions.view());
            let call = InterceptCall { site, activation, positions, rows, patches };
            // Nobody listens any more to a call that was left behind.
            drop(sender.send(method.intercept(&call)));
        })?;
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                *self.hangs() = true;
                Err(self.hanging(&what, patience))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.panicked(&what)),
        }
    }

    fn route(&self, routing: &Routing<'_>, query: &RouteQuery<'_>) -> Result<Route> {
        let access = OfRequest::new(routing);
        let Some(patience) = self.patience else { return self.method.route(&access, query) };
        let what = "`route`";
        self.check_free(what, patience)?;
        let (tokens, states) = (query.tokens.clone(), self.states(&query.patches));
        let (method, (sender, events)) = (self.method.clone(), channel());
        let relay = Relay::new(&access, sender.clone());
        start("route", move || {
            let patches = states.iter().map(|(id, state)| ActivePatch { id, state }).collect();
            let answer = method.route(&relay, &RouteQuery { tokens, patches });
            drop(sender.send(Event::Answered(answer)));
        })?;
        loop {
            match events.recv_timeout(patience) {
                Ok(Event::Asked(ask)) => ask(&access),
                Ok(Event::Answered(answer)) => return answer,
                Err(RecvTimeoutError::Timeout) => {
                    *self.hangs() = true;
                    return Err(self.hanging(what, patience));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.panicked(what)),
            }
        }
    }
}
