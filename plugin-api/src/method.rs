//! The trait that every editing method implements.

use crate::access::ModelAccess;
use crate::change::Change;
use crate::descriptor::Descriptor;
use crate::error::MethodError;
use crate::params::Params;
use crate::request::EditRequest;

/// An editing method with its parameters set.
pub trait EditMethod: Send + Sync {
    /// Computes the changes that fulfil the requests together, and touches nothing.
    ///
    /// The same requests, parameters and model give the same changes; no requests give no changes.
    ///
    /// # Errors
    /// [`MethodError::cancelled`] if the host asked to stop; else whatever the method finds wrong.
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError>;
}

/// The maker of a method: what a plugin library exports with `export_method!`.
pub trait Plugin {
    /// Describes the method.
    fn describe() -> Descriptor;

    /// Creates the method. `params` hold a checked value for every parameter of the description.
    ///
    /// # Errors
    /// If the values do not fit together.
    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError>;
}
