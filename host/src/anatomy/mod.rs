//! Which edge of the graph is which part of a transformer, found from structure, never from a model's name.
//!
//! One small detector a file: `linear` and `norms` list what a graph is built of, `ends` finds the logits and the
//! embeddings, `residual` the stream and its blocks, `attention` and `mlp` what is inside, `inputs` and `cache` what to feed.
//! `survey` runs them; `absences` explains what is not there; `check` states the identities that hold between the
//! parts; `table` shows them.

mod absences;
mod attention;
mod cache;
pub mod check;
pub mod codes;
mod draft;
mod ends;
mod inputs;
mod linear;
mod mlp;
mod norms;
mod parts;
mod residual;
mod survey;
mod table;
#[cfg(test)]
mod tests;
mod view;

pub use parts::{Anatomy, CachePort, Cached, Inputs, SiteEdge, Storage, WeightEdge};
pub use table::{Kind, Row, Table};
