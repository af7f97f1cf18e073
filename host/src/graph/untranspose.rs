//! Products with a transposed weight as `Gemm`, which reads the weight as the file has it: a runtime that meets
//! `Transpose` of a constant folds it into a copy of its own, for every session.

use std::collections::{HashMap, HashSet};

use super::container::Graph;
use super::initializer::Initializer;
use super::node::{Attr, DType, Node};
use super::shapes::Shapes;
use crate::base::Result;

impl Graph {
    /// The same function with every `MatMul` or `Gemm` by the transpose of a 32-bit initializer reading the initializer
    /// itself. Every edge keeps its name and values.
    ///
    /// # Errors
    /// What [`Shapes::infer`] finds wrong with the graph.
    pub fn untransposed(self) -> Result<Self> {
        let turned: HashMap<String, String> = self.nodes.iter().filter_map(|n| self.turned(n)).collect();
        let reads = |node: &Node, slot| node.input(slot).is_some_and(|e| turned.contains_key(e));
        let products = |n: &Node| (n.is("MatMul") && reads(n, 1)) || (n.is("Gemm") && (reads(n, 0) || reads(n, 1)));
        if !self.nodes.iter().any(products) {
            return Ok(self);
        }
        let shapes = Shapes::infer(&self)?;
        let mut graph = self;
        let taken: HashSet<String> = graph.names().into_iter().map(str::to_owned).collect();
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        for node in std::mem::take(&mut graph.nodes) {
            let rank = node.input(0).and_then(|e| shapes.dims(e)).map(<[_]>::len);
            let weight = node.input(1).and_then(|e| turned.get(e)).cloned();
            match (rank, weight) {
                (Some(rank @ 2..), Some(weight)) if node.is("MatMul") && (rank == 2 || graph.opset() >= 15) => {
                    nodes.extend(graph.product(&node, rank, &weight, &taken));
                }
                _ if node.is("Gemm") => nodes.push(flipped(node, &turned)),
                _ => nodes.push(node),
            }
        }
        let read: HashSet<&String> = nodes.iter().flat_map(|n| n.inputs()).collect();
        let outputs: HashSet<&String> = graph.outputs.iter().map(|p| &p.name).collect();
        let live = |n: &Node| {
            let left = |e: &String| turned.contains_key(e) && !read.contains(e) && !outputs.contains(e);
            !n.outputs().iter().any(left)
        };
        let keep: Vec<bool> = nodes.iter().map(live).collect();
        graph.nodes = nodes.into_iter().zip(keep).filter_map(|(n, keep)| keep.then_some(n)).collect();
        Ok(graph)
    }

    /// The edge that a node makes and the initializer that it transposes.
    fn turned(&self, node: &Node) -> Option<(String, String)> {
        let source = self.initializer(node.input(0)?)?;
        let whole = node.ints("perm").is_none_or(|p| p == [1, 0]);
        let fits = node.is("Transpose") && whole && source.dims().len() == 2 && source.dtype() == DType::F32;
        fits.then(|| (node.output(0).to_owned(), source.name().to_owned()))
    }

    /// `x · Wᵀ` as a `Gemm` of all rows of `x`.
    fn product(&mut self, node: &Node, rank: usize, weight: &str, taken: &HashSet<String>) -> Vec<Node> {
        let (x, y) = (node.input(0).unwrap_or_default(), node.output(0));
        let gemm = |x: &str, y: &str| Node::new("Gemm", node.name(), &[x, weight], &[y]).with("transB", Attr::Int(1));
        if rank == 2 {
            return vec![gemm(x, y)];
        }
        let name = |what: &str| {
            let mut name = format!("{y}/{what}");
            while taken.contains(&name) {
                name.push('\'');
            }
            name
        };
        let [width_in, width_out] = self.initializer(weight).map(Initializer::dims).map_or([0, 0], |d| [d[1], d[0]]);
        let (flat, wide) = (name("flat"), name("width"));
        self.set_initializer(Initializer::i64(&flat, &[2], &[-1, width_in as i64]));
        self.set_initializer(Initializer::i64(&wide, &[1], &[width_out as i64]));
        let [rows, product, outer, shape] = ["rows", "product", "outer", "shape"].map(name);
        vec![
            Node::new("Reshape", &rows, &[x, &flat], &[&rows]),
            gemm(&rows, &product),
            Node::new("Shape", &outer, &[x], &[&outer]).with("end", Attr::Int(-1)),
            Node::new("Concat", &shape, &[&outer, &wide], &[&shape]).with("axis", Attr::Int(0)),
            Node::new("Reshape", &name("whole"), &[&product, &shape], &[y]),
        ]
    }
}

/// A `Gemm` that reads the initializers behind its transposed operands.
fn flipped(node: Node, turned: &HashMap<String, String>) -> Node {
    let mut node = node;
    for (slot, flag) in [(0, "transA"), (1, "transB")] {
        if let Some(source) = node.input(slot).and_then(|e| turned.get(e)) {
            let was = node.int(flag).unwrap_or(0);
            node.set_input(slot, source);
            node = node.with(flag, Attr::Int(1 - was));
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::zoo;

    #[test]
    fn no_product_by_a_transposed_weight_is_left() {
        let graph = Graph::load(&zoo("dynamo-raw").join("model.onnx")).unwrap();
        let transposes = |g: &Graph| {
            let weight = |n: &&Node| n.is("Transpose") && n.input(0).is_some_and(|e| g.initializer(e).is_some());
            g.nodes().iter().filter(weight).count()
        };
        assert!(transposes(&graph) > 0);
        let outputs = graph.outputs();
        let lean = graph.untransposed().unwrap();
        assert_eq!(transposes(&lean), 0);
        assert_eq!(lean.outputs(), outputs);
        assert!(Shapes::infer(&lean).unwrap().dims("logits").is_some_and(|d| d.len() == 3));
    }
}
