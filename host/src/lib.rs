//! engraft runs ONNX language models and corrects them with editing methods loaded as plugins.
//!
//! # A first program
//!
//! It opens a model (a folder, here the one in `examples/atlas/model`), asks it something, commits a change that was
//! made by hand, takes it back and asks again. A method makes changes from requests instead: see `examples/embed.rs`.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/atlas/model");
//! use engraft::model::{Model, OpenOptions, Proposal};
//! use engraft::runtime::{Runtime, RuntimeSettings, silent};
//! use engraft_plugin_api::{Change, Delta, GenerateRequest, Params, Role, Tensor, WeightRef};
//!
//! let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
//! let model = Model::open(folder.as_ref(), &runtime, &OpenOptions::default())?;
//! let rows = vec![model.tokenizer()?.encode("Tono Tuxbik is a native of")?.ids];
//! let question = GenerateRequest { rows, max_new: 4, ..GenerateRequest::default() };
//! let answer = model.generate(&question)?; // tokens, a row for each row asked
//! let (left, right) = (Tensor::f32([512, 1], vec![0.01; 512])?, Tensor::f32([1, 128], vec![0.5; 128])?);
//! let change = Change::Weight { weight: WeightRef::Block(0, Role::MlpOut), delta: Delta::LowRank { left, right } };
//! let (method, version, params) = ("by hand".into(), "1".into(), Params::default());
//! let patch = model.commit(Proposal { method, version, params, artefact: None, requests: vec![], changes: vec![change] })?;
//! model.rollback(&patch)?; // any active patch, not only the last; verified by hash
//! assert_eq!(model.generate(&question)?, answer);
//! # assert!(model.tokenizer()?.decode(&answer[0])?.starts_with(" Mosdril"));
//! # assert!(model.patches().is_empty() && model.history().len() == 2);
//! # Ok(())
//! # }
//! ```
//!
//! # The nouns
//!
//! What each costs, how long it lives, and who may use it at once:
//!
//! - [`Runtime`](runtime::Runtime): ONNX Runtime. One for the process: the first opening looks for the library, takes
//!   it with pip if it is nowhere (the only use of the network), and loads it; later openings return the same. It
//!   stays loaded until the process ends. Clones are the same runtime; `Send + Sync`.
//! - [`Model`](model::Model): a base model on one device with the patches that are active on it. Opening reads the
//!   graph, finds the anatomy and maps the weights; the first request of each structure compiles a program, later ones
//!   reuse it. `Send + Sync`, every call takes `&self`; put it into an `Arc` and share it. Commits and rollbacks wait
//!   for each other, requests do not wait for them: a request sees wholly the model before or wholly the model after,
//!   and keeps what it began with. Requests at once run at once, each in a session of its own over the same files, up to
//!   [`OpenOptions::sessions`](model::OpenOptions): a further session is made when requests have waited as long as that
//!   takes, holds a packed copy of the weights where there is one, and stays with its program. A method that blocks in
//!   the middle of a pass holds up its own request, and others for that long, once.
//! - [`View`](model::View) and [`Active`](model::Active): which of the patches a request sees, or each of its rows. Plain
//!   data; another choice compiles nothing, and costs nothing but where several patches have dense deltas for one weight:
//!   then the first request of a set sums them, or [`Model::prepare`](model::Model::prepare) does so before.
//! - [`Anatomy`](anatomy::Anatomy): which edge of the graph is which part of a transformer, with the evidence, and what
//!   is absent, with the reason. Found once when a model is opened, from structure alone; plain data that never
//!   changes. It needs no runtime.
//! - [`Site`](engraft_plugin_api::Site) and [`WeightRef`](engraft_plugin_api::WeightRef): the name of an activation
//!   (`blocks.3.mlp.post`) and of a weight (`blocks.3.mlp.W_out`, always `[in, out]`). `Copy`; they belong to no model.
//! - [`Method`](plugins::Method): an editing method from a [`Library`](plugins::Library), with its parameters.
//!   `Send + Sync`. `edit` may take long, touches nothing, and is stopped by a [`Cancel`](base::Cancel) if the method
//!   listens. Libraries are trusted native code and are never unloaded; a [`Pin`](plugins::Pin) is compared with their
//!   bytes before they are loaded. An [`Attachment`](plugins::Attachment) is a method that a model calls for its patches.
//! - [`Proposal`](model::Proposal) and [`Patch`](weights::Patch): what a method wants changed, and what was committed.
//!   Plain data. A patch is a file too, bound to its base model by hash, and the unit of rollback. Committing costs the
//!   sum of the active patches and two passes over one row, which prove that it takes effect (five with splices, which are also tried beside other rows).
//! - [`Journal`](weights::Journal): what was committed and rolled back, in order, and when. In memory it ends with the
//!   model; in a folder ([`OpenOptions::journal`](model::OpenOptions)) the next opening takes up the patches that were
//!   active, and is refused unless their sum has the hash that was recorded. One model holds a journal at a time;
//!   [`History`](weights::History) reads it meanwhile, without a model. Opening costs the active patches, whatever was
//!   rolled back before; an entry costs one flush to the disk. Its file only grows, by some 300 bytes an entry; the
//!   files of patches that were rolled back are no longer read and may be removed.
//! - Experiment: [`Settings`](experiment::Settings) as typed, a [`Plan`](experiment::Plan) with every plugin loaded and
//!   every parameter checked before a model is opened, and [`run`](experiment::run), which blocks until the last case is
//!   measured, writes a folder of results, tells an observer what happens, and can be interrupted and resumed.
//!
//! Every error is a [`base::Error`] with a stable code; [`codes`] lists them all. Nothing in this library prints or
//! exits, but for [`cli`].

pub mod anatomy;
pub mod autodiff;
pub mod base;
pub mod cli;
pub mod codes;
pub mod data;
pub mod experiment;
pub mod graph;
pub mod hooks;
pub mod laws;
pub mod metrics;
pub mod model;
pub mod plugins;
pub mod report;
pub mod runtime;
pub mod weights;
