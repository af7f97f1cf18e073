//! A forward pass over some positions only. Under a causal mask what lies before an edited position is constant: it is
//! computed once, and every step of an optimisation computes a *window* of positions in each row, from the first that
//! can change on. Behind the last attention only the *places* that the loss reads are left.
//!
//! [`window`] copies the nodes between the inserted edges and the goal. `axes` follows which axis of a copied edge holds
//! positions of the window, `rules` says for each operator what becomes of it, `operands` fits the constants that the
//! copies read. Keys and values are widened again: those of the window are scattered into those of the whole pass.
//! An operator that mixes positions in another way has no rule; then the caller computes whole rows.

mod axes;
mod operands;
mod rules;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::{Error, Result};
use crate::graph::{Dim, Patch, Shapes, downstream, upstream};

use super::codes;
use axes::Sequence;
use operands::Operands;

/// What a window covers and where it begins and ends. All edges are edges of the patch.
pub struct Window<'a> {
    /// Token ids `[batch, pos]`.
    pub ids: &'a str,
    /// Row and position of everything in the window, `[batch, width, 2]`, consecutive positions in each row.
    pub at: &'a str,
    /// Zero and the first position of each row's window, `[batch, 2]`.
    pub starts: &'a str,
    /// What is put in: for an edge of the base graph, the places `[n, 2]` and the values that are added there, float32
    /// whatever the edge is.
    pub adds: &'a BTreeMap<String, Vec<(String, String)>>,
    /// The edges `[batch, ..., pos, ...]` that attention reads at every position.
    pub whole: &'a HashSet<String>,
    /// The edge `[batch, pos, ...]` behind which only the goal's places are computed.
    pub last: &'a str,
    /// The places `[n, 2]` that `goal` is gathered at, by a `GatherND` on the way to it.
    pub places: &'a str,
    /// The edge that the copy computes.
    pub goal: &'a str,
}

/// Adds the windowed copy to `patch` and returns the edge in it that stands for the goal.
///
/// # Errors
/// `gradient-window` with the operator and the reason if whole rows have to be computed.
pub fn window(patch: &mut Patch<'_>, shapes: &Shapes, spec: &Window<'_>) -> Result<String> {
    let graph = patch.graph();
    let index = graph.index();
    let dependent = downstream(&index, spec.adds.keys().map(String::as_str));
    let needed = upstream(&index, [spec.goal], &HashSet::new());
    let sequence = Sequence::of(shapes.dims(spec.ids).unwrap_or(&[]))
        .ok_or_else(|| unfit(format!("the token ids `{}` have no named rows and positions", spec.ids)))?;
    let mut copy = Copy { operands: Operands::new(patch, shapes, spec, sequence), edges: HashMap::new() };
    for edge in spec.adds.keys() {
        if index.producer_id(edge).is_none_or(|id| !dependent.contains(&id)) {
            let begin = copy.operands.begin(edge)?;
            copy.put(edge, begin)?;
        }
    }
    for (id, node) in graph.nodes().iter().enumerate() {
        let flows = node.inputs().iter().any(|e| copy.edges.contains_key(e));
        if dependent.contains(&id) && needed.contains(&id) && flows && !node.is("Shape") && !node.is("Size") {
            for (edge, made) in rules::copy(&mut copy, node)? {
                copy.put(&edge, made)?;
            }
        }
    }
    match copy.edges.remove(spec.goal) {
        Some(goal) => Ok(goal.edge),
        None => Err(unfit(format!("`{}` does not depend on what is added", spec.goal))),
    }
}

/// `places` `[n, 2]` of whole rows as places of the window.
///
/// # Errors
/// `graph-patch-invalid`
pub fn translated(patch: &mut Patch<'_>, places: &str, starts: &str) -> Result<String> {
    let zero = patch.i64(&[], &[0]);
    let rows = patch.op("Gather", &[places, &zero], &[("axis", crate::graph::Attr::Int(1))])?;
    let offsets = patch.op("Gather", &[starts, &rows], &[("axis", crate::graph::Attr::Int(0))])?;
    patch.op("Sub", &[places, &offsets], &[])
}

/// What stands for an edge in the copy.
#[derive(Clone, Debug)]
struct Made {
    edge: String,
    extent: Extent,
}

/// How much of an edge the copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extent {
    /// By axis: true for one that holds the positions of the window, false for one that is as in the base graph.
    Window(Vec<bool>),
    /// `[n, 1, ...]` in place of `[batch, pos, ...]`: a row for each place of the goal.
    Places,
}

/// The copy while it is being made.
struct Copy<'p, 'g, 's> {
    operands: Operands<'p, 'g, 's>,
    edges: HashMap<String, Made>,
}

impl Copy<'_, '_, '_> {
    /// Notes what stands for an edge, with what is added there, and widened or narrowed where that is asked for.
    fn put(&mut self, edge: &str, made: Made) -> Result<()> {
        let mut made = made;
        for (places, values) in self.operands.spec.adds.get(edge).into_iter().flatten() {
            made.edge = self.operands.add(edge, &made, places, values)?;
        }
        if self.operands.spec.whole.contains(edge) {
            made = self.operands.widen(edge, &made)?;
        } else if self.operands.spec.last == edge {
            made = self.operands.narrow(&made)?;
        }
        self.edges.insert(edge.to_owned(), made);
        Ok(())
    }
}

fn unfit(reason: String) -> Error {
    Error::new(&codes::GRADIENT_WINDOW, reason)
}

/// The extents of an edge.
fn dims<'s>(shapes: &'s Shapes, edge: &str) -> Result<&'s [Dim]> {
    shapes.dims(edge).ok_or_else(|| unfit(format!("the shape of `{edge}` is not known")))
}
