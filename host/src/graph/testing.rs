//! For tests of this crate: the rows of the zoo, the tiny GPT-2 graphs, a graph with every name replaced, and random
//! small decoders.

pub(crate) mod decoders;

use std::path::{Path, PathBuf};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, Message, ModelProto, TensorProto};

use super::container::Graph;
use super::initializer::Initializer;
use super::node::{DType, Node};

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

/// The same graph after a change of its message.
pub(crate) fn changed(graph: &Graph, change: impl FnOnce(&mut ModelProto)) -> Graph {
    let mut model = ModelProto::parse_from_bytes(&graph.to_bytes().unwrap()).unwrap();
    change(&mut model);
    Graph::parse(&model.write_to_bytes().unwrap(), &graph.folder().join(Path::new("model.onnx"))).unwrap()
}

/// The same graph with every edge, initializer and node renamed. Empty names stay.
pub(crate) fn renamed(graph: &Graph, name: impl Fn(&str) -> String) -> Graph {
    let rename = |text: &mut String| {
        if !text.is_empty() {
            *text = name(text);
        }
    };
    changed(graph, |model| {
        let inner = model.graph.as_mut().unwrap();
        for node in &mut inner.node {
            rename(&mut node.name);
            node.input.iter_mut().chain(&mut node.output).for_each(rename);
            node.metadata_props.clear();
        }
        let ports = inner.input.iter_mut().chain(&mut inner.output).chain(&mut inner.value_info);
        ports.for_each(|port| rename(&mut port.name));
        inner.initializer.iter_mut().for_each(|tensor| rename(&mut tensor.name));
    })
}

/// The same graph with every node of an operator in another domain.
pub(crate) fn in_domain(graph: &Graph, op: &str, domain: &str) -> Graph {
    changed(graph, |model| {
        for node in model.graph.as_mut().unwrap().node.iter_mut().filter(|n| n.op_type == op) {
            domain.clone_into(&mut node.domain);
        }
        let (domain, version) = (domain.to_owned(), 1);
        model.opset_import.push(onnx_protobuf::OperatorSetIdProto { domain, version, ..Default::default() });
    })
}

/// The same graph with the tensors for which `which` holds in `Constant` nodes.
pub(crate) fn with_constants(graph: &Graph, which: impl Fn(&TensorProto) -> bool) -> Graph {
    changed(graph, |model| {
        let inner = model.graph.as_mut().unwrap();
        let (moved, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.initializer).into_iter().partition(which);
        inner.initializer = kept;
        for tensor in moved {
            let mut node = Node::new("Constant", "", &[], &[&tensor.name]).proto().clone();
            let type_ = AttributeType::TENSOR.into();
            let name = "value".to_owned();
            node.attribute.push(AttributeProto { name, type_, t: Some(tensor).into(), ..Default::default() });
            inner.node.insert(0, node);
        }
    })
}

/// The same graph with the named matrices in 8-bit integers and a scale.
pub(crate) fn quantised(graph: &Graph, names: &[&str]) -> Graph {
    changed(graph, |model| {
        let inner = model.graph.as_mut().unwrap();
        let scale = Initializer::f32("scale of all", &[], &[0.01]).proto().clone();
        inner.initializer.push(scale);
        for name in names {
            let tensor = inner.initializer.iter_mut().find(|t| t.name == *name).unwrap();
            let dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
            let bytes = (0..dims.iter().product::<usize>()).map(|i| i as u8).collect();
            let stored = format!("{name} in integers");
            *tensor = Initializer::inline(&stored, DType(3), &dims, bytes).proto().clone();
            let node = Node::new("DequantizeLinear", "", &[&stored, "scale of all"], &[name]);
            inner.node.insert(0, node.proto().clone());
        }
    })
}
