//! What every folder may import: errors with stable codes, hashes, files written whole and libraries found whole,
//! the calendar, cancellation and named random streams. Nothing here knows of models.

pub mod atomic;
mod cancel;
pub(crate) mod clock;
pub mod codes;
pub mod elf;
mod error;
mod hash;
pub mod random;

pub use cancel::{Cancel, OnCancel};
pub(crate) use error::codes;
pub use error::{Class, Code, Error, Result};
pub use hash::{Hash, Hasher};
