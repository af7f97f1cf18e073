//! Experiments: from a TOML file to a folder of results.
//!
//! [`Settings`] are an experiment as typed, resolved; a [`Plan`] has every method described, every parameter checked
//! and the data read, all before a model is opened; [`run`] then edits, measures and rolls back, case by case, and can
//! be interrupted and resumed at any line. [`train`] has methods learn before. Nothing here prints, and nothing here knows how a model runs: that is the
//! [`Workbench`]'s.

pub mod codes;
mod config;
mod events;
mod folder;
mod model_bench;
mod overrides;
mod plan;
mod resolved;
mod runner;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod train;
mod workbench;

pub use config::Mode;
pub use events::Event;
pub use folder::Folder;
pub use model_bench::{Hear, ModelWorkbench};
pub use plan::{Plan, PlannedMethod};
pub use runner::{Control, Outcome, run};
pub use settings::{DataSettings, MethodSettings, Places, PluginRef, Settings};
pub use source::Source;
pub use train::{TrainControl, TrainEvent, TrainOutcome, TrainPlaces, TrainPlan, TrainSettings, Validation, train};
pub use workbench::{Described, Edit, Opened, Workbench};
