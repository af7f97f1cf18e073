//! Which edge of the graph is which part of a transformer, found from structure, never from a model's name.
//!
//! `look` is how detectors see a graph; `pieces` lists the linear maps and norms that it is built of; `ends` finds the
//! logits and the embeddings, `blocks` the residual stream and what its blocks hold, `inputs` what to feed. `survey`
//! runs them; `absences` explains what is not there; `foreign` names operators that keep a graph from being read,
//! `training` those that draw random numbers; `check` states the identities that hold between the parts; `table` shows
//! them.

mod absences;
mod blocks;
pub mod check;
pub mod codes;
mod columns;
mod draft;
mod ends;
mod foreign;
mod inputs;
mod look;
mod parts;
mod pieces;
mod survey;
mod table;
#[cfg(test)]
mod tests;
mod training;

pub use columns::Columns;
pub use parts::{
    Anatomy, Axes, CachePort, Cached, Embedding, Fixed, Inputs, NormFacts, Shaping, SiteEdge, Storage, WeightEdge,
};
pub use table::{Kind, Port, Row, Table};
