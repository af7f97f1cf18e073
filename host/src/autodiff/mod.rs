//! Gradients as graphs: from a graph and cotangents at some of its edges to nodes that compute the gradient at others.
//!
//! Everything is made of standard operators that are valid in the graph's own operator set (13 and newer), so a
//! gradient runs wherever the graph runs. [`gradients`] is the way in; [`nll`] and [`kl`] make a loss and its cotangent
//! from logits; [`check`] compares a gradient with finite differences. `plan` decides which nodes are differentiated
//! and refuses before anything is added; `tape` holds the gradients on the way and adds nodes; `rules` has one file
//! for each family of operators. [`window`] copies a forward pass for some
//! positions only, so that what is differentiated is small.

pub mod check;
pub mod codes;
mod facts;
mod loss;
mod plan;
mod rules;
mod tape;
#[cfg(test)]
mod tests;
mod window;

pub use loss::{LossNodes, kl, nll};
pub use window::{Window, window};

use facts::Facts;
use plan::Plan;
use tape::Tape;

use crate::base::{Error, Result};
use crate::graph::{Patch, Shapes};

/// The cotangent of an edge: the loss's own derivative with respect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// An edge of the patch's base graph.
    pub edge: String,
    /// An edge of the patch that has the shape of `edge`, of any floating-point type.
    pub cotangent: String,
}

/// Adds to `patch` the nodes that compute, for each edge of `wrt`, the gradient of Σ⟨cotangent, edge⟩ over `seeds`.
///
/// The base graph holds the whole forward pass; what is differentiated is what lies between `wrt` and the seeds, and
/// the added nodes read no edge that lies before both. The edges of `wrt` may be inputs, initializers or edges inside;
/// where one depends on another, each gets its total gradient.
///
/// # Shapes
/// A gradient has the shape and element type of its edge. `None`: no seed depends on the edge. Two variables may share
/// one gradient edge.
///
/// # Units
/// Through float16 parts of a graph gradients flow in float16, as PyTorch's do. They are carried there times 256 and
/// divided again at the end, so that what lies between 2e-10 and 6e-8, too small for float16, is not lost on the way.
///
/// # Errors
/// Before anything is added: `gradient-missing` if an operator on the way cannot be differentiated, `gradient-opset`
/// for operator sets before 13, `gradient-edge` if an edge does not exist. `graph-patch-invalid` if a cotangent is not
/// an edge of the patch.
pub fn gradients(patch: &mut Patch<'_>, shapes: &Shapes, seeds: &[Seed], wrt: &[&str]) -> Result<Vec<Option<String>>> {
    let graph = patch.graph();
    if graph.opset() < 13 {
        let text = format!("the graph uses operator set {}; gradients need 13 or newer", graph.opset());
        return Err(Error::new(&codes::GRADIENT_OPSET, text));
    }
    let facts = Facts::new(graph, shapes);
    let ends: Vec<&str> = seeds.iter().map(|s| s.edge.as_str()).collect();
    let plan = Plan::new(&facts, &ends, wrt)?;
    let mut tape = Tape::new(patch, facts, wrt);
    for seed in seeds.iter().filter(|s| plan.needs(&s.edge)) {
        let grad = tape.typed(&seed.cotangent, &seed.edge)?;
        tape.contribute(&seed.edge, grad);
    }
    for mut visit in plan.visits.into_iter().rev() {
        visit.grads = visit.node.outputs().iter().map(|o| tape.total(o)).collect::<Result<_>>()?;
        if visit.grads.iter().all(Option::is_none) && !visit.node.outputs().iter().any(|o| tape.has_parts(o)) {
            continue;
        }
        for (slot, grad) in (visit.rule.backward)(&mut tape, &visit)? {
            if let Some(edge) = visit.node.input(slot) {
                tape.contribute(edge, grad);
            }
        }
    }
    wrt.iter().map(|edge| tape.result(edge)).collect()
}
