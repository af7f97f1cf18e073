//! Operators that keep a graph from being read: those of other domains, those that hold a graph inside, and those that
//! compute with quantised weights.

use std::collections::BTreeMap;

use super::codes;
use super::look::view::{View, operator};
use crate::base::Error;
use crate::graph::{Graph, Node};

/// Operators that runtimes register in the standard domain although the standard does not have them.
const NOT_STANDARD: [&str; 1] = ["SimplifiedLayerNormalization"];

/// What is not read, if there is anything.
pub(super) fn problem(graph: &Graph) -> Option<Error> {
    let foreign = |n: &&Node| !matches!(n.domain(), "" | "ai.onnx") || NOT_STANDARD.contains(&n.op());
    let mut found: BTreeMap<String, (&Node, usize)> = BTreeMap::new();
    let nodes = graph.nodes();
    for node in nodes.iter().filter(|n| foreign(n) || n.has_subgraph()) {
        found.entry(operator(node)).or_insert((node, 0)).1 += 1;
    }
    if found.is_empty() {
        return None;
    }
    let one = |(name, (node, count)): (&String, &(&Node, usize))| {
        let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let inside = if node.has_subgraph() { ", with a graph inside" } else { "" };
        format!("{name} (`{}`{more}{inside})", node.name())
    };
    let list: Vec<String> = found.iter().map(one).collect();
    let merged = nodes.iter().any(Node::has_subgraph);
    let advice = match merged {
        true => {
            "export one plain decoder: with optimum, without merging (`--no-post-process`), or take the other file \
             beside the merged one"
        }
        false => "export the model as plain ONNX, without fusing optimizations and without 4-bit or 8-bit weights",
    };
    let text = format!("the graph has operators that are not read: {}", list.join(", "));
    Some(Error::new(&codes::OPERATOR_UNREAD, text).help(advice))
}

/// What is not read of weights in whole numbers, if there are any.
pub(super) fn quantised(view: &View<'_>) -> Option<Error> {
    let found: Vec<&Node> = view.graph.nodes().iter().filter(|n| view.is_quantised(n)).collect();
    let first = found.first()?.label();
    let more = if found.len() > 1 { format!(" and {} more", found.len() - 1) } else { String::new() };
    let text = format!("{first}{more}: products with quantised weights, expected weights that are floats");
    let advice = "take the export of the model that is not quantised: weights in whole numbers are not edited";
    Some(Error::new(&codes::OPERATOR_UNREAD, text).help(advice))
}
