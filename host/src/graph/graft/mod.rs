//! A graph put into another one: its nodes and initializers are copied under new names, and what it reads is given.
//! `versions` rewrites nodes of one version of the standard operators for another.

mod versions;

use std::collections::HashMap;

use super::codes;
use super::container::{Graph, Port};
use super::initializer::{Initializer, Location};
use super::patch::Patch;
use crate::base::{Error, Result};

impl Graph {
    /// The same graph with these inputs in place of its own; initializers that older files list among them stay.
    #[must_use]
    pub fn with_inputs<'p>(mut self, ports: impl IntoIterator<Item = &'p Port>) -> Self {
        self.inputs.retain(|input| self.initializers.contains_key(&input.name));
        self.inputs.extend(ports.into_iter().map(Port::to_proto));
        self
    }
}

impl Patch<'_> {
    /// Puts in another graph of the same version of the standard operators, without sub-graphs and with all its values
    /// in the file. `feeds` gives for each of its inputs an edge of this graph; the edges of its outputs are returned.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an input is not given; what is wrong with its initializers.
    pub fn graft(&mut self, graph: &Graph, feeds: &HashMap<String, String>) -> Result<Vec<String>> {
        let mut edges = feeds.clone();
        for initializer in graph.initializers() {
            let (name, dims) = (initializer.name(), initializer.dims());
            if initializer.location()? != Location::Inline {
                let text = format!("the values of `{name}` lie in another file");
                return Err(Error::new(&codes::PATCH_INVALID, text));
            }
            let own = self.fresh(&format!("engraft.{name}"));
            let bytes = initializer.inline_bytes()?.into_owned();
            self.constant(Initializer::inline(&own, initializer.dtype(), &dims, bytes));
            edges.insert(name.to_owned(), own);
        }
        let given = |edges: &HashMap<String, String>, edge: &str| {
            let missing = || Error::new(&codes::PATCH_INVALID, format!("nothing is given for the edge `{edge}`"));
            if edge.is_empty() { Ok(String::new()) } else { edges.get(edge).cloned().ok_or_else(missing) }
        };
        for node in graph.nodes() {
            let inputs = node.inputs().iter().map(|edge| given(&edges, edge)).collect::<Result<Vec<_>>>()?;
            let outputs = self.copy(&node.clone().of_domain(node.domain()), &inputs)?;
            edges.extend(node.outputs().iter().cloned().zip(outputs).filter(|(edge, _)| !edge.is_empty()));
        }
        graph.outputs().iter().map(|port| given(&edges, &port.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::versions::NEWEST;
    use super::*;
    use crate::graph::{Attr, DType, Dim, Shapes};

    /// `y = x + w` with a constant node for `w`'s exponent.
    fn small() -> Graph {
        let empty = Graph::empty(17);
        let mut patch = Patch::new(&empty);
        let x = patch.input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
        let w = patch.constant(Initializer::f32("w", &[1], &[2.0]));
        let y = patch.op("Add", &[&x, &w], &[]).unwrap();
        patch.tap(&y, DType::F32).unwrap();
        patch.apply().unwrap()
    }

    #[test]
    fn a_graph_is_put_in_twice_without_a_clash_of_names() {
        let (base, other) = (small(), small());
        let mut patch = Patch::new(&base);
        let end = base.outputs()[0].name.clone();
        let mut now = end.clone();
        for _ in 0..2 {
            let feeds = HashMap::from([("x".to_owned(), now.clone())]);
            now = patch.graft(&other, &feeds).unwrap().remove(0);
        }
        patch.drop_outputs();
        patch.tap(&now, DType::F32).unwrap();
        let graph = patch.apply().unwrap();
        assert_eq!((graph.nodes().len(), graph.initializers().count()), (3, 3));
        assert_eq!(Shapes::infer(&graph).unwrap().dims(&now), Some(&[Dim::symbol("n")][..]));
        let mut patch = Patch::new(&base);
        let error = patch.graft(&other, &HashMap::new()).unwrap_err();
        assert!(error.message().contains("`x`"), "{error}");
    }

    /// A node of one operator over `x`, with its attributes, and `axes` as its second input where they are given.
    fn node(version: i64, op: &str, attributes: &[(&str, Attr)], axes: Option<&[i64]>) -> Graph {
        let empty = Graph::empty(version);
        let mut patch = Patch::new(&empty);
        let x = patch.input("x", DType::F32, vec![Dim::symbol("n"), Dim::Known(4)]).unwrap();
        let axes = axes.map(|axes| patch.i64(&[axes.len()], axes));
        let inputs: Vec<&str> = std::iter::once(x.as_str()).chain(axes.as_deref()).collect();
        let outputs = patch.op_many(op, &inputs, attributes, if op == "Split" { 2 } else { 1 }).unwrap();
        patch.tap(&outputs[0], DType::F32).unwrap();
        patch.apply().unwrap()
    }

    #[test]
    fn versions_are_rewritten_where_that_is_exact() {
        let shape = |graph: &Graph| Shapes::infer(graph).unwrap().dims(&graph.outputs()[0].name).map(<[_]>::to_vec);
        let old = node(13, "ReduceMax", &[("axes", Attr::Ints(vec![1])), ("keepdims", Attr::Int(0))], None);
        let new = old.clone().for_opset(18).unwrap();
        assert_eq!((new.opset(), new.nodes()[0].inputs().len()), (18, 2));
        assert!(new.nodes()[0].ints("axes").is_none() && shape(&new) == shape(&old));
        let back = new.for_opset(14).unwrap();
        assert_eq!((back.opset(), back.nodes()[0].ints("axes")), (14, Some(&[1][..])));
        let split = node(13, "Split", &[("axis", Attr::Int(1))], None).for_opset(20).unwrap();
        assert_eq!(split.nodes()[0].int("num_outputs"), Some(2));
        for (from, to, op, attributes) in [
            (20, 17, "Gelu", vec![]),
            (18, 17, "Split", vec![("num_outputs", Attr::Int(2))]),
            (16, 14, "Shape", vec![("start", Attr::Int(1))]),
            (12, 17, "Relu", vec![]),
            (NEWEST + 1, 17, "Relu", vec![]),
        ] {
            let error = node(from, op, &attributes, None).for_opset(to).unwrap_err();
            assert_eq!(error.code().id, "graph-opset", "{op}");
        }
        for (from, to, op) in [(21, 14, "Relu"), (13, 23, "Tanh"), (12, 12, "Relu")] {
            assert_eq!(node(from, op, &[], None).for_opset(to).unwrap().opset(), to);
        }
    }
}
