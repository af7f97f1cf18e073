//! What every folder may import: errors with stable codes, and in time hashes, atomic files, cancellation, events and
//! named random streams. Nothing here knows of models.

mod error;

pub(crate) use error::codes;
pub use error::{Class, Code, Error, Result};
