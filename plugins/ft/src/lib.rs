//! Fine-tuning baselines: FT and FT-L (Zhu et al. 2020, with the settings of Meng et al. 2022) and FT-M (KnowEdit,
//! Zhang et al. 2024). One matrix in each of a few layers is descended on the edit's own loss.
//!
//! `objective` says what the loss reads, `constraint` how far a matrix may move, `method` descends.

mod constraint;
mod method;
mod objective;
mod params;

pub use constraint::clamp;
pub use method::Ft;
pub use objective::Objective;
pub use params::FtParams;

engraft_plugin_api::export_method!(Ft);
