//! Data sets: one file per schema, one type of record for all of them.
//!
//! A record is a request (what a method sees) and its probes (what only metrics see). A file that is not what it
//! claims to be is an error; a record that cannot be edited or measured is skipped, counted, and its reason kept.

pub mod codes;
mod counterfact;
mod load;
mod record;

pub use load::{DataKind, Dataset, Skipped, load};
pub use record::{Probe, Probes, Record};
