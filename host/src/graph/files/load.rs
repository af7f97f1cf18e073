//! Reading a model file, with every check that can be made before a runtime sees it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{AttributeProto, GraphProto, Message, ModelProto, NodeProto, TensorProto};

use super::external::ExternalFiles;
use crate::base::{Error, Result};
use crate::graph::codes;
use crate::graph::container::Graph;
use crate::graph::initializer::Initializer;
use crate::graph::node::{DType, Node};

impl Graph {
    /// The .onnx file of a model folder, in the layouts that exporters write; a path of a file is that file.
    ///
    /// # Errors
    /// `model-missing` if there is none, or several `decoder_model*.onnx` and no plain one.
    pub fn find(model: &Path) -> Result<PathBuf> {
        if model.is_file() {
            return Ok(model.to_path_buf());
        }
        if !model.is_dir() {
            let text = format!("there is no file or folder `{}`", model.display());
            return Err(
                Error::new(&codes::MODEL_MISSING, text).help("give a model folder or the path of an .onnx file")
            );
        }
        let names = ["model.onnx", "onnx/model.onnx", "decoder_model.onnx", "onnx/decoder_model.onnx"];
        if let Some(found) = names.iter().map(|n| model.join(n)).find(|p| p.is_file()) {
            return Ok(found);
        }
        let mut others: Vec<PathBuf> = std::fs::read_dir(model)
            .map_err(|e| Error::new(&codes::MODEL_UNREADABLE, format!("cannot list `{}`", model.display())).because(e))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
            .collect();
        others.sort();
        match others.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Error::new(&codes::MODEL_MISSING, format!("`{}` holds no .onnx file", model.display()))),
            several => {
                let list: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
                let text = format!("`{}` holds several models and no `model.onnx`", model.display());
                Err(Error::new(&codes::MODEL_MISSING, text).help(format!("name one of {}", list.join(", "))))
            }
        }
    }

    /// Reads a model: a folder or an .onnx file.
    ///
    /// # Errors
    /// `model-missing`, `model-unreadable`, `model-not-onnx`, `graph-invalid`, `graph-unsupported`, or what is wrong
    /// with its external data.
    pub fn load(model: &Path) -> Result<Self> {
        let path = Self::find(model)?;
        let bytes = std::fs::read(&path).map_err(|e| {
            Error::new(&codes::MODEL_UNREADABLE, format!("cannot read `{}`", path.display())).because(e)
        })?;
        Self::parse(&bytes, &path)
    }

    /// Reads a model from bytes; `path` is where its external data is relative to, and what messages name.
    ///
    /// # Errors
    /// As [`Graph::load`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let not_onnx = |why: String| {
            Error::new(&codes::MODEL_NOT_ONNX, format!("`{}` is not an ONNX model: {why}", path.display()))
        };
        if bytes.is_empty() {
            return Err(not_onnx("the file is empty".into()));
        }
        let mut model =
            ModelProto::parse_from_bytes(bytes).map_err(|e| not_onnx("it does not parse".into()).because(e))?;
        // The operator sets come last in a file. The parser takes a message that was cut between two fields for a whole
        // one; what is then missing is a version.
        let standard = model.opset_import.iter().any(|o| o.domain.is_empty() || o.domain == "ai.onnx");
        if model.ir_version == 0 || !standard || model.opset_import.iter().any(|o| o.version < 1) {
            return Err(not_onnx("it declares no format version or no version of an operator set".into()));
        }
        let unsupported = |what: String| {
            Err(Error::new(&codes::GRAPH_UNSUPPORTED, format!("`{}` {what}", path.display()))
                .help("export the model without it"))
        };
        super::functions::inline(&mut model).map_err(|e| {
            Error::new(e.code(), format!("the functions of `{}` cannot be read", path.display())).because(e)
        })?;
        let Some(graph) = model.graph.as_mut() else { return Err(not_onnx("it holds no graph".into())) };
        if !graph.sparse_initializer.is_empty() {
            return unsupported("has sparse initializers".into());
        }
        lift(graph)?;
        let nodes: Vec<Node> = std::mem::take(&mut graph.node).into_iter().map(Node::from_proto).collect();
        let (inputs, outputs) = (std::mem::take(&mut graph.input), std::mem::take(&mut graph.output));
        let mut initializers = BTreeMap::new();
        let mut initializer_order = Vec::new();
        for proto in std::mem::take(&mut graph.initializer) {
            initializer_order.push(proto.name.clone());
            if let Some(twice) = initializers.insert(proto.name.clone(), Initializer::from_proto(proto)) {
                let text = format!("`{}` has two initializers named `{}`", path.display(), twice.name());
                return Err(Error::new(&codes::GRAPH_INVALID, text));
            }
        }
        for initializer in initializers.values() {
            initializer.byte_len()?;
        }
        let files = ExternalFiles::open(path, initializers.values())?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut out = Self {
            shell: Arc::new(model),
            nodes,
            inputs,
            outputs,
            initializers,
            initializer_order,
            folder,
            files: Arc::new(files),
        };
        out.order(path)?;
        out.check(path)?;
        Ok(out)
    }

    /// Brings nodes that are listed before those they read from into order, as runtimes do.
    fn order(&mut self, path: &Path) -> Result<()> {
        let ordered = {
            let index = self.index();
            let early = |(i, node): (usize, &Node)| {
                node.inputs().iter().all(|edge| index.producer_id(edge).is_none_or(|maker| maker < i))
            };
            self.nodes.iter().enumerate().all(early)
        };
        if ordered {
            return Ok(());
        }
        self.sort().map_err(|node| {
            let text = format!(
                "the graph of `{}` is invalid: {node} reads what is computed from its own output",
                path.display()
            );
            Error::new(&codes::GRAPH_INVALID, text)
        })
    }

    /// Every edge is made once, and before it is read.
    fn check(&self, path: &Path) -> Result<()> {
        let invalid = |what: String| {
            Err(Error::new(&codes::GRAPH_INVALID, format!("the graph of `{}` is invalid: {what}", path.display())))
        };
        if self.nodes.is_empty() {
            return invalid("it has no nodes".into());
        }
        let mut made: HashSet<&str> = self.initializers.keys().map(String::as_str).collect();
        made.extend(self.inputs.iter().map(|i| i.name.as_str()));
        for node in &self.nodes {
            for edge in node.inputs().iter().filter(|e| !e.is_empty()) {
                if !made.contains(edge.as_str()) {
                    return invalid(format!("{} reads `{edge}`, which nothing makes", node.label()));
                }
            }
            for edge in node.outputs().iter().filter(|e| !e.is_empty()) {
                if !made.insert(edge) {
                    return invalid(format!("{} makes `{edge}` a second time", node.label()));
                }
            }
        }
        match self.outputs.iter().find(|o| !made.contains(o.name.as_str())) {
            Some(output) => invalid(format!("the output `{}` is made by nothing", output.name)),
            None => Ok(()),
        }
    }
}

/// Makes every `Constant` whose tensor lies in a data file an initializer, so that it is checked, shared and exported
/// like one. Vectors of floats in such nodes are parameters, and so are tables of which rows are added to something,
/// and where matrices that are multiplied with are in them, all matrices; but not those that hold one number throughout.
///
/// # Errors
/// `graph-unsupported` for a tensor in a data file in another place.
fn lift(graph: &mut GraphProto) -> Result<()> {
    let external = |t: &TensorProto| t.data_location == DataLocation::EXTERNAL.into();
    let inside = multiplies_constants(&graph.node);
    let tables = added_tables(&graph.node);
    let (mut kept, mut lifted) = (Vec::with_capacity(graph.node.len()), Vec::new());
    for mut node in std::mem::take(&mut graph.node) {
        let standard = node.domain.is_empty() || node.domain == "ai.onnx";
        let table = node.output.first().is_some_and(|name| tables.contains(name));
        let value = node.attribute.iter_mut().find(|a| a.name == "value").and_then(|a| a.t.as_mut());
        match value {
            Some(tensor)
                if standard
                    && node.op_type == "Constant"
                    && (external(tensor) || (inside || tensor.dims.len() == 1 || table) && is_parameter(tensor)) =>
            {
                let mut tensor = std::mem::take(tensor);
                tensor.name = node.output.first().cloned().unwrap_or_default();
                lifted.push(tensor);
            }
            _ => kept.push(node),
        }
    }
    graph.node = kept;
    graph.initializer.extend(lifted);
    match hidden(&graph.node, &external) {
        Some(node) => {
            let text = format!("{} keeps an attribute in a data file", Node::from_proto(node.clone()).label());
            Err(Error::new(&codes::GRAPH_UNSUPPORTED, text).help("export the model with external data in initializers"))
        }
        None => Ok(()),
    }
}

/// The tensors of which a `Gather` takes rows that are added to something, as those of a position embedding are.
fn added_tables(nodes: &[NodeProto]) -> HashSet<String> {
    let (mut rows, mut found): (HashMap<&str, &str>, _) = (HashMap::new(), HashSet::new());
    for node in nodes {
        let Some(input) = node.input.first().map(String::as_str) else { continue };
        let table = match node.op_type.as_str() {
            "Gather" if node.attribute.iter().all(|a| a.i == 0) => Some(input),
            "Reshape" | "Unsqueeze" | "Squeeze" | "Cast" | "Identity" => rows.get(input).copied(),
            "Add" => {
                found.extend(
                    node.input.iter().filter_map(|edge| rows.get(edge.as_str())).map(|&table| table.to_owned()),
                );
                None
            }
            _ => None,
        };
        rows.extend(node.output.first().map(String::as_str).zip(table));
    }
    found
}

/// True if a matrix of a `Constant` node is the right factor of a product.
fn multiplies_constants(nodes: &[NodeProto]) -> bool {
    let mut matrices: HashSet<&str> = HashSet::new();
    nodes.iter().any(|node| {
        let input = |slot: usize| node.input.get(slot).map(String::as_str);
        let handed = match node.op_type.as_str() {
            "Constant" => node.attribute.iter().flat_map(|a| &a.t).any(|t| t.dims.len() == 2 && is_parameter(t)),
            "Transpose" | "Cast" | "Identity" => input(0).is_some_and(|e| matrices.contains(e)),
            "MatMul" | "Gemm" => return input(1).is_some_and(|e| matrices.contains(e)),
            _ => false,
        };
        matrices.extend(node.output.iter().map(String::as_str).filter(|_| handed));
        false
    })
}

fn is_parameter(tensor: &TensorProto) -> bool {
    fn varied<T: PartialEq>(values: impl IntoIterator<Item = T>) -> bool {
        let mut values = values.into_iter();
        values.next().is_some_and(|first| values.any(|other| other != first))
    }
    let dtype = DType(tensor.data_type);
    let size = dtype.size().unwrap_or(1);
    dtype.is_float()
        && (1..=2).contains(&tensor.dims.len())
        && (varied(tensor.raw_data.chunks(size))
            || varied(&tensor.float_data)
            || varied(&tensor.int32_data)
            || varied(&tensor.double_data))
}

/// A node that has a tensor for which `is` holds in an attribute, or in a graph inside it.
fn hidden<'g>(nodes: &'g [NodeProto], is: &dyn Fn(&TensorProto) -> bool) -> Option<&'g NodeProto> {
    let graph = |g: &GraphProto| g.initializer.iter().any(is) || hidden(&g.node, is).is_some();
    let attribute = |a: &AttributeProto| a.t.iter().chain(&a.tensors).any(is) || a.g.iter().chain(&a.graphs).any(graph);
    nodes.iter().find(|n| n.attribute.iter().any(attribute))
}
