//! What the active patches of one method hold together: the patches themselves, and folds over their parts.

use std::sync::Arc;

use engraft_plugin_api::{Change, OwnPatch, Tensor};

use crate::base::Result;
use crate::model::open::Model;
use crate::weights::{Patch, PatchId, Table, increments};

impl Model {
    /// The active patches of a method, whatever its parameters, in the order of their commits.
    pub fn patches_of(&self, method: &str) -> Vec<OwnPatch> {
        own(self.state().patches.iter().filter(|(_, patch)| patch.method == method))
    }

    /// The fold of the parts of one name over the active patches of a method, whatever its parameters: those of
    /// statistics and the tables of splices, in the order of their commits. None if there are none.
    ///
    /// # Errors
    /// `tensor-shape` if parts do not fit, which a commit refuses.
    pub fn statistic(&self, method: &str, name: &str) -> Result<Option<Tensor>> {
        fold(self.state().patches.iter().filter(|(_, patch)| patch.method == method), name)
    }
}

/// Patches as their method is told of them.
pub(in crate::model) fn own<'p>(patches: impl Iterator<Item = &'p (PatchId, Arc<Patch>)>) -> Vec<OwnPatch> {
    let of = |(id, patch): &(PatchId, Arc<Patch>)| OwnPatch {
        id: id.to_string(),
        requests: patch.requests.clone(),
        state: state_of(patch).to_vec(),
    };
    patches.map(of).collect()
}

/// The fold of the parts of one name.
pub(in crate::model) fn fold<'p>(
    patches: impl Iterator<Item = &'p (PatchId, Arc<Patch>)>,
    name: &str,
) -> Result<Option<Tensor>> {
    let mut parts = patches.flat_map(|(_, patch)| increments(&patch.changes)).filter(|part| part.name == name);
    let Some(first) = parts.next() else { return Ok(None) };
    // Whose they are matters to gates alone.
    let mut table = Table::of(first, (0, 0));
    parts.for_each(|part| table.add(part, (0, 0)));
    Ok(Some(table.tensor()?))
}

/// The bytes of a patch's state; empty where it has none.
pub(in crate::model) fn state_of(patch: &Patch) -> &[u8] {
    let mut states = patch.changes.iter().filter_map(|c| if let Change::State(bytes) = c { Some(bytes) } else { None });
    states.next().map(Vec::as_slice).unwrap_or_default()
}
