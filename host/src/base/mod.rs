//! What every folder may import: errors with stable codes, files written whole, and in time hashes, cancellation,
//! events and named random streams. Nothing here knows of models.

mod error;
pub mod files;

pub(crate) use error::codes;
pub use error::{Class, Code, Error, Result};
