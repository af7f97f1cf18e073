//! The model: what an embedder opens, runs, asks for gradients, edits and rolls back.
//!
//! A [`Model`] is one base model on one device. It is `Send + Sync`; its calls take `&self` and may run at once. The
//! base files are mapped and never written. Edits are patches beside the base: [`Model::commit`] checks every delta,
//! proves by probe logits of the sum with the patch that it takes effect, writes the journal and swaps the sum in one
//! step; [`Model::rollback`] takes any patch out again and verifies by hash that the rest is as if it had never been. A
//! request in flight keeps the sum it began with.
//!
//! One file or folder a verb: `open`, `run` (one pass, and which patches each row of it sees), `gradient`, `generate`,
//! `score`, `edit` (validate, commit, roll back, export, fold), `moments`. `attached` holds the methods that are
//! called, `intercept` calls them in the middle of a pass, `route` before it, `module` runs networks of methods; `compile`
//! keeps the programs, `footprint` estimates memory.

mod attached;
pub mod codes;
mod compile;
mod edit;
mod footprint;
mod generate;
mod gradient;
mod intercept;
mod module;
mod moments;
mod open;
mod route;
mod run;
mod score;

#[cfg(test)]
mod tests;

pub use attached::Attached;
pub use edit::{Limits, Proposal};
pub use generate::{Answer, Answers, End, Question};
pub use open::{Model, OpenOptions};
pub use route::Routing;
pub use run::visible::{Active, View};
pub use score::{Continuation, ScoredContinuation};
