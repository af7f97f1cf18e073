//! Which edge of the graph is which part of a transformer, found from structure, never from a model's name.

pub mod codes;
mod parts;

pub use parts::{Anatomy, Inputs, SiteEdge, Storage, WeightEdge};
