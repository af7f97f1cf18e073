//! The model: what an embedder opens, runs, asks for gradients, edits and rolls back.
//!
//! A [`Model`] is one base model on one device. It is `Send + Sync`; its calls take `&self` and may run at once. The
//! base files are mapped and never written. Edits are patches beside the base: [`Model::commit`] checks every delta,
//! writes the journal, swaps the sum of patches in one step and proves by probe logits that the edit took effect;
//! [`Model::rollback`] takes any patch out again and verifies by hash that the rest is as if it had never been. A
//! request in flight keeps the sum it began with.
//!
//! One file a verb: `open`, `run`, `gradient`, `generate`, `score`, `edit` (validate, commit, roll back), `export`,
//! `moments`, `narrow` (what rounding takes from deltas); `intercept` has methods called in the middle of a pass, `route` before it, `module` runs
//! networks of methods; `splice` reads and tries graphs that patches bring along, `statistic` tells a method what its
//! active patches hold; `visible` tells which patches each row of a request sees, and `split` runs rows apart that cannot
//! share a batch;
//! `compile` keeps the programs, `batch` pads rows, `feed` turns the sum of patches into inputs,
//! `footprint` estimates memory.

mod batch;
pub mod codes;
mod compile;
mod edit;
mod export;
mod feed;
mod footprint;
mod generate;
mod gradient;
mod intercept;
mod module;
mod moments;
mod narrow;
mod open;
mod route;
mod run;
mod score;
mod splice;
mod split;
mod statistic;
mod visible;

#[cfg(test)]
mod tests;

pub use edit::{Limits, Proposal};
pub use generate::{Answer, Answers, End, Question};
pub use intercept::Interceptor;
pub use open::{Model, OpenOptions};
pub use route::Routing;
pub use score::{Continuation, ScoredContinuation};
pub use visible::{Active, View};
