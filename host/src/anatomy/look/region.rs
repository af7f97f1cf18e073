//! The part of a graph that computes one edge from another.

use std::collections::HashSet;

use super::view::View;
use crate::graph::Node;

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
        self.nodes(view).any(mixes)
    }
}

/// True for operators that make or apply weights over positions.
pub(in crate::anatomy) fn mixes(node: &Node) -> bool {
    node.is("Softmax") || node.op().contains("Attention")
}
