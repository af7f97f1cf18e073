//! For tests of this crate: the rows of the zoo, the tiny GPT-2 graphs, a graph with every name replaced, and random
//! small decoders.

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

/// A model of the zoo and what PyTorch says of it (`tests/zoo/README.md` tells what a record holds).
pub(crate) struct Row {
    /// The folder's name, `FAMILY-EXPORTER`.
    pub name: String,
    /// The family: all rows of one have the same weights.
    pub family: String,
    /// The model's folder.
    pub folder: PathBuf,
    /// The family's record, a safetensors file.
    pub record: PathBuf,
}

/// Every row of the zoo, sorted by name.
pub(crate) fn rows() -> Vec<Row> {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo");
    let mut names: Vec<String> =
        std::fs::read_dir(&zoo).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let families: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".safetensors")).collect();
    let row = |name: &String| {
        let begins = |family: &&str| name.strip_prefix(*family).is_some_and(|rest| rest.starts_with('-'));
        let family = families.iter().copied().filter(begins).max_by_key(|family| family.len());
        let family = family.unwrap_or_else(|| panic!("no record beside `{name}`")).to_string();
        let record = zoo.join(format!("{family}.safetensors"));
        Row { name: name.clone(), family, folder: zoo.join(name), record }
    };
    names.iter().filter(|name| zoo.join(name).join("model.onnx").is_file() && !name.starts_with('.')).map(row).collect()
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

/// The same graph with every node of an operator in another domain.
pub(crate) fn in_domain(graph: &Graph, op: &str, domain: &str) -> Graph {
    let mut model = ModelProto::parse_from_bytes(&graph.to_bytes().unwrap()).unwrap();
    for node in model.graph.as_mut().unwrap().node.iter_mut().filter(|n| n.op_type == op) {
        domain.clone_into(&mut node.domain);
    }
    model.opset_import.push(onnx_protobuf::OperatorSetIdProto {
        domain: domain.to_owned(),
        version: 1,
        ..Default::default()
    });
    Graph::parse(&model.write_to_bytes().unwrap(), &graph.folder().join(Path::new("model.onnx"))).unwrap()
}
