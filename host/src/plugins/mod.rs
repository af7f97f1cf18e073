//! Editing methods from shared libraries: found, checked before anything of them runs, loaded, configured and called.
//!
//! [`Registry::load`] turns what a user wrote (`plugin = "rome"`, or a path) into a [`Library`];
//! [`Library::configure`] checks its parameters; [`Library::create`] makes a [`Method`], whose `edit` returns changes
//! or an error that names the plugin. A native plugin is trusted code: panics come back as errors, values are checked,
//! but a crash ends the process and a blocked call can only be left behind ([`watched`]). Policy can act on the bytes:
//! [`Registry::load`] takes [`Pin`]s to insist on, and compares them before the library is opened. Libraries are never
//! unloaded.

mod access;
mod artefact;
mod attachment;
pub mod codes;
mod discover;
mod elf;
mod foreign;
mod load;
mod named;
pub mod params;
mod pin;
mod registry;
mod routing;
mod watchdog;

pub use access::{Access, Deaf, Listener};
pub use artefact::ArtefactFile;
pub use attachment::{Attachment, Patience};
pub use discover::SearchPath;
pub use foreign::Method;
pub use load::Library;
pub use pin::Pin;
pub use registry::Registry;
pub use watchdog::{Deadlines, watched};
