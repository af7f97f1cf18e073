//! One operator of a graph: the protobuf message itself, with readable access.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto};

/// Element types by their ONNX number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DType(pub i32);

impl DType {
    /// 32-bit float.
    pub const F32: DType = DType(1);
    /// 32-bit integer.
    pub const I32: DType = DType(6);
    /// 64-bit integer.
    pub const I64: DType = DType(7);
    /// Boolean.
    pub const BOOL: DType = DType(9);
    /// 16-bit float.
    pub const F16: DType = DType(10);
    /// 64-bit float.
    pub const F64: DType = DType(11);
    /// bfloat16.
    pub const BF16: DType = DType(16);

    /// Bytes of one element, where it is a whole number of bytes.
    pub fn size(self) -> Option<usize> {
        match self.0 {
            2 | 3 | 9 => Some(1),
            4 | 5 | 10 | 16 => Some(2),
            1 | 6 | 12 => Some(4),
            7 | 11 | 13 | 14 => Some(8),
            15 => Some(16),
            17..=20 => Some(1),
            _ => None,
        }
    }

    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "float32",
            2 => "uint8",
            3 => "int8",
            4 => "uint16",
            5 => "int16",
            6 => "int32",
            7 => "int64",
            8 => "string",
            9 => "bool",
            10 => "float16",
            11 => "float64",
            12 => "uint32",
            13 => "uint64",
            16 => "bfloat16",
            _ => "an element type that is not read",
        }
    }

    /// True for the floating-point types that gradients flow through.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::F64 | Self::BF16)
    }
}

/// The value of an attribute to be set.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A string.
    Str(String),
    /// Integers.
    Ints(Vec<i64>),
}

/// One operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node(NodeProto);

impl Node {
    /// A node of the standard domain.
    pub fn new(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Self(NodeProto {
            op_type: op.to_owned(),
            name: name.to_owned(),
            input: owned(inputs),
            output: owned(outputs),
            ..Default::default()
        })
    }

    /// The same operator of another domain.
    #[must_use]
    pub(super) fn of_domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.0.domain);
        self
    }

    /// Sets an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: Attr) -> Self {
        let mut attribute = AttributeProto { name: name.to_owned(), ..Default::default() };
        match value {
            Attr::Int(v) => {
                attribute.type_ = AttributeType::INT.into();
                attribute.i = v;
            }
            Attr::Float(v) => {
                attribute.type_ = AttributeType::FLOAT.into();
                attribute.f = v;
            }
            Attr::Str(v) => {
                attribute.type_ = AttributeType::STRING.into();
                attribute.s = v.into_bytes();
            }
            Attr::Ints(v) => {
                attribute.type_ = AttributeType::INTS.into();
                attribute.ints = v;
            }
        }
        self.0.attribute.retain(|a| a.name != name);
        self.0.attribute.push(attribute);
        self
    }

    /// The same node without an attribute.
    #[must_use]
    pub(super) fn without(mut self, name: &str) -> Self {
        self.0.attribute.retain(|a| a.name != name);
        self
    }

    /// The same node with its first inputs alone.
    #[must_use]
    pub(super) fn reading(mut self, inputs: usize) -> Self {
        self.0.input.truncate(inputs);
        self
    }

    /// The same node with one more input.
    #[must_use]
    pub(super) fn and_reading(mut self, edge: &str) -> Self {
        self.0.input.push(edge.to_owned());
        self
    }

    /// The same node under another name.
    pub(super) fn renamed(&self, name: &str) -> Self {
        let mut node = self.clone();
        node.0.name = name.to_owned();
        node
    }

    pub(super) fn from_proto(proto: NodeProto) -> Self {
        Self(proto)
    }

    pub(super) fn proto(&self) -> &NodeProto {
        &self.0
    }

    /// The node's name; may be empty.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The operator without its domain.
    pub fn op(&self) -> &str {
        &self.0.op_type
    }

    /// The operator's domain, empty for the standard one.
    pub fn domain(&self) -> &str {
        if self.0.domain == "ai.onnx" { "" } else { &self.0.domain }
    }

    /// True if this is the standard operator `op`.
    pub fn is(&self, op: &str) -> bool {
        self.0.op_type == op && self.domain().is_empty()
    }

    /// The edges it reads; an empty name is an input left out.
    pub fn inputs(&self) -> &[String] {
        &self.0.input
    }

    /// The edge of input `i`, unless it is left out.
    pub fn input(&self, i: usize) -> Option<&str> {
        self.0.input.get(i).map(String::as_str).filter(|n| !n.is_empty())
    }

    /// The edges it makes; an empty name is an output left out.
    pub fn outputs(&self) -> &[String] {
        &self.0.output
    }

    /// The edge of output `i`; empty if it is left out.
    pub fn output(&self, i: usize) -> &str {
        self.0.output.get(i).map_or("", String::as_str)
    }

    /// Replaces the edge of input `i`.
    pub fn set_input(&mut self, i: usize, edge: &str) {
        self.0.input[i] = edge.to_owned();
    }

    /// Replaces the edge of output `i`.
    pub fn set_output(&mut self, i: usize, edge: &str) {
        self.0.output[i] = edge.to_owned();
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.0.attribute.iter().find(|a| a.name == name)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).filter(|a| a.type_ == AttributeType::INT.into()).map(|a| a.i)
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).filter(|a| a.type_ == AttributeType::FLOAT.into()).map(|a| a.f)
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).filter(|a| a.type_ == AttributeType::INTS.into()).map(|a| a.ints.as_slice())
    }

    /// A string attribute.
    pub fn string(&self, name: &str) -> Option<&str> {
        self.attribute(name)
            .filter(|a| a.type_ == AttributeType::STRING.into())
            .and_then(|a| std::str::from_utf8(&a.s).ok())
    }

    /// A tensor attribute.
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorProto> {
        self.attribute(name).filter(|a| a.type_ == AttributeType::TENSOR.into()).and_then(|a| a.t.as_ref())
    }

    /// The names of the attributes that are set, sorted.
    pub fn attributes(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.attribute.iter().map(|a| a.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// An attribute in words, for dumps.
    pub fn describe_attribute(&self, name: &str) -> String {
        let Some(a) = self.attribute(name) else { return "-".into() };
        match a.type_.enum_value() {
            Ok(AttributeType::INT) => a.i.to_string(),
            Ok(AttributeType::FLOAT) => format!("{:?}", a.f),
            Ok(AttributeType::INTS) => format!("{:?}", a.ints),
            Ok(AttributeType::FLOATS) => format!("{:?}", a.floats),
            Ok(AttributeType::STRING) => format!("{:?}", String::from_utf8_lossy(&a.s)),
            Ok(AttributeType::TENSOR) => {
                a.t.as_ref().map_or("-".into(), |t| format!("{}{:?}", DType(t.data_type).name(), t.dims))
            }
            Ok(other) => format!("{other:?}").to_lowercase(),
            Err(number) => format!("type {number}"),
        }
    }

    /// True if the node holds a sub-graph (`If`, `Loop`, `Scan`).
    pub fn has_subgraph(&self) -> bool {
        self.0.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty())
    }

    /// The edges that graphs inside the node read, their own among them.
    pub(super) fn read_inside(&self) -> Vec<&str> {
        fn walk<'n>(node: &'n NodeProto, out: &mut Vec<&'n str>) {
            let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
            for graph in graphs {
                out.extend(graph.output.iter().map(|port| port.name.as_str()));
                for inner in &graph.node {
                    out.extend(inner.input.iter().map(String::as_str));
                    walk(inner, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.0, &mut out);
        out
    }

    /// The first metadata entry under `key`, e.g. the exporter's name scopes.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata_props.iter().find(|p| p.key == key).map(|p| p.value.as_str())
    }

    /// How messages name the node: operator, and name or first output.
    pub fn label(&self) -> String {
        let domain = if self.domain().is_empty() { String::new() } else { format!("{}.", self.domain()) };
        let name = if self.0.name.is_empty() { self.output(0) } else { &self.0.name };
        format!("{domain}{} `{name}`", self.0.op_type)
    }
}
