//! What a graph is built of, whatever it computes: linear maps and norms.

pub(super) mod linear;
pub(super) mod norms;
