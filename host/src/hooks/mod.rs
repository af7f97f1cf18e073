//! How a program reaches into the forward pass: taps, overwrites, additions, side branches, slots, splices and gradients, attached to
//! the graph as plain operators with named inputs.
//!
//! A [`Rig`] says what is attached and nothing about values: it is the structure of a program, and two requests with
//! equal rigs share one. [`Rig::attach`] gives the graph; [`Values`] collects what is fed. [`SecondMoments`] keeps
//! statistics of a site over a corpus.

mod arrange;
mod bake;
pub mod codes;
mod moments;
mod names;
mod rig;
mod slots;
mod splice;
mod types;
mod values;

pub(crate) use bake::bake;
pub use moments::{Moment, SecondMoments, documents};
pub(crate) use names::{Name, SplicePart};
pub use rig::{Branch, Rig, Rigged};
pub(crate) use rig::{pokable, site_width};
pub(crate) use slots::SlotPart;
pub use slots::{SlotBranch, check_place, check_slot_branch};
pub use splice::Graft;
pub(crate) use types::cast;
pub use values::Values;
