//! A graph as text, for people and for goldens: the same graph gives the same text.

use std::fmt::{Display, Write as _};

use super::constant::{Constant, Values};
use super::container::{Dim, Graph};
use super::index::Index;
use super::initializer::Initializer;
use super::node::{DType, Node};
use super::shapes::Shapes;

/// Fixed tensors of at most this many elements are written out.
const SHOWN: usize = 8;

/// One line a port, an initializer (sorted by name) and a node (in order), with what `shapes` say of every edge that a
/// node makes. Values of small constants are written out, attributes are sorted.
pub fn dump(graph: &Graph, shapes: Option<&Shapes>) -> String {
    let (mut out, index) = (String::new(), graph.index());
    for input in graph.inputs() {
        let _ = writeln!(out, "input {}: {}", input.name, tensor(Some(input.dtype), input.dims.as_deref()));
    }
    for initializer in graph.initializers() {
        let value = graph.constant(&index, initializer.name(), SHOWN);
        let (name, dtype, dims) = (initializer.name(), initializer.dtype().name(), initializer.dims());
        let _ = writeln!(
            out,
            "const {name}: {dtype}{dims:?}{}",
            value.map_or(String::new(), |v| format!(" = {}", values(&v)))
        );
    }
    for node in graph.nodes() {
        let made = |edge: &String| match shapes {
            Some(s) if !edge.is_empty() => format!("{edge}: {}", tensor(s.dtype(edge), s.dims(edge))),
            _ => edge.clone(),
        };
        let made: Vec<String> = node.outputs().iter().map(made).collect();
        let domain = if node.domain().is_empty() { String::new() } else { format!("{}.", node.domain()) };
        let _ = write!(out, "{} = {domain}{}({})", made.join(", "), node.op(), node.inputs().join(", "));
        for name in node.attributes() {
            let _ = write!(out, " {name}={}", attribute(graph, &index, node, name));
        }
        out.push('\n');
    }
    for output in graph.outputs() {
        let inferred = shapes.and_then(|s| s.dims(&output.name));
        let _ = writeln!(
            out,
            "output {}: {}",
            output.name,
            tensor(Some(output.dtype), inferred.or(output.dims.as_deref()))
        );
    }
    out
}

/// An attribute; small tensors with their values.
fn attribute(graph: &Graph, index: &Index<'_>, node: &Node, name: &str) -> String {
    let text = node.describe_attribute(name);
    let value = node.tensor(name).and_then(|proto| {
        if node.is("Constant") {
            return graph.constant(index, node.output(0), SHOWN);
        }
        let tensor = Initializer::from_proto(proto.clone());
        (tensor.len() <= SHOWN).then(|| graph.values(&tensor).ok()).flatten()
    });
    value.map_or(text.clone(), |v| text + &values(&v))
}

fn tensor(dtype: Option<DType>, dims: Option<&[Dim]>) -> String {
    let dtype = dtype.map_or("?", DType::name);
    dims.map_or(format!("{dtype}[?]"), |dims| format!("{dtype}{}", list(dims)))
}

fn values(constant: &Constant) -> String {
    match &constant.values {
        Values::Floats(v) => list(v.iter().map(|v| format!("{v:?}"))),
        Values::Ints(v) => list(v),
    }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    format!("[{}]", items.join(", "))
}
