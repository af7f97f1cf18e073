//! What is left of a run: the line of a case, the manifest, the summary and the tables made of them.
//!
//! Files hold shares in [0, 1], seconds and bytes; tables for people hold percent. Nothing here reads a model or
//! prints.

mod case;
mod manifest;
mod markdown;
mod summary;
mod table;
mod training;

pub use case::{CaseLine, Failure, RequestLine, Stage, TextPair};
pub use manifest::{ArtefactEntry, DataEntry, Manifest, MethodEntry, ModelEntry, SkippedEntry};
pub use markdown::markdown;
pub use summary::{FailedCase, MethodSummary, Seconds, Summary};
pub use table::table;
pub use training::{
    Figure, MetricLine, Overlap, TrainDataEntry, TrainManifest, TrainModelEntry, TrainSummary, Trained, figures,
    training_markdown, training_page,
};
