//! The same function in fewer nodes. What small operators cost is mostly that there are many of them; those that only
//! give the same elements another shape can often be left out.
//!
//! `heads` moves reshapes from the many sides of a `Split` or `Concat` to its one side; `rows` computes what works on
//! each row by itself on matrices, so that nothing is reshaped on the way from one matrix product to the next; `gelu` knows
//! an activation function by its values, whatever operators spell it.

mod gelu;
mod heads;
mod rows;
#[cfg(test)]
mod tests;

use super::constant::Constant;
use super::container::{Dim, Graph};
use super::node::Node;
use super::patch::Patch;
use super::shapes::Shapes;
use crate::base::Result;

impl Graph {
    /// The same function with fewer reshapes. Inputs, outputs and the `kept` edges keep their names, and what depends on
    /// a kept edge still reads it; other edges may go. Every value is computed by the same arithmetic.
    ///
    /// # Errors
    /// What [`Shapes::infer`] finds wrong with the graph.
    pub fn lean(&self, kept: &[&str]) -> Result<Self> {
        let mut kept: Vec<String> = kept.iter().map(|&e| e.to_owned()).collect();
        kept.extend(self.outputs().into_iter().map(|p| p.name));
        let kept = kept.into_iter().collect();
        let shapes = Shapes::infer(self)?;
        let mut patch = Patch::new(self);
        heads::move_out(&mut patch, &shapes, &kept)?;
        let graph = patch.apply()?;
        let shapes = Shapes::infer(&graph)?;
        let mut patch = Patch::new(&graph);
        rows::flatten(&mut patch, &shapes, &kept)?;
        Ok(patch.apply()?.live())
    }
}

/// True for a node that gives the elements of its first input another shape.
fn reshapes(node: &Node) -> bool {
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze"].iter().any(|op| node.is(op))
}

/// A small constant as integers.
fn integers(patch: &Patch<'_>, edge: &str) -> Option<Vec<i64>> {
    let constant: Constant = patch.graph().constant(patch.index(), edge, 16)?;
    constant.ints().map(<[i64]>::to_vec)
}

/// The number that the last extent is, if it is one above zero.
fn width(dims: &[Dim]) -> Option<usize> {
    dims.last()?.known().filter(|&n| n > 0)
}

/// Extents as a constant target: numbers, and at most one that is found from the number of elements.
fn written(dims: &[Dim]) -> Option<Vec<i64>> {
    let target: Vec<i64> = dims.iter().map(|d| d.known().map_or(-1, |n| n as i64)).collect();
    let fits = !target.is_empty() && !target.contains(&0) && target.iter().filter(|&&d| d == -1).count() <= 1;
    fits.then_some(target)
}
