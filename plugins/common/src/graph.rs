//! Graphs that a method writes itself: of splices, and of networks that the host runs for it.
//!
//! A [`GraphBuilder`] names the edges by their number, so that the same calls give the same bytes: splices of several
//! patches are one only if their graphs are equal.

use engraft_plugin_api::change::splice;
use engraft_plugin_api::{MethodError, Site};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};

/// The version of the standard operators that graphs are written in. The host rewrites splices for its model's version
/// where both say the same.
pub const OPSET: i64 = 17;

/// The symbol of the number of rows.
pub const ROWS: &str = "rows";
/// The symbol of the number of columns.
pub const COLUMNS: &str = "columns";

/// An edge of the graph that is being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge(usize);

/// The element type of an input, a weight or an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit floats.
    F32,
    /// 64-bit integers.
    I64,
    /// Truth values: what comparisons give; inputs are never of this kind.
    Bool,
}

impl Kind {
    fn proto(self) -> DataType {
        match self {
            Self::F32 => DataType::FLOAT,
            Self::I64 => DataType::INT64,
            Self::Bool => DataType::BOOL,
        }
    }
}

/// The extent of an axis of an input or an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent<'a> {
    /// So many.
    Known(usize),
    /// As many as everything else of that name has.
    Symbol(&'a str),
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attribute<'a> {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A word.
    Word(&'a str),
    /// Integers.
    Ints(&'a [i64]),
}

/// Builds an ONNX graph of standard operators. What is wrong with it, whoever reads it finds out.
#[derive(Clone, Debug, Default)]
pub struct GraphBuilder {
    /// The names of the edges.
    edges: Vec<String>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    weights: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    fn edge(&mut self, name: String) -> Edge {
        self.edges.push(name);
        Edge(self.edges.len() - 1)
    }

    /// An edge with a name of its own, which no input has: none of them begins with a `%`.
    fn fresh(&mut self) -> Edge {
        self.edge(format!("%{}", self.edges.len()))
    }

    /// An input.
    pub fn input(&mut self, name: &str, kind: Kind, shape: &[Extent<'_>]) -> Edge {
        self.inputs.push(value_info(name, kind, shape));
        self.edge(name.to_owned())
    }

    /// The activation of a site, `[rows, columns, width]`, for a splice that reads it.
    pub fn site(&mut self, site: Site, width: Extent<'_>) -> Edge {
        self.input(&site.to_string(), Kind::F32, &[Extent::Symbol(ROWS), Extent::Symbol(COLUMNS), width])
    }

    /// The input [`splice::POSITIONS`], i64 `[rows, columns]`.
    pub fn positions(&mut self) -> Edge {
        self.input(splice::POSITIONS, Kind::I64, &[Extent::Symbol(ROWS), Extent::Symbol(COLUMNS)])
    }

    /// The input [`splice::PROMPT_END`], i64 `[rows]`.
    pub fn prompt_end(&mut self) -> Edge {
        self.input(splice::PROMPT_END, Kind::I64, &[Extent::Symbol(ROWS)])
    }

    /// A stacked table `[count, ...]` of a splice; `count` is a symbol.
    pub fn stacked(&mut self, name: &str, kind: Kind, count: &str, rest: &[Extent<'_>]) -> Edge {
        let shape: Vec<Extent<'_>> = std::iter::once(Extent::Symbol(count)).chain(rest.iter().copied()).collect();
        self.input(name, kind, &shape)
    }

    /// The gate of a stacked table, f32 `[rows, count]`: which entries each row sees.
    pub fn gate_of(&mut self, table: &str, count: &str) -> Edge {
        self.input(&splice::gate_of(table), Kind::F32, &[Extent::Symbol(ROWS), Extent::Symbol(count)])
    }

    /// A tensor of floats under a name of its own: a weight of a network.
    pub fn weight(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Edge {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name.to_owned(), Kind::F32, shape, bytes)
    }

    /// Floats that never change.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> Edge {
        let name = format!("%{}", self.edges.len());
        self.weight(&name, shape, values)
    }

    /// Integers that never change.
    pub fn integers(&mut self, shape: &[usize], values: &[i64]) -> Edge {
        let name = format!("%{}", self.edges.len());
        self.constant(name, Kind::I64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A single float.
    pub fn float(&mut self, value: f32) -> Edge {
        self.floats(&[], &[value])
    }

    /// A single integer.
    pub fn integer(&mut self, value: i64) -> Edge {
        self.integers(&[], &[value])
    }

    fn constant(&mut self, name: String, kind: Kind, shape: &[usize], bytes: Vec<u8>) -> Edge {
        self.weights.push(TensorProto {
            name: name.clone(),
            data_type: kind.proto() as i32,
            dims: shape.iter().map(|&d| d as i64).collect(),
            raw_data: bytes,
            ..Default::default()
        });
        self.edge(name)
    }

    /// An operator with one output.
    pub fn op(&mut self, op: &str, inputs: &[Edge]) -> Edge {
        self.with(op, inputs, &[])
    }

    /// An operator with attributes and one output.
    pub fn with(&mut self, op: &str, inputs: &[Edge], attributes: &[(&str, Attribute<'_>)]) -> Edge {
        let output = self.fresh();
        let name = |edge: &Edge| self.edges[edge.0].clone();
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name: format!("{op}{}", self.nodes.len()),
            input: inputs.iter().map(name).collect(),
            output: vec![name(&output)],
            attribute: attributes.iter().map(|&(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        });
        output
    }

    /// A conversion to another element type.
    pub fn cast(&mut self, edge: Edge, kind: Kind) -> Edge {
        self.with("Cast", &[edge], &[("to", Attribute::Int(kind.proto() as i64))])
    }

    /// New axes of extent 1.
    pub fn unsqueeze(&mut self, edge: Edge, axes: &[i64]) -> Edge {
        let axes = self.integers(&[axes.len()], axes);
        self.op("Unsqueeze", &[edge, axes])
    }

    /// One place of the last axis, which goes away.
    pub fn column(&mut self, edge: Edge, index: i64) -> Edge {
        let index = self.integer(index);
        self.with("Gather", &[edge, index], &[("axis", Attribute::Int(-1))])
    }

    /// Makes an edge the next output, under a name.
    pub fn output(&mut self, name: &str, edge: Edge, kind: Kind, shape: &[Extent<'_>]) {
        self.outputs.push(value_info(name, kind, shape));
        let input = self.edges[edge.0].clone();
        let out = self.edge(name.to_owned());
        self.nodes.push(NodeProto {
            op_type: "Identity".to_owned(),
            name: format!("Identity{}", self.nodes.len()),
            input: vec![input],
            output: vec![self.edges[out.0].clone()],
            ..Default::default()
        });
    }

    /// The bytes of the ONNX model.
    ///
    /// # Errors
    /// `graph-write` if the graph does not fit into one file.
    pub fn bytes(self) -> Result<Vec<u8>, MethodError> {
        let graph = GraphProto {
            name: "method".into(),
            node: self.nodes,
            input: self.inputs,
            output: self.outputs,
            initializer: self.weights,
            ..Default::default()
        };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { version: OPSET, ..Default::default() }],
            graph: Some(graph).into(),
            ..Default::default()
        };
        model
            .write_to_bytes()
            .map_err(|e| MethodError::new("graph-write", "the graph of the method cannot be written").cause(&e))
    }
}

fn attribute(name: &str, value: Attribute<'_>) -> AttributeProto {
    let mut out = AttributeProto { name: name.to_owned(), ..Default::default() };
    match value {
        Attribute::Int(v) => {
            out.type_ = AttributeType::INT.into();
            out.i = v;
        }
        Attribute::Float(v) => {
            out.type_ = AttributeType::FLOAT.into();
            out.f = v;
        }
        Attribute::Word(v) => {
            out.type_ = AttributeType::STRING.into();
            out.s = v.as_bytes().to_vec();
        }
        Attribute::Ints(v) => {
            out.type_ = AttributeType::INTS.into();
            out.ints = v.to_vec();
        }
    }
    out
}

fn value_info(name: &str, kind: Kind, shape: &[Extent<'_>]) -> ValueInfoProto {
    let dim = |extent: &Extent<'_>| Dimension {
        value: Some(match *extent {
            Extent::Known(n) => dimension::Value::DimValue(n as i64),
            Extent::Symbol(name) => dimension::Value::DimParam(name.to_owned()),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect(), ..Default::default() };
    let tensor = type_proto::Tensor { elem_type: kind.proto() as i32, shape: Some(shape).into(), ..Default::default() };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.to_owned(), type_: Some(kind).into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_plugin_api::BlockSite;

    fn built() -> Vec<u8> {
        let mut g = GraphBuilder::new();
        let width = Extent::Symbol("width");
        let x = g.site(Site::Block(3, BlockSite::MlpProj), width);
        let table = g.stacked("bias", Kind::F32, "n", &[width]);
        let first = g.integers(&[1], &[0]);
        let row = g.with("Gather", &[table, first], &[("axis", Attribute::Int(0))]);
        let sum = g.op("Add", &[x, row]);
        g.output("new", sum, Kind::F32, &[Extent::Symbol(ROWS), Extent::Symbol(COLUMNS), width]);
        g.bytes().expect("writes")
    }

    #[test]
    fn the_same_calls_give_the_same_bytes_and_edges_their_names() {
        let bytes = built();
        assert_eq!(bytes, built());
        let model = ModelProto::parse_from_bytes(&bytes).expect("reads");
        let names = |infos: &[ValueInfoProto]| infos.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&model.graph.input), ["blocks.3.mlp.out", "bias"]);
        assert_eq!(names(&model.graph.output), ["new"]);
        let nodes: Vec<_> = model.graph.node.iter().map(|n| (n.op_type.as_str(), n.input.clone())).collect();
        let reads = |edges: &[&str]| edges.iter().map(|&e| e.to_owned()).collect::<Vec<_>>();
        assert_eq!(nodes[0], ("Gather", reads(&["bias", "%2"])));
        assert_eq!(nodes[1], ("Add", reads(&["blocks.3.mlp.out", "%3"])));
        assert_eq!(nodes[2], ("Identity", reads(&["%4"])));
    }
}
