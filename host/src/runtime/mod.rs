//! Running graphs with ONNX Runtime: the only folder that names `ort`, `tokenizers` or
//! `minijinja`.
//!
//! [`provision`] finds the library or takes it from a Python wheel; [`Runtime`] loads it once for the process;
//! [`Program`] is a graph compiled for a [`Device`], fed and read by name with [`Value`]s; [`ProgramCache`] keeps
//! programs by content; [`operator`] is how code is called in the middle of a run. [`Tokenizer`] turns text into tokens with byte offsets and back, and knows the
//! model's [`ChatTemplate`]. Weights stay in their files:
//! programs map them and share the pages.
//!
//! This folder never parses a graph (that is `graph/`) and never chooses another device than the one asked for.

mod cache;
mod chat;
pub mod codes;
mod environment;
pub mod memory;
pub mod operator;
mod port;
mod program;
mod provider;
pub mod provision;
mod sessions;
mod tokenize;
mod value;

#[cfg(test)]
mod tiny;

pub use cache::ProgramCache;
pub use chat::{ChatTemplate, Message};
#[cfg(test)]
pub(crate) use environment::for_tests;
pub use environment::{Event, Notify, Runtime, RuntimeSettings, silent};
pub use port::{Dim, Port};
pub use program::{Program, ProgramOptions};
pub use provider::Device;
pub use tokenize::Tokenizer;
pub use value::{DType, Value};
