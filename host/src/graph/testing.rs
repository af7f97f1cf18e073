//! For tests of this crate: the tiny GPT-2 graphs, a graph with every name replaced, and random small decoders.

pub(crate) mod decoders;

use std::path::{Path, PathBuf};

use onnx_protobuf::{Message, ModelProto};

use super::container::Graph;

/// The names of the tiny GPT-2 graphs.
pub(crate) const ZOO: [&str; 7] = [
    "dynamo-mask",
    "dynamo-nomask",
    "dynamo-raw",
    "dynamo-sdpa",
    "torchscript-mask",
    "torchscript-nomask",
    "torchscript-opset14",
];

/// The folder of a tiny GPT-2.
pub(crate) fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo").join(format!("gpt2-{name}"))
}

/// The same graph with every edge, initializer and node renamed. Empty names stay.
pub(crate) fn renamed(graph: &Graph, name: impl Fn(&str) -> String) -> Graph {
    let rename = |text: &mut String| {
        if !text.is_empty() {
            *text = name(text);
        }
    };
    let mut model = ModelProto::parse_from_bytes(&graph.to_bytes().unwrap()).unwrap();
    let inner = model.graph.as_mut().unwrap();
    for node in &mut inner.node {
        rename(&mut node.name);
        node.input.iter_mut().chain(&mut node.output).for_each(rename);
        node.metadata_props.clear();
    }
    let ports = inner.input.iter_mut().chain(&mut inner.output).chain(&mut inner.value_info);
    ports.for_each(|port| rename(&mut port.name));
    inner.initializer.iter_mut().for_each(|tensor| rename(&mut tensor.name));
    Graph::parse(&model.write_to_bytes().unwrap(), &graph.folder().join(Path::new("model.onnx"))).unwrap()
}
