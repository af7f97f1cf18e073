//! The border between host and plugin: every line that names `abi_stable`. Authors meet only
//! [`export_method!`](crate::export_method); hosts load a library into a [`ForeignModule`].
//!
//! One wire type crosses, the [`FfiRecord`](record::FfiRecord); three structs of functions carry it: the
//! [`MethodModule`] that a library exports, the [`FfiMethod`](method::FfiMethod) that `create` makes and the
//! [`FfiHost`](host::FfiHost) that is lent to a method for one call. Each is made by its owner, whose private data
//! nobody else touches, and is wrapped by its receiver as a *foreign* type with the ordinary Rust trait.
//!
//! Panics never cross. Every function here catches them on the callee's side and answers with an error of the code
//! [`PLUGIN_PANICKED`] or [`HOST_PANICKED`]. A plugin built with `panic = "abort"` gives that protection up.

mod guard;
pub mod host;
#[cfg(test)]
mod layout;
pub mod method;
mod module;
pub mod record;
pub mod records;
#[cfg(test)]
mod tests;

pub use guard::{HOST_PANICKED, PLUGIN_PANICKED};
pub use method::ForeignMethod;
pub use module::{
    API_VERSION, ApiVersion, ForeignModule, LibHeader, MethodModule, MethodModuleRef, ROOT_SYMBOL, header,
};

/// The code of a call that the other side does not know.
pub const UNKNOWN_OP: &str = crate::MethodError::UNKNOWN_CALL;

/// The answer to a call: a record, or the record of a [`MethodError`](crate::MethodError).
pub type FfiReply = abi_stable::std_types::RResult<record::FfiRecord<'static>, record::FfiRecord<'static>>;
