//! Trainings: from the `[train]` table of an experiment to files of what its methods learnt.
//!
//! A [`TrainPlan`] has every parameter checked and all data read before a model is opened; [`train`] then has each
//! method learn that can, keeps its figures and its checkpoints in a folder, and can be resumed from the last
//! checkpoint, to the same bytes. When to stop is the method's own affair: it gets the validation records.
//!
//! In `data`, a paraphrase or a consequence is in scope and a neighbour out of it; a share for validation is drawn by
//! subject. A run whose experiment has a [train] table compares it with its artefacts, unless the files are not at hand.

mod data;
mod logbook;
mod plan;
mod runner;
mod seen;
mod settings;

pub(super) use data::Lessons;
pub use plan::TrainPlan;
pub use runner::{TrainControl, TrainEvent, TrainOutcome, train};
pub(super) use seen::Seen;
pub use settings::{TrainPlaces, TrainSettings, Validation};
