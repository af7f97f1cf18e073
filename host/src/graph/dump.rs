//! A graph as text, for people and for goldens.

use std::fmt::Write as _;

use super::container::{Graph, Port};

/// One line a node, in order, with ports and initializers before.
pub fn dump(graph: &Graph) -> String {
    let mut out = String::new();
    let port = |p: &Port| {
        let dims =
            p.dims.as_ref().map_or("?".into(), |d| d.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        format!("{}: {}[{dims}]", p.name, p.dtype.name())
    };
    for input in graph.inputs() {
        let _ = writeln!(out, "input {}", port(&input));
    }
    for initializer in graph.initializers() {
        let _ = writeln!(out, "const {}: {}{:?}", initializer.name(), initializer.dtype().name(), initializer.dims());
    }
    for node in graph.nodes() {
        let attributes: Vec<String> =
            node.attributes().into_iter().map(|a| format!(" {a}={}", node.describe_attribute(a))).collect();
        let _ = writeln!(
            out,
            "{} = {}({}){}",
            node.outputs().join(", "),
            node.op(),
            node.inputs().join(", "),
            attributes.concat()
        );
    }
    for output in graph.outputs() {
        let _ = writeln!(out, "output {}", port(&output));
    }
    out
}
