//! What is added to a model, as data: sums of deltas to its weights, slots beside its MLPs, splices between its sites, patches as files, and the journal of what happened.
//!
//! The base model's files are never written. A [`Patch`] is the committed set of changes of one edit; an [`Overlay`]
//! is the sum of the patches that are active, ready to ride beside a running model; the [`Journal`] is the only place
//! that knows what the model is now. Orientation everywhere: `W[in, out]`, vectors as `[1, out]`.

mod check;
pub mod codes;
mod contents;
mod history;
mod journal;
mod overlay;
mod patch;
mod patchfile;
mod rounding;
mod slots;
mod splices;

pub use check::{Checked, check_delta, check_part};
pub use contents::Part;
pub use history::{Action, Entry, History};
pub use journal::{Journal, patch_of, patch_path};
pub use overlay::{Factors, Overlay, Summed, dense_deltas};
pub use patch::{Patch, PatchId};
pub use rounding::Rounding;
#[cfg(test)]
pub(crate) use slots::tests::slots as waves;
pub use slots::{Neurons, SLOTS_AT_MOST, SlotKey, check_count, check_slots, slot_key};
pub use splices::{Folded, SpliceKey, Table, Values as TableValues, fits, increments};
