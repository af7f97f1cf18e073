//! ROME (Meng, Bau, Andonian & Belinkov 2022) and R-ROME (Gupta & Anumanchipalli 2024): one fact becomes a rank-one
//! change of one layer's `W_out`, seen as a linear associative memory.
//!
//! `method` reads what the layer computes at the subject, the shared value search finds what it should compute, and
//! `update` writes the one into the other.

mod method;
mod params;
mod update;

pub use method::Rome;
pub use params::{Covariance, KeyPolicy, RomeParams};
pub use update::{Association, rank_one};

engraft_plugin_api::export_method!(Rome);
