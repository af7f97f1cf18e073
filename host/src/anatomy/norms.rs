//! Layer norms: the `LayerNormalization` operator, or the nine operators that older operator sets spell it with.

use std::collections::HashMap;

use super::view::{Stored, View};
use crate::graph::Node;

/// (x - mean) / sqrt(variance + epsilon) · w + b over the last axis.
pub(super) struct Norm<'g> {
    pub input: &'g str,
    pub output: &'g str,
    pub scale: Option<Stored<'g>>,
    pub shift: Option<Stored<'g>>,
    pub epsilon: f32,
    /// How the graph spells it.
    pub spelling: &'static str,
}

/// Every norm of a graph.
pub(super) struct Norms<'g> {
    all: Vec<Norm<'g>>,
    by_output: HashMap<&'g str, usize>,
}

impl<'g> Norms<'g> {
    pub fn find(view: &View<'g>) -> Self {
        let read = |node| operator(view, node).or_else(|| decomposed(view, node));
        let all: Vec<Norm<'g>> = view.graph.nodes().iter().filter_map(read).collect();
        let by_output = all.iter().enumerate().map(|(i, norm)| (norm.output, i)).collect();
        Self { all, by_output }
    }

    /// The norm whose output has the values of `edge`.
    pub fn behind(&self, view: &View<'g>, edge: &'g str) -> Option<&Norm<'g>> {
        view.chain(edge).into_iter().find_map(|e| self.by_output.get(e)).map(|&i| &self.all[i])
    }
}

fn last_axis(view: &View<'_>, edge: &str, axis: i64) -> bool {
    axis == -1 || view.rank(edge).is_some_and(|rank| i64::try_from(rank) == Ok(axis + 1))
}

fn operator<'g>(view: &View<'g>, node: &'g Node) -> Option<Norm<'g>> {
    let input = node.input(0)?;
    if !node.is("LayerNormalization") || !last_axis(view, input, node.int("axis").unwrap_or(-1)) {
        return None;
    }
    Some(Norm {
        input,
        output: node.output(0),
        scale: view.stored(node, 1, 1),
        shift: view.stored(node, 2, 1),
        epsilon: node.float("epsilon").unwrap_or(1e-5),
        spelling: "LayerNormalization",
    })
}

/// The norm around the division of a centred value by its own deviation.
fn decomposed<'g>(view: &View<'g>, div: &'g Node) -> Option<Norm<'g>> {
    let input = |node: &'g Node, slot| node.input(slot).map(|e| view.root(e));
    let maker = |edge: &'g str, op: &str| view.producer(edge).filter(|n| n.is(op));
    if !div.is("Div") {
        return None;
    }
    let centred = input(div, 0)?;
    let sub = maker(centred, "Sub")?;
    let x = input(sub, 0)?;
    if mean_of(view, input(sub, 1)?)? != x {
        return None;
    }
    let sum = maker(input(maker(input(div, 1)?, "Sqrt")?, 0)?, "Add")?;
    let (variance, epsilon) = either(sum, |e| view.number(e))?;
    let square = view.producer(mean_of(view, view.root(variance))?)?;
    let squared = match square.op() {
        "Pow" if view.number(square.input(1)?) == Some(2.0) => input(square, 0)?,
        "Mul" if input(square, 0) == input(square, 1) => input(square, 0)?,
        _ => return None,
    };
    // Exporters may centre twice, once for each use.
    let again = maker(squared, "Sub").is_some_and(|n| input(n, 0) == Some(x) && input(n, 1) == input(sub, 1));
    if squared != centred && !again {
        return None;
    }
    let mut norm = Norm {
        input: sub.input(0)?,
        output: div.output(0),
        scale: None,
        shift: None,
        epsilon,
        spelling: "ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div",
    };
    if let Some((mul, scale)) = only_reader(view, norm.output, "Mul") {
        (norm.output, norm.scale, norm.spelling) =
            (mul.output(0), Some(scale), "ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul");
        if let Some((add, shift)) = only_reader(view, norm.output, "Add") {
            (norm.output, norm.shift, norm.spelling) =
                (add.output(0), Some(shift), "ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add");
        }
    }
    Some(norm)
}

/// What a mean over the last axis is taken of.
fn mean_of<'g>(view: &View<'g>, edge: &'g str) -> Option<&'g str> {
    let node = view.producer(edge).filter(|n| n.is("ReduceMean"))?;
    let axes = match node.input(1) {
        Some(axes) => view.ints(axes)?,
        None => node.ints("axes")?.to_vec(),
    };
    let input = node.input(0)?;
    (axes.len() == 1 && last_axis(view, input, axes[0]) && node.int("keepdims").unwrap_or(1) == 1)
        .then(|| view.root(input))
}

/// The other operand, and what `read` makes of one of the two, in either order.
fn either<'g, T>(node: &'g Node, read: impl Fn(&'g str) -> Option<T>) -> Option<(&'g str, T)> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    read(b).map(|value| (a, value)).or_else(|| read(a).map(|value| (b, value)))
}

/// The one node that reads an edge, if it is `op` with a vector of the file.
fn only_reader<'g>(view: &View<'g>, edge: &str, op: &str) -> Option<(&'g Node, Stored<'g>)> {
    match view.readers(edge)[..] {
        [(node, slot)] if node.is(op) => view.stored(node, 1 - slot, 1).map(|stored| (node, stored)),
        _ => None,
    }
}
