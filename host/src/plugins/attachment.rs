//! A loaded method as what is attached to a model, which calls it in the middle of passes and before the first pass of a
//! request.

use std::collections::BTreeMap;
use std::str::FromStr;
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

/// How long a call of a method may take before its request fails, for calls in the middle of passes and for routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(Option<Duration>);

impl Patience {
    /// So many seconds; 0 for as long as it takes.
    ///
    /// # Errors
    /// What was expected, if it is no such number.
    pub fn seconds(seconds: f64) -> std::result::Result<Self, String> {
        let found = Duration::try_from_secs_f64(seconds)
            .map_err(|_| format!("expected seconds from 0 on, where 0 waits as long as it takes, found {seconds}"))?;
        Ok(Self((!found.is_zero()).then_some(found)))
    }

    /// In seconds, as [`Patience::seconds`] takes it.
    pub fn as_seconds(self) -> f64 {
        self.0.map_or(0.0, |patience| patience.as_secs_f64())
    }
}

impl Default for Patience {
    /// A minute.
    fn default() -> Self {
        Self(Some(Duration::from_secs(60)))
    }
}

impl FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::seconds(text.parse().map_err(|_| format!("expected a number of seconds, found `{text}`"))?)
    }
}

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
        Self { method, patience: Patience::default().0, hangs: Mutex::new(false), states: Mutex::default() }
    }

    /// As said; `None` waits as long as it takes, and shows the method the model's own memory.
    #[must_use]
    pub fn patience(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// Attaches a method to a model, if it intercepts or routes, for the patches that it makes with its parameters and
    /// its artefact. A call may take a minute.
    pub fn attach(method: &Arc<Method>, model: &Model) {
        Self::attach_for(method, model, Patience::default());
    }

    /// As [`Attachment::attach`], with another patience.
    pub fn attach_for(method: &Arc<Method>, model: &Model, patience: Patience) {
        let calls = method.library().calls();
        if calls.intercept || calls.route {
            let name = &method.library().descriptor().name;
            model.attach(name, method.params(), Arc::new(Self::new(method.clone()).patience(patience.0)));
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
        Error::new(&codes::HANGS, text).help(
            "go on without its patches, or give it more time with a greater `--patience`, or `[run] patience` of an \
             experiment; its thread is gone only when the process ends",
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_seconds_and_none_is_waiting_as_long_as_it_takes() {
        let read = |text: &str| text.parse::<Patience>();
        assert_eq!(read("0.05").unwrap().0, Some(Duration::from_millis(50)));
        assert_eq!((read("0").unwrap().0, read("60").unwrap()), (None, Patience::default()));
        for text in ["", "soon", "-1", "inf", "nan", "1e300"] {
            assert!(read(text).unwrap_err().starts_with("expected "), "{text}");
        }
        assert_eq!(Patience::seconds(2.5).unwrap().as_seconds(), 2.5);
    }
}
