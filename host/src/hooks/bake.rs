//! Slots and splices as nodes and initializers of a plain model, which any runtime loads.

use std::sync::Arc;

use engraft_plugin_api::Tensor;

use super::arrange::arrange;
use super::slots::{Prepared, SlotBranch, touched};
use super::splice::{Graft, Plain};
use super::types::Types;
use crate::anatomy::Anatomy;
use crate::base::Result;
use crate::graph::{Graph, Initializer, Patch};

/// The graph with slots and splices in it for all rows, and the tensors that they read. Slots come with the values of
/// their tensors, splices with their tables.
///
/// # Errors
/// `slots-place` or `slots-activation`; `splice-plain` if a splice asks for what a plain model is not told.
pub(crate) fn bake(
    graph: &Graph,
    anatomy: &Anatomy,
    slots: &[(SlotBranch, Vec<Vec<f32>>)],
    splices: &[(Arc<Graft>, Vec<Tensor>)],
) -> Result<(Graph, Vec<Initializer>)> {
    if slots.is_empty() && splices.is_empty() {
        return Ok((graph.clone(), Vec::new()));
    }
    let prepared = slots.iter().map(|(branch, _)| Prepared::of(graph, anatomy, *branch));
    let prepared = prepared.collect::<Result<Vec<_>>>()?;
    let branches: Vec<_> = slots.iter().map(|(branch, _)| touched(*branch)).collect();
    let sites = branches.iter().map(|t| t.0).chain(splices.iter().flat_map(|(graft, _)| graft.touched()));
    let arranged = arrange(graph, anatomy, sites, branches.iter().map(|t| t.1))?;
    let (graph, anatomy) = arranged.unwrap_or_else(|| (graph.clone(), anatomy.clone()));
    let types = Types::of(&graph)?;
    let mut patch = Patch::new(&graph);
    // In the order of the computation, as a rig puts them in.
    let mut steps = Vec::new();
    for (i, (site, _)) in branches.iter().enumerate() {
        steps.push((patch.index().producer_id(anatomy.site(*site)?), 0, i));
    }
    for (i, (graft, _)) in splices.iter().enumerate() {
        steps.push((patch.index().producer_id(anatomy.site(graft.splice().writes)?), 1, i));
    }
    steps.sort_unstable();
    let mut plain = Plain::default();
    let mut made = Vec::new();
    for (_, kind, i) in steps {
        if kind == 0 {
            made.extend(prepared[i].bake(&mut patch, &anatomy, &types, &slots[i].1)?);
        } else {
            let (graft, tables) = &splices[i];
            made.extend(graft.bake(&mut patch, &anatomy, &types, tables, &mut plain)?);
        }
    }
    Ok((patch.apply()?, made))
}
