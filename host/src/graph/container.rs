//! The container: nodes in order, ports, initializers, and the rest of the model message untouched.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use protobuf::MessageField;

use super::files::ExternalFiles;
use super::index::Index;
use super::initializer::Initializer;
use super::node::{DType, Node};
use crate::base::Result;

/// The extent of one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A number.
    Known(usize),
    /// A name: axes with equal names have equal extents.
    Symbol(Arc<str>),
}

impl Dim {
    /// The number, where it is known.
    pub fn known(&self) -> Option<usize> {
        match self {
            Self::Known(n) => Some(*n),
            Self::Symbol(_) => None,
        }
    }

    /// A named extent.
    pub fn symbol(name: &str) -> Self {
        Self::Symbol(name.into())
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(n) => write!(f, "{n}"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

/// An input or output of a graph, or what a file says of an edge inside.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The edge.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The extents; `None` where not even the rank is said.
    pub dims: Option<Vec<Dim>>,
}

impl Port {
    /// A port of known rank.
    pub fn new(name: &str, dtype: DType, dims: Vec<Dim>) -> Self {
        Self { name: name.to_owned(), dtype, dims: Some(dims) }
    }

    pub(super) fn from_proto(proto: &ValueInfoProto) -> Self {
        let mut port = Self { name: proto.name.clone(), dtype: DType(0), dims: None };
        if let Some(type_proto::Value::TensorType(tensor)) = proto.type_.as_ref().and_then(|t| t.value.as_ref()) {
            port.dtype = DType(tensor.elem_type);
            port.dims = tensor.shape.as_ref().map(|shape| {
                let dim = |(i, d): (usize, &Dimension)| match &d.value {
                    Some(dimension::Value::DimValue(n)) => Dim::Known(usize::try_from(*n).unwrap_or(0)),
                    Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::symbol(name),
                    _ => Dim::symbol(&format!("{}.{i}", proto.name)),
                };
                shape.dim.iter().enumerate().map(dim).collect()
            });
        }
        port
    }

    pub(super) fn to_proto(&self) -> ValueInfoProto {
        let shape = self.dims.as_ref().map(|dims| TensorShapeProto {
            dim: dims
                .iter()
                .map(|d| Dimension {
                    value: Some(match d {
                        Dim::Known(n) => dimension::Value::DimValue(*n as i64),
                        Dim::Symbol(name) => dimension::Value::DimParam(name.to_string()),
                    }),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
        let tensor = type_proto::Tensor {
            elem_type: self.dtype.0,
            shape: MessageField(shape.map(Box::new)),
            ..Default::default()
        };
        ValueInfoProto {
            name: self.name.clone(),
            type_: MessageField::some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// An ONNX graph with its model around it.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The model message; its graph's nodes, initializers, inputs and outputs are taken out.
    pub(super) shell: Arc<ModelProto>,
    pub(super) nodes: Vec<Node>,
    pub(super) inputs: Vec<ValueInfoProto>,
    pub(super) outputs: Vec<ValueInfoProto>,
    pub(super) initializers: BTreeMap<String, Initializer>,
    /// The order in which the file lists its initializers.
    pub(super) initializer_order: Vec<String>,
    pub(super) folder: PathBuf,
    pub(super) files: Arc<ExternalFiles>,
}

impl Graph {
    /// An empty graph of the standard operator set.
    pub fn empty(opset: i64) -> Self {
        let shell = ModelProto {
            ir_version: 9,
            producer_name: "engraft".into(),
            opset_import: vec![onnx_protobuf::OperatorSetIdProto { version: opset, ..Default::default() }],
            graph: MessageField::some(onnx_protobuf::GraphProto { name: "engraft".into(), ..Default::default() }),
            ..Default::default()
        };
        Self {
            shell: Arc::new(shell),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: BTreeMap::new(),
            initializer_order: Vec::new(),
            folder: PathBuf::new(),
            files: Arc::new(ExternalFiles::none()),
        }
    }

    /// A graph with the same model around it (operator sets, folder, external files) and nothing in it.
    #[must_use]
    pub fn hollow(&self) -> Self {
        let mut shell = (*self.shell).clone();
        if let Some(graph) = shell.graph.as_mut() {
            graph.value_info.clear();
        }
        Self {
            shell: Arc::new(shell),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: BTreeMap::new(),
            initializer_order: Vec::new(),
            folder: self.folder.clone(),
            files: self.files.clone(),
        }
    }

    /// The folder that external data is relative to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The external data files by name, with the paths they resolve to.
    pub fn external_paths(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files.paths()
    }

    /// Makes `folder` the one that external data is relative to, and maps the files that the initializers name there.
    pub(super) fn reopen(&mut self, folder: &Path) -> Result<()> {
        self.files = Arc::new(ExternalFiles::open_in(folder, None, self.initializers.values())?);
        self.folder = folder.to_path_buf();
        Ok(())
    }

    /// The version of the standard operator set.
    pub fn opset(&self) -> i64 {
        self.shell.opset_import.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx").map_or(1, |o| o.version)
    }

    /// The nodes, each after those it reads from.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs, without initializers that older files list among them.
    pub fn inputs(&self) -> Vec<Port> {
        self.inputs.iter().filter(|i| !self.initializers.contains_key(&i.name)).map(Port::from_proto).collect()
    }

    /// The outputs.
    pub fn outputs(&self) -> Vec<Port> {
        self.outputs.iter().map(Port::from_proto).collect()
    }

    /// What the file says of edges inside.
    pub fn stated(&self) -> Vec<Port> {
        self.shell.graph.value_info.iter().map(Port::from_proto).collect()
    }

    /// The initializers, sorted by name.
    pub fn initializers(&self) -> impl Iterator<Item = &Initializer> {
        self.initializers.values()
    }

    /// An initializer by name.
    pub fn initializer(&self, name: &str) -> Option<&Initializer> {
        self.initializers.get(name)
    }

    /// The same graph with some of its initializers as inputs, which are fed with every run.
    #[must_use]
    pub fn feeding<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            let Some(initializer) = self.initializers.remove(name) else { continue };
            self.initializer_order.retain(|other| other != name);
            // Older files list initializers among the inputs.
            if !self.inputs.iter().any(|input| input.name == name) {
                let dims = initializer.dims().into_iter().map(Dim::Known).collect();
                self.inputs.push(Port::new(name, initializer.dtype(), dims).to_proto());
            }
        }
        self
    }

    /// Who makes and who reads each edge.
    pub fn index(&self) -> Index<'_> {
        Index::new(self)
    }

    /// Every name of an edge or a node.
    pub(super) fn names(&self) -> HashSet<&str> {
        let edges = self.nodes.iter().flat_map(|n| n.inputs().iter().chain(n.outputs()).map(String::as_str));
        let ports = self.inputs.iter().chain(&self.outputs).map(|p| p.name.as_str());
        let nodes = self.nodes.iter().map(Node::name);
        edges.chain(ports).chain(nodes).chain(self.initializers.keys().map(String::as_str)).collect()
    }

    /// Appends a node; the caller keeps the order.
    pub(super) fn push(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Adds or replaces an initializer.
    pub(super) fn set_initializer(&mut self, initializer: Initializer) {
        let name = initializer.name().to_owned();
        if self.initializers.insert(name.clone(), initializer).is_none() {
            self.initializer_order.push(name);
        }
    }
}
