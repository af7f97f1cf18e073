//! What a graph does not have: every site and weight that no detector found or gave a reason for gets one here.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::draft::Draft;

/// Gives a reason for everything that was neither found nor explained.
pub(super) fn fill(draft: &mut Draft) {
    let layers = draft.anatomy.layers;
    let ends = [Site::Embed, Site::LnFinal, Site::Logits];
    let inside = (0..layers).flat_map(|l| BlockSite::ALL.map(|s| Site::Block(l, s)));
    for site in ends.into_iter().chain(inside) {
        if !draft.anatomy.sites.contains_key(&site) {
            draft.absent(site, "it was not found");
        }
    }
    let ends = [
        (WeightRef::Embedding, "it was not found"),
        (WeightRef::Positions, "no learned position embedding enters the first block"),
        (WeightRef::Unembedding, "it was not found"),
        (WeightRef::UnembeddingBias, "nothing is added to the unembedded logits"),
        (WeightRef::LnFinalScale, "the unembedding does not read a norm"),
        (WeightRef::LnFinalShift, "the unembedding does not read a norm"),
    ];
    let inside = (0..layers).flat_map(|l| Role::ALL.map(|r| (WeightRef::Block(l, r), "it was not found")));
    for (weight, reason) in ends.into_iter().chain(inside) {
        if !draft.anatomy.weights.contains_key(&weight) {
            draft.absent(weight, reason);
        }
    }
}
