//! The ends of a decoder: the logits and the linear map that makes them, and the tables that make what enters the
//! first block.

pub(super) mod embedding;
pub(super) mod logits;

pub(super) use embedding::Embedding;
