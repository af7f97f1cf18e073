//! ONNX as data: load, save, look around, cut and patch a graph, all without a runtime.
//!
//! A [`Graph`] keeps the protobuf messages it was read from, so whatever this crate does not understand (unknown
//! operators, fields of a newer format, metadata) survives a round trip. Edges are named by strings as ONNX names
//! them. Big tensors stay in their external files, memory-mapped; a copy of a graph shares its initializers.
//!
//! Reading order: [`Graph`] (the container), [`Node`], [`Initializer`], [`Index`] (who makes and who reads an edge),
//! [`Patch`] (taps, shunts and new nodes, applied whole or not at all), [`Shapes`] (symbolic shapes), `slice` (the
//! part between cuts), `graft` (one graph put into another), `lean` (the same in fewer nodes), `dump` (text for goldens),
//! `files` (reading, writing, and models written to other folders).

pub mod codes;
mod constant;
mod container;
mod dump;
mod files;
mod graft;
mod index;
mod initializer;
mod lean;
mod node;
mod patch;
mod pointwise;
mod shapes;
mod slice;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod untranspose;

pub use constant::Constant;
pub use container::{Dim, Graph, Port};
pub use dump::dump;
pub use files::{Beside, ExternalFiles, export, export_with};
pub use index::Index;
pub use initializer::{Initializer, Location};
pub use node::{Attr, DType, Node};
pub use patch::Patch;
pub use pointwise::is_pointwise;
pub use shapes::Shapes;
pub(crate) use shapes::equation;
pub use slice::{Slice, downstream, upstream};
