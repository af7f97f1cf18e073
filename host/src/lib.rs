//! engraft runs ONNX language models and corrects them with editing methods loaded as plugins.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/atlas/model");
//! use engraft::model::{Model, OpenOptions, Proposal};
//! use engraft::runtime::{Runtime, RuntimeSettings, silent};
//! use engraft_plugin_api::{Change, Delta, Params, Role, Tensor, WeightRef};
//!
//! let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
//! let model = Model::open(folder.as_ref(), &runtime, &OpenOptions::default())?;
//! let delta = Delta::LowRank { left: Tensor::f32([512, 1], vec![0.01; 512])?, right: Tensor::f32([1, 128], vec![0.1; 128])? };
//! let changes = vec![Change::Weight { weight: WeightRef::Block(0, Role::MlpOut), delta }];
//! let (method, version, params) = ("by hand".into(), "1".into(), Params::default());
//! let patch = model.commit(Proposal { method, version, params, requests: vec![], changes })?;
//! assert_eq!(model.patches().len(), 1); // the journal knows what the model is now
//! model.rollback(&patch)?; // any patch, not only the last; verified by hash
//! # Ok(())
//! # }
//! ```
//!
//! The nouns, with what they cost and how long they live:
//!
//! - [`Runtime`](runtime::Runtime): ONNX Runtime, loaded once for the process. Opening it may fetch the library.
//! - [`Model`](model::Model): one base model on one device with the patches that are active on it. Opening reads the
//!   graph and maps the weights; programs are compiled on first use and kept. `Send + Sync`; calls take `&self`.
//! - [`Anatomy`](anatomy::Anatomy): which edge of the graph is which *site* or *weight* of a transformer, with evidence
//!   and the reasons of absences. Milliseconds; lives with the model.
//! - [`Method`](plugins::Method): an editing method from a library. Libraries are never unloaded.
//! - [`Proposal`](model::Proposal) and [`Patch`](weights::Patch): what a method wants changed, and what was committed.
//!   A patch is a file, bound to its base model by hash, and the unit of rollback.
//! - [`Journal`](weights::Journal): what was committed and rolled back; in memory, or a folder that survives the process.
//! - [`Settings`](experiment::Settings) and [`Plan`](experiment::Plan): an experiment, checked before a model is opened.
//!
//! A request sees wholly the model before or wholly the model after a commit, and keeps what it began with. Nothing in
//! this library prints or exits, but for [`cli`].

pub mod anatomy;
pub mod autodiff;
pub mod base;
pub mod cli;
pub mod codes;
pub mod data;
pub mod experiment;
pub mod graph;
pub mod hooks;
pub mod metrics;
pub mod model;
pub mod plugins;
pub mod report;
pub mod runtime;
pub mod weights;
