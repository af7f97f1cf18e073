//! Who makes and who reads each edge of a graph.

use std::collections::HashMap;

use super::container::Graph;
use super::node::Node;

/// A look-up over one graph. Node numbers are positions in [`Graph::nodes`].
pub struct Index<'g> {
    graph: &'g Graph,
    producers: HashMap<&'g str, usize>,
    consumers: HashMap<&'g str, Vec<(usize, usize)>>,
}

impl<'g> Index<'g> {
    pub(super) fn new(graph: &'g Graph) -> Self {
        let mut producers = HashMap::new();
        let mut consumers: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (i, node) in graph.nodes().iter().enumerate() {
            for edge in node.outputs().iter().filter(|e| !e.is_empty()) {
                producers.insert(edge.as_str(), i);
            }
            for (slot, edge) in node.inputs().iter().enumerate().filter(|(_, e)| !e.is_empty()) {
                consumers.entry(edge.as_str()).or_default().push((i, slot));
            }
        }
        Self { graph, producers, consumers }
    }

    /// The graph that this looks at.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The number of the node that makes an edge; `None` for inputs and initializers.
    pub fn producer_id(&self, edge: &str) -> Option<usize> {
        self.producers.get(edge).copied()
    }

    /// The node that makes an edge; `None` for inputs and initializers.
    pub fn producer(&self, edge: &str) -> Option<&'g Node> {
        self.producer_id(edge).map(|i| &self.graph.nodes()[i])
    }

    /// The numbers of the nodes that read an edge, with the input slot, in order.
    pub fn consumer_ids(&self, edge: &str) -> &[(usize, usize)] {
        self.consumers.get(edge).map_or(&[], Vec::as_slice)
    }

    /// The nodes that read an edge, with the input slot, in order.
    pub fn consumers(&self, edge: &str) -> impl Iterator<Item = (&'g Node, usize)> {
        self.consumer_ids(edge).iter().map(|&(i, slot)| (&self.graph.nodes()[i], slot))
    }
}
