//! The blocks of a decoder: the residual stream and what is added to it (`residual`), how a branch ends (`branch`),
//! and what is inside of attention and of an MLP: `sources` finds the linear maps behind an edge, `heads` queries, keys
//! and values, `causal` whether attention looks back only, `unread` what keeps a branch of clear structure from being
//! read.

pub(super) mod attention;
pub(super) mod branch;
mod causal;
mod heads;
pub(super) mod mlp;
pub(super) mod residual;
mod sources;
mod unread;
