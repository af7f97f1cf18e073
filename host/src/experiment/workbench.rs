//! What a run needs of the world of models and plugins: a model on which methods edit, with undo.

use std::path::PathBuf;
use std::sync::Arc;

use engraft_plugin_api::{Descriptor, EditRequest, Params};

use super::settings::{MethodSettings, Settings};
use crate::base::Result;
use crate::metrics::Scorer;
use crate::plugins::ArtefactFile;

/// A model and methods that edit it. A run calls, in this order: [`describe`](Self::describe) for each method,
/// [`open`](Self::open) once, then for each method [`start`](Self::start) and any number of edits and rollbacks.
pub trait Workbench {
    /// Loads a method's library, checks the parameters with [`MethodSettings::check`], and reads what the method learnt
    /// before. No model is opened.
    ///
    /// # Errors
    /// If the library cannot be found or loaded; `config-param`; `config-path` and the `artefact-*` codes.
    fn describe(&mut self, method: &MethodSettings) -> Result<Described>;

    /// Opens the model and whatever edits need besides.
    ///
    /// # Errors
    /// If the model or the device cannot be had; `artefact-base` if a method learnt on another model.
    fn open(&mut self, settings: &Settings) -> Result<Opened>;

    /// Creates the method that edits from now on: the `index`-th of the settings that were opened, with the parameters
    /// that [`describe`](Self::describe) returned.
    ///
    /// # Errors
    /// If the method refuses its parameters or they do not fit the model.
    fn start(&mut self, index: usize, params: &Params) -> Result<()>;

    /// Edits the model: all requests in one call of the method, committed as one patch on top of those there are.
    /// The random streams of an edit depend on the seed and the ids of its requests, never on earlier edits.
    ///
    /// # Errors
    /// If the method fails or its changes are refused; nothing is committed then. An error of class `Runtime` or
    /// `Interrupted` ends the run, any other fails the case.
    fn edit(&mut self, requests: &[EditRequest]) -> Result<Edit>;

    /// Undoes the patch that was committed last, and verifies that it is undone.
    ///
    /// # Errors
    /// If the model is not what it was before: the run ends.
    fn rollback(&mut self, patch: &str) -> Result<()>;

    /// The model as it is now.
    ///
    /// # Errors
    /// If no model is open.
    fn scorer(&self) -> Result<&dyn Scorer>;
}

/// A method before any model is open.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// What the method says of itself.
    pub descriptor: Descriptor,
    /// A value for every parameter.
    pub params: Params,
    /// The library.
    pub library: PathBuf,
    /// The hash of the library.
    pub hash: String,
    /// What it learnt before.
    pub artefact: Option<Arc<ArtefactFile>>,
}

/// An open model, for the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The hash that binds artefacts to the model.
    pub hash: String,
    /// The device, in words.
    pub device: String,
    /// What runs the model, with its version.
    pub runtime: String,
    /// How continuations are scored, in words.
    pub scorer: String,
    /// How text is written, in words.
    pub decoding: String,
}

/// A committed edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Names the patch for its rollback.
    pub patch: String,
    /// How long the method and the commit took.
    pub seconds: f64,
    /// The greatest memory meanwhile, where it is known.
    pub peak_bytes: Option<u64>,
    /// Remarks of the method or the host.
    pub notes: Vec<String>,
}
