//! GELU spelled out in smaller operators, as the one operator that it is (operator set 20 and newer).
//!
//! Exporters spell it in many ways. What is compared is not the spelling but the values: from the `Tanh` or `Erf` in its
//! middle the operators around it are followed, as long as they combine one edge with single numbers, and an edge is
//! GELU of another if it is so at sample points all over the range where the function bends.

use std::collections::HashMap;

use crate::graph::container::Graph;
use crate::graph::index::Index;
use crate::graph::node::{Attr, DType, Node};
use crate::graph::shapes::Shapes;

/// How far behind the middle the end may lie, in nodes of the graph's order.
const REACH: usize = 32;
/// How many nodes may lead from the start to the middle.
const DEPTH: usize = 8;
/// The largest difference at a sample point; the two forms of GELU differ by 5e-4.
const CLOSE: f64 = 2e-5;

/// The values of an edge at the sample points.
type Samples = Vec<f64>;

impl Graph {
    /// The same function with every spelled-out GELU of float32 as one `Gelu`. Edges keep their names.
    #[must_use]
    pub fn with_gelu(self, shapes: &Shapes) -> Self {
        if self.opset() < 20 {
            return self;
        }
        let mut found: Vec<(usize, Node)> = Vec::new();
        let index = self.index();
        for (middle, node) in self.nodes().iter().enumerate() {
            if node.is("Tanh") || node.is("Erf") {
                let starts = starts(&index, middle);
                found.extend(starts.into_iter().find_map(|x| end(&self, &index, shapes, middle, x)));
            }
        }
        drop(index);
        let mut graph = self;
        for (id, node) in found {
            graph.nodes[id] = node;
        }
        graph
    }
}

/// The edges that a middle may be computed from, nearest first.
fn starts<'g>(index: &Index<'g>, middle: usize) -> Vec<&'g str> {
    let graph = index.graph();
    let mut found: Vec<&str> = Vec::new();
    let mut next: Vec<&str> = graph.nodes()[middle].inputs().iter().map(String::as_str).collect();
    for _ in 0..DEPTH {
        let mut further = Vec::new();
        for edge in next {
            if !edge.is_empty() && !found.contains(&edge) && number(index, edge).is_none() {
                found.push(edge);
                let made = index.producer(edge).filter(|n| combines(n));
                further.extend(made.into_iter().flat_map(|n| n.inputs().iter().map(String::as_str)));
            }
        }
        next = further;
    }
    found
}

/// The node that makes GELU of `x` by way of the middle, as a `Gelu`.
fn end(graph: &Graph, index: &Index<'_>, shapes: &Shapes, middle: usize, x: &str) -> Option<(usize, Node)> {
    if shapes.dtype(x) != Some(DType::F32) {
        return None;
    }
    let points: Samples = (0..27).map(|i| -6.1 + 0.47 * f64::from(i)).collect();
    let mut known: HashMap<&str, Samples> = HashMap::from([(x, points.clone())]);
    let first = index.producer_id(x).map_or(0, |id| id + 1);
    let through = graph.nodes()[middle].output(0);
    let forms = [("none", gelu as fn(f64) -> f64), ("tanh", tanh_gelu)];
    for (id, node) in graph.nodes().iter().enumerate().take(middle + REACH).skip(first) {
        let reads = |e: &String| known.contains_key(e.as_str());
        if !(combines(node) || id == middle) || !node.inputs().iter().any(reads) {
            continue;
        }
        let Some(values) = values(index, node, &known, points.len()) else { continue };
        if id > middle && known.contains_key(through) {
            let like = |f: fn(f64) -> f64| points.iter().zip(&values).all(|(&p, v)| (f(p) - v).abs() <= CLOSE);
            if let Some((form, _)) = forms.iter().find(|(_, f)| like(*f)) {
                let gelu = Node::new("Gelu", node.name(), &[x], &[node.output(0)]);
                return Some((id, gelu.with("approximate", Attr::Str((*form).into()))));
            }
        }
        known.insert(node.output(0), values);
    }
    None
}

/// True for the operators that the middle is combined by.
fn combines(node: &Node) -> bool {
    ["Add", "Sub", "Mul", "Div", "Pow", "Neg", "Identity"].iter().any(|op| node.is(op))
}

fn number(index: &Index<'_>, edge: &str) -> Option<f64> {
    index.graph().constant(index, edge, 1)?.scalar().map(f64::from)
}

/// The values that a node makes, if all that it reads is known.
fn values(index: &Index<'_>, node: &Node, known: &HashMap<&str, Samples>, count: usize) -> Option<Samples> {
    let read = |i: usize| {
        let edge = node.input(i)?;
        known.get(edge).cloned().or_else(|| number(index, edge).map(|n| vec![n; count]))
    };
    let a = read(0)?;
    let both = |f: fn(f64, f64) -> f64| Some(a.iter().zip(read(1)?).map(|(&a, b)| f(a, b)).collect());
    match node.op() {
        "Add" => both(|a, b| a + b),
        "Sub" => both(|a, b| a - b),
        "Mul" => both(|a, b| a * b),
        "Div" => both(|a, b| a / b),
        "Pow" => both(|a, b| if b == b.trunc() && b.abs() < 9.0 { a.powi(b as i32) } else { a.powf(b) }),
        "Neg" => Some(a.iter().map(|a| -a).collect()),
        "Tanh" => Some(a.iter().map(|a| a.tanh()).collect()),
        "Erf" => Some(a.iter().map(|&a| erf(a)).collect()),
        "Identity" => Some(a),
        _ => None,
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

fn tanh_gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// Abramowitz and Stegun 7.1.26, to 1.5e-7.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let sum = series.iter().fold(0.0, |sum, c| (sum + c) * t);
    (1.0 - sum * (-x * x).exp()).copysign(x)
}
