//! The trait that every editing method implements, and the maker that a plugin exports.

pub mod intercept;
pub mod route;
pub mod train;

pub use intercept::{InterceptCall, InterceptRow};
pub use route::{ActivePatch, Route, RouteQuery};
pub use train::{Artefact, Checkpoint, Example, TrainData, TrainRecord};

use crate::access::ModelAccess;
use crate::change::Change;
use crate::descriptor::{Calls, Descriptor};
use crate::error::MethodError;
use crate::params::Params;
use crate::request::EditRequest;
use crate::tensor::Tensor;

/// An editing method with its parameters set. All but `edit` have defaults: a method implements the calls that it
/// announces in [`Plugin::calls`], and no other is made.
///
/// Calls may come from any thread, several at once, and for several models.
pub trait EditMethod: Send + Sync {
    /// Computes the changes that fulfil the requests together, and touches nothing.
    ///
    /// The same requests, parameters, artefact, active patches and model give the same changes; no requests give no
    /// changes.
    ///
    /// # Errors
    /// [`MethodError::cancelled`] if the host asked to stop; else whatever the method finds wrong.
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError>;

    /// Learns from data, once for a model and a domain. The result is given to [`Plugin::create_trained`].
    ///
    /// The same data, parameters, seed and model give the same artefact, to the byte, also if the training was cut
    /// off and resumed. It tells its losses through [`ModelAccess::metric`] and keeps
    /// [`ModelAccess::checkpoint`]s.
    ///
    /// # Errors
    /// [`MethodError::cancelled`] if the host asked to stop; `train-none` if the method learns nothing.
    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        let _ = (access, data);
        Err(MethodError::new("train-none", "this method learns nothing beforehand"))
    }

    /// Decides what becomes of a request, once, before its first pass; the answer holds while it generates.
    ///
    /// It depends on the query and the model alone, not on queries before it; a host may ask once for equal requests.
    /// `access` shows the base model, whatever patches are active, and of the method's own patches those that the
    /// request may see. Passes that methods ask for are not routed. Methods are asked in the order of their first
    /// commits; the first that gives a prompt or a delegate is the last that is asked, and patches that later ones
    /// would route are not seen.
    ///
    /// # Errors
    /// Whatever the method finds wrong: that one request fails.
    fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        let _ = (access, query);
        Ok(Route::Base)
    }

    /// Looks at an activation during a pass and may give it a new value, of the same shape; `None` leaves it as it is.
    ///
    /// Rows that see none of the patches, and the padding, keep their values to the bit. It is called at once from
    /// several threads, in the middle of a pass: it cannot call the host, and should be quick.
    ///
    /// # Errors
    /// Whatever the method finds wrong: the pass fails, and with it the requests of its rows.
    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
        let _ = call;
        Ok(None)
    }
}

/// The maker of a method: what a plugin library exports with `export_method!`.
pub trait Plugin {
    /// Describes the method.
    fn describe() -> Descriptor;

    /// Which calls the method implements besides `edit`.
    fn calls() -> Calls {
        Calls::default()
    }

    /// Creates the method. `params` hold a checked value for every parameter of the description.
    ///
    /// # Errors
    /// If the values do not fit together.
    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError>;

    /// Creates the method with what it learnt before. The host gives an artefact of this method only, and uses the
    /// method with the artefact's model only.
    ///
    /// # Errors
    /// As [`create`](Self::create); `artefact-unused` if the method learns nothing, and an error of its own if the
    /// bytes are not what it made.
    fn create_trained(params: &Params, artefact: &Artefact) -> Result<Box<dyn EditMethod>, MethodError> {
        let _ = (params, artefact);
        Err(MethodError::new("artefact-unused", "this method learns nothing and takes no artefact"))
    }
}
