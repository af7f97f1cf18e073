//! Gradients: every rule against finite differences, the losses against their definitions, and whole models against
//! what PyTorch recorded. One binary, because the process has one runtime.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fused;
mod kit;
mod losses;
mod records;
mod refusals;
mod rules;
mod zoo;
