//! A method of a loaded library, and the translation of what it reports into this library's errors.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_plugin_api::abi::record::RECORD;
use engraft_plugin_api::abi::{ForeignMethod, HOST_PANICKED, PLUGIN_PANICKED, UNKNOWN_OP};
use engraft_plugin_api::{
    Artefact, Change, EditMethod, EditRequest, InterceptCall, MethodError, ModelAccess, Params, Route, RouteQuery,
    Tensor, TrainData,
};

use super::artefact::{artefact_hash, other_base};
use super::codes;
use super::load::Library;
use super::named::Named;
use crate::base::{self, Error, Hash, Result};
use crate::model::Proposal;

/// A method with its parameters set. Its calls may be made from any thread.
pub struct Method {
    library: Arc<Library>,
    params: Params,
    foreign: ForeignMethod,
    /// What the method was created with, where it was trained.
    learnt: Option<Learnt>,
    panicked: AtomicBool,
}

/// What a host keeps of an artefact.
struct Learnt {
    /// The hash of the model that the method was trained on.
    base: String,
    hash: Hash,
}

impl Method {
    pub(super) fn new(
        library: Arc<Library>,
        params: Params,
        foreign: ForeignMethod,
        artefact: Option<&Artefact>,
    ) -> Self {
        let name = &library.descriptor().name;
        let learnt = artefact.map(|a| Learnt { base: a.base.clone(), hash: artefact_hash(name, a) });
        Self { library, params, foreign, learnt, panicked: AtomicBool::new(false) }
    }

    /// The library that the method came from.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// The parameters, defaults included.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The hash of what the method learnt before, where it was created with an artefact.
    pub fn artefact(&self) -> Option<Hash> {
        self.learnt.as_ref().map(|learnt| learnt.hash)
    }

    /// Changes that the method returned, to be committed as its own.
    pub fn proposal(&self, requests: Vec<EditRequest>, changes: Vec<Change>) -> Proposal {
        let descriptor = self.library.descriptor();
        let (method, version) = (descriptor.name.clone(), descriptor.version.clone());
        Proposal { method, version, params: self.params.clone(), artefact: self.artefact(), requests, changes }
    }

    /// Asks the method for the changes that fulfil the requests together. Nothing of the model is changed, and the
    /// changes are read, but not yet checked against the model.
    ///
    /// # Errors
    /// `interrupted` if the method noticed that `access` was cancelled; `plugin-failed`, `plugin-host-call`,
    /// `plugin-host-refused`, `plugin-panicked`, `plugin-record`; `artefact-missing` and `artefact-base`; and `plugin-poisoned` for every
    /// call after a panic.
    pub fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>> {
        self.fits(access)?;
        self.ask("edit", || self.foreign.edit(&self.named(access), requests))
    }

    /// Has the method learn from data, and checks what the result is bound to.
    ///
    /// # Errors
    /// As [`edit`](Self::edit); `plugin-call` if the method learns nothing, `artefact-unbound`.
    pub fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact> {
        self.announced("train", self.library.calls().train)?;
        let artefact = self.ask("train", || self.foreign.train(&self.named(access), data))?;
        let (base, name) = (access.facts().hash, &self.library.descriptor().name);
        if (&artefact.base, &artefact.data) != (&base, &data.hash) {
            let text = format!(
                "`{name}` was trained on the model {base} and the data {}, but its artefact says {} and {}",
                data.hash, artefact.base, artefact.data
            );
            return Err(Error::new(&codes::ARTEFACT_UNBOUND, text));
        }
        Ok(artefact)
    }

    /// Asks the method what becomes of a request, and checks the answer against the query.
    ///
    /// # Errors
    /// As [`edit`](Self::edit); `plugin-call` if the method does not route.
    pub fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route> {
        self.announced("route", self.library.calls().route)?;
        self.fits(access)?;
        self.ask("route", || {
            let named = self.named(access);
            let route = self.foreign.route(&named, query)?;
            if let Route::Delegate { module, .. } = &route {
                named.owns(module)?;
            }
            route.check(query).map(|()| route)
        })
    }

    /// Shows the method an activation on its way, and checks the shape and the values of the new one. The caller
    /// answers for the method being used with the model of its artefact: this call does not see the model.
    ///
    /// # Errors
    /// As [`edit`](Self::edit); `plugin-call` if the method does not intercept.
    pub fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
        self.announced("intercept", self.library.calls().intercept)?;
        self.ask("intercept", || {
            let values = self.foreign.intercept(call)?;
            values.iter().try_for_each(|values| call.check(values)).map(|()| values)
        })
    }

    fn named<'a>(&'a self, access: &'a dyn ModelAccess) -> Named<'a> {
        Named { plugin: &self.library.descriptor().name, access }
    }

    fn announced(&self, call: &str, announced: bool) -> Result<()> {
        if announced {
            return Ok(());
        }
        let name = &self.library.descriptor().name;
        Err(Error::new(&codes::CALL, format!("the method `{name}` does not implement `{call}`")))
    }

    /// That the method was trained on this model, if it was trained; and that it was, if it has to be.
    fn fits(&self, access: &dyn ModelAccess) -> Result<()> {
        let name = &self.library.descriptor().name;
        let Some(Learnt { base, .. }) = &self.learnt else {
            if !self.library.calls().needs_artefact {
                return Ok(());
            }
            return Err(untaught(name));
        };
        let found = access.facts().hash;
        if *base == found {
            return Ok(());
        }
        Err(other_base(name, base, &found))
    }

    /// Makes a call, unless an earlier one panicked.
    fn ask<T>(&self, call: &str, ask: impl FnOnce() -> std::result::Result<T, MethodError>) -> Result<T> {
        if self.panicked.load(Ordering::SeqCst) {
            let name = &self.library.descriptor().name;
            return Err(Error::new(
                &codes::POISONED,
                format!("the method `{name}` panicked before and is not trusted"),
            )
            .help("create the method anew"));
        }
        ask().map_err(|error| {
            if error.code == PLUGIN_PANICKED {
                self.panicked.store(true, Ordering::SeqCst);
            }
            explain(self.library.path(), call, error)
        })
    }

    /// The method as plugins and tests know it: the trait itself, with the plugin's own errors.
    pub fn as_edit_method(&self) -> &dyn EditMethod {
        &self.foreign
    }

    /// Drops the method and tells how that went. (Merely dropping it ignores a panic there.)
    ///
    /// # Errors
    /// `plugin-panicked` if the method panicked while it was dropped.
    pub fn close(self) -> Result<()> {
        self.foreign.close().map_err(|error| explain(self.library.path(), "drop", error))
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method").field("library", &self.library).field("params", &self.params).finish()
    }
}

/// The error of a method that has to learn first and did not.
pub(super) fn untaught(method: &str) -> Error {
    let text = format!("the method `{method}` works only with what it learnt before, and no artefact was given to it");
    Error::new(&codes::ARTEFACT_MISSING, text).help(
        "train it with `engraft train`, and name the file with `--artefact FILE`, or in an experiment with \
         `artefact = \"FILE\"` in its [[method]]",
    )
}

/// This library's error for what a plugin reported, naming plugin and call.
pub(super) fn explain(plugin: &Path, call: &str, error: MethodError) -> Error {
    let plugin = plugin.display();
    let mut words = error.message.clone();
    for (name, value) in &error.labels {
        words += &format!(" [{name}: {value}]");
    }
    let (code, message) = match error.code.as_str() {
        MethodError::CANCELLED | "host-interrupted" => {
            (&base::codes::INTERRUPTED, format!("the plugin {plugin} stopped in `{call}`, as it was asked to"))
        }
        PLUGIN_PANICKED => (&codes::PANICKED, format!("{plugin}: {words}")),
        HOST_PANICKED => (&codes::HOST_PANICKED, format!("{plugin} called the host in `{call}`: {words}")),
        UNKNOWN_OP => (&codes::CALL, format!("{plugin} stopped in `{call}`: {words}")),
        RECORD => (&codes::RECORD, format!("{plugin} answered `{call}` with something unreadable: {words}")),
        other => match other.strip_prefix("host-") {
            Some(host) if faults_plugins(host) => {
                (&codes::HOST_REFUSED, format!("{plugin} asked in `{call}` for what cannot be: [{host}] {words}"))
            }
            Some(host) => {
                (&codes::HOST_CALL, format!("{plugin} needed something in `{call}` that failed: [{host}] {words}"))
            }
            None => (&codes::FAILED, format!("{plugin} failed in `{call}`: [{other}] {words}")),
        },
    };
    let mut out = Error::new(code, message);
    if let Some(help) = error.help {
        out = out.help(help);
    }
    match Cause::chain(error.causes) {
        Some(cause) => out.because(cause),
        None => out,
    }
}

/// True if a code of the host tells of a fault of the plugin that met it.
fn faults_plugins(code: &str) -> bool {
    let of_host = crate::model::codes::class_of(code);
    let own = || codes::ALL.iter().find(|own| own.id == code).map(|own| own.class);
    of_host.or_else(own) == Some(base::Class::Plugin)
}

/// The messages under an error of a plugin, as errors again.
#[derive(Debug)]
struct Cause {
    message: String,
    next: Option<Box<Cause>>,
}

impl Cause {
    fn chain(messages: Vec<String>) -> Option<Box<Self>> {
        messages.into_iter().rfold(None, |next, message| Some(Box::new(Self { message, next })))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::base::Class;

    #[test]
    fn a_plugins_error_keeps_its_words() {
        let inner = MethodError::new("inner", "singular");
        let error = MethodError::new("rome-solve", "cannot solve").label("layer", 3).help("damp it").cause(&inner);
        let error = explain(Path::new("/p/librome.so"), "edit", error);
        assert_eq!(error.message(), "/p/librome.so failed in `edit`: [rome-solve] cannot solve [layer: 3]");
        assert_eq!(
            (error.code().id, error.code().class, error.advice()),
            ("plugin-failed", Class::Plugin, Some("damp it"))
        );
        assert_eq!(error.source().map(ToString::to_string), Some("singular".into()));
    }

    #[test]
    fn who_is_to_blame_decides_the_class() {
        let class = |code: &str| explain(Path::new("p"), "edit", MethodError::new(code, "")).code().class;
        assert_eq!(class(MethodError::CANCELLED), Class::Interrupted);
        assert_eq!(class("host-no-tokenizer"), Class::Model);
        assert_eq!(class("host-tokenizer-missing"), Class::Model);
        // Shapes that do not fit, and a checkpoint that nobody keeps.
        assert_eq!(class("host-poke-shape"), Class::Plugin);
        assert_eq!(class("host-plugin-call"), Class::Plugin);
        assert_eq!(class(HOST_PANICKED), Class::Runtime);
        assert_eq!(class(PLUGIN_PANICKED), Class::Plugin);
        assert_eq!(class(RECORD), Class::Plugin);
    }
}
