//! The part of a graph that computes one edge from another.

use std::collections::HashSet;

use super::view::View;
use crate::graph::Node;

/// Operators that may stand between scores and their softmax.
pub(in crate::anatomy) const ELEMENTWISE: [&str; 10] =
    ["Add", "Sub", "Mul", "Div", "Where", "Min", "Max", "Tanh", "Concat", "Clip"];

/// Every edge that is computed from the values of an origin and from which a target is computed, both included.
pub(in crate::anatomy) struct Region<'g> {
    origin: &'g str,
    edges: HashSet<&'g str>,
    /// The numbers of the nodes, in order.
    nodes: Vec<usize>,
}

impl<'g> Region<'g> {
    /// The region from `origin` to `target`; without any edge if the one is not computed from the other.
    pub fn between(view: &View<'g>, origin: &'g str, target: &'g str) -> Self {
        Self::build(view, origin, target, |_| true)
    }

    /// The part of this region from which `target` is computed.
    pub fn upstream_of(&self, view: &View<'g>, target: &'g str) -> Self {
        Self::build(view, self.origin, target, |edge| self.edges.contains(edge))
    }

    fn build(view: &View<'g>, origin: &'g str, target: &'g str, keep: impl Fn(&str) -> bool) -> Self {
        let first = view.index.producer_id(origin);
        let mut nodes = Vec::new();
        view.upstream(target, |edge| {
            // Nodes are in order: nothing made before the origin can be computed from it.
            let id = view.index.producer_id(edge);
            let outside = edge == origin || !keep(edge) || id.is_none() || id <= first;
            nodes.extend(id.filter(|_| !outside));
            outside
        });
        nodes.sort_unstable();
        nodes.dedup();
        let mut edges = HashSet::from([origin]);
        nodes.retain(|&id| {
            let node = &view.graph.nodes()[id];
            let inside = node.inputs().iter().any(|e| edges.contains(e.as_str()));
            if inside {
                edges.extend(node.outputs().iter().map(String::as_str));
            }
            inside
        });
        Self { origin, edges, nodes }
    }

    /// True if an edge is in the region.
    pub fn has(&self, edge: &str) -> bool {
        self.edges.contains(edge)
    }

    /// True for the origin.
    pub fn starts_at(&self, edge: &str) -> bool {
        edge == self.origin
    }

    /// True if a node is in the region.
    pub fn holds_node(&self, node: &Node) -> bool {
        node.outputs().iter().any(|e| self.has(e)) && !self.starts_at(node.output(0))
    }

    /// The nodes of the region, in order.
    pub fn nodes<'a>(&'a self, view: &'a View<'g>) -> impl Iterator<Item = &'g Node> + 'a {
        self.nodes.iter().map(|&id| &view.graph.nodes()[id])
    }

    /// True if something in the region mixes positions by attention.
    pub fn attends(&self, view: &View<'g>) -> bool {
        self.nodes(view).any(|node| mixes(view, node))
    }

    /// What chooses among experts in the region, if it is a mixture of them.
    pub fn router(&self, view: &View<'g>) -> Option<&'g Node> {
        self.nodes(view).find(|node| node.is("TopK") || routes(view, node))
    }
}

/// True for operators that make or apply weights over positions.
pub(in crate::anatomy) fn mixes<'g>(view: &View<'g>, node: &'g Node) -> bool {
    node.op().contains("Attention") || node.is("Softmax") && !routes(view, node)
}

/// True for a softmax over the outputs of a linear map, which weighs experts. Weights over positions are made of
/// products of two activations.
fn routes<'g>(view: &View<'g>, node: &'g Node) -> bool {
    let Some(scores) = node.input(0).filter(|_| node.is("Softmax")) else { return false };
    let (mut mapped, mut others) = (false, false);
    view.upstream(scores, |edge| {
        let Some(node) = view.producer(edge) else { return true };
        if ["MatMul", "Gemm", "Einsum", "MatMulInteger"].iter().any(|op| node.is(op)) {
            let fixed = node.inputs().iter().filter(|e| !e.is_empty()).any(|e| view.is_filed(e));
            (mapped, others) = (mapped || fixed, others || !fixed);
            return true;
        }
        !(ELEMENTWISE.iter().any(|op| node.is(op)) || node.is("TopK") || view.relayed(node).is_some())
    });
    mapped && !others
}
