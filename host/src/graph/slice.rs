//! Parts of a graph: what depends on an edge, what an edge depends on, and the piece between cuts as a graph.

use std::collections::{BTreeSet, HashSet};

use super::codes;
use super::container::{Graph, Port};
use super::index::Index;
use super::shapes::Shapes;
use crate::base::{Error, Result};

/// The numbers of the nodes that read any of `edges`, directly or through others.
pub fn downstream<'a>(index: &Index<'_>, edges: impl IntoIterator<Item = &'a str>) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut stack: Vec<usize> = edges.into_iter().flat_map(|e| index.consumer_ids(e).iter().map(|&(i, _)| i)).collect();
    while let Some(id) = stack.pop() {
        if found.insert(id) {
            for edge in index.graph().nodes()[id].outputs() {
                stack.extend(index.consumer_ids(edge).iter().map(|&(i, _)| i));
            }
        }
    }
    found
}

/// The numbers of the nodes that any of `edges` depends on, not looking beyond edges in `stop`.
pub fn upstream<'a>(
    index: &Index<'_>,
    edges: impl IntoIterator<Item = &'a str>,
    stop: &HashSet<&str>,
) -> HashSet<usize> {
    let mut found = HashSet::new();
    let begin = |edge: &str| if stop.contains(edge) { None } else { index.producer_id(edge) };
    let mut stack: Vec<usize> = edges.into_iter().filter_map(begin).collect();
    while let Some(id) = stack.pop() {
        if found.insert(id) {
            stack.extend(index.graph().nodes()[id].inputs().iter().filter_map(|e| begin(e)));
        }
    }
    found
}

impl Graph {
    /// The same graph without the nodes that no output needs: a runtime runs them all.
    #[must_use]
    pub fn live(self) -> Self {
        let keep = {
            let index = self.index();
            upstream(&index, self.outputs.iter().map(|o| o.name.as_str()), &HashSet::new())
        };
        let mut graph = self;
        let nodes = std::mem::take(&mut graph.nodes).into_iter().enumerate();
        graph.nodes = nodes.filter_map(|(id, node)| keep.contains(&id).then_some(node)).collect();
        graph
    }
}

/// A piece of a graph: the nodes that some outputs need, reading some edges as inputs.
#[derive(Debug)]
pub struct Slice {
    /// The piece.
    pub graph: Graph,
    /// The cut edges that it reads, now inputs, sorted.
    pub fed: Vec<String>,
}

impl Slice {
    /// Cuts out what `outputs` need when the edges in `cuts` are given.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an output is not an edge, or a cut edge that is read has no known element type.
    pub fn between(graph: &Graph, shapes: &Shapes, cuts: &[&str], outputs: &[&str]) -> Result<Self> {
        let index = graph.index();
        let stop: HashSet<&str> = cuts.iter().copied().collect();
        let keep = upstream(&index, outputs.iter().copied(), &stop);
        let mut read: BTreeSet<&str> = outputs.iter().copied().collect();
        for &id in &keep.iter().copied().collect::<BTreeSet<_>>() {
            read.extend(graph.nodes()[id].inputs().iter().map(String::as_str).filter(|e| !e.is_empty()));
        }
        let mut out = graph.hollow();
        for (id, node) in graph.nodes().iter().enumerate() {
            if keep.contains(&id) {
                out.push(node.clone());
            }
        }
        let base_inputs = graph.inputs();
        let mut fed = Vec::new();
        let port = |edge: &str| -> Result<Port> {
            let unknown =
                || Error::new(&codes::PATCH_INVALID, format!("the element type of the cut edge `{edge}` is not known"));
            let dtype = shapes.dtype(edge).ok_or_else(unknown)?;
            Ok(Port { name: edge.to_owned(), dtype, dims: shapes.dims(edge).map(<[_]>::to_vec) })
        };
        for edge in read {
            if stop.contains(edge) {
                out.inputs.push(port(edge)?.to_proto());
                fed.push(edge.to_owned());
            } else if let Some(initializer) = graph.initializer(edge) {
                out.set_initializer(initializer.clone());
            } else if let Some(input) = base_inputs.iter().find(|i| i.name == edge) {
                out.inputs.push(input.to_proto());
            } else if index.producer_id(edge).is_none() {
                return Err(Error::new(&codes::PATCH_INVALID, format!("a slice asks for `{edge}`, which is no edge")));
            }
        }
        for edge in outputs {
            let dtype = shapes.dtype(edge).unwrap_or(super::node::DType::F32);
            out.outputs.push(Port { name: (*edge).to_owned(), dtype, dims: None }.to_proto());
        }
        Ok(Self { graph: out, fed })
    }
}
