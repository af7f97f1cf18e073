//! Model-local functions: every call is replaced by the function's nodes, with its edges and attributes put in, until no
//! call is left. That is exact wherever the function is written for the operator sets of the model; elsewhere, and for
//! functions that call themselves, the model is refused.

use std::collections::{BTreeMap, HashMap, HashSet};

use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

use crate::base::{Error, Result};
use crate::graph::codes;

/// Calls within calls are followed this far.
const DEEPEST: usize = 64;
/// More nodes than this come of no exporter, but of functions that multiply each other.
const MOST: usize = 1 << 17;

/// A function's domain, name and overload.
type Key = (String, String, String);

fn standard(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Replaces the calls of the model's functions by their nodes, and forgets the functions.
///
/// # Errors
/// `graph-invalid` if a function calls itself, a call does not fit its function, or an attribute refers to none that
/// the function declares; `graph-unsupported` for a function of another operator set than the model, or too many nodes.
pub(super) fn inline(model: &mut ModelProto) -> Result<()> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let mut functions = BTreeMap::new();
    for function in std::mem::take(&mut model.functions) {
        let key = (standard(&function.domain).to_owned(), function.name.clone(), function.overload.clone());
        if let Some(twice) = functions.insert(key, function) {
            return Err(invalid(format!("the function `{}` is there twice", twice.name)));
        }
    }
    let sets = model.opset_import.iter().map(|o| (standard(&o.domain).to_owned(), o.version)).collect();
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    let mut taken = HashSet::new();
    names(graph, &mut taken);
    let mut expansion =
        Expansion { functions: &functions, sets, added: Vec::new(), taken, stack: Vec::new(), count: 0 };
    graph.node = expansion.nodes(std::mem::take(&mut graph.node))?;
    let added = expansion.added;
    let mut left = HashSet::new();
    domains(graph, &mut left);
    let functions_only = |o: &OperatorSetIdProto| {
        let domain = standard(&o.domain);
        !domain.is_empty() && !left.contains(domain) && functions.keys().any(|(d, ..)| d == domain)
    };
    model.opset_import.retain(|o| !functions_only(o));
    model.opset_import.extend(added.into_iter().filter(|o| left.contains(standard(&o.domain))));
    Ok(())
}

fn invalid(text: String) -> Error {
    Error::new(&codes::GRAPH_INVALID, text).help("export the model again, without functions")
}

/// Every name of an edge or a node in a graph and the graphs inside it.
fn names(graph: &GraphProto, found: &mut HashSet<String>) {
    found.extend(graph.input.iter().chain(&graph.output).map(|p| p.name.clone()));
    found.extend(graph.initializer.iter().map(|t| t.name.clone()));
    for node in &graph.node {
        found.insert(node.name.clone());
        found.extend(node.input.iter().chain(&node.output).cloned());
        node.attribute.iter().flat_map(inner).for_each(|g| names(g, found));
    }
}

/// Every domain that nodes name.
fn domains(graph: &GraphProto, found: &mut HashSet<String>) {
    for node in &graph.node {
        found.insert(standard(&node.domain).to_owned());
        node.attribute.iter().flat_map(inner).for_each(|g| domains(g, found));
    }
}

fn inner(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

fn inner_mut(attribute: &mut AttributeProto) -> impl Iterator<Item = &mut GraphProto> {
    attribute.g.as_mut().into_iter().chain(&mut attribute.graphs)
}

struct Expansion<'m> {
    functions: &'m BTreeMap<Key, FunctionProto>,
    /// The operator sets of the model.
    sets: HashMap<String, i64>,
    /// Those that only functions name.
    added: Vec<OperatorSetIdProto>,
    taken: HashSet<String>,
    /// The calls that are being replaced, outermost first.
    stack: Vec<&'m Key>,
    count: usize,
}

impl<'m> Expansion<'m> {
    /// A list of nodes without calls.
    fn nodes(&mut self, nodes: Vec<NodeProto>) -> Result<Vec<NodeProto>> {
        let mut out = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            let key = (standard(&node.domain).to_owned(), node.op_type.clone(), node.overload.clone());
            match self.functions.get_key_value(&key) {
                Some((key, function)) => {
                    let body = self.call(&node, key, function)?;
                    out.extend(body);
                }
                None => {
                    for graph in node.attribute.iter_mut().flat_map(inner_mut) {
                        graph.node = self.nodes(std::mem::take(&mut graph.node))?;
                    }
                    self.count += 1;
                    out.push(node);
                }
            }
            if self.count > MOST {
                let text = format!("the model has more than {MOST} nodes once its functions are put in");
                return Err(Error::new(&codes::GRAPH_UNSUPPORTED, text));
            }
        }
        Ok(out)
    }

    /// The nodes that a call stands for.
    fn call(&mut self, node: &NodeProto, key: &'m Key, function: &'m FunctionProto) -> Result<Vec<NodeProto>> {
        let label = if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name };
        if self.stack.contains(&key) {
            return Err(invalid(format!("the function `{}`, called by `{label}`, calls itself", function.name)));
        }
        if self.stack.len() == DEEPEST {
            return Err(invalid(format!("functions are called more than {DEEPEST} deep, at `{label}`")));
        }
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            let text = format!(
                "`{label}` calls the function `{}` with {} inputs and {} outputs; it has {} and {}",
                function.name,
                node.input.len(),
                node.output.len(),
                function.input.len(),
                function.output.len()
            );
            return Err(invalid(text));
        }
        self.import(function)?;
        let mut edges: HashMap<String, String> = HashMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            edges.insert(formal.clone(), node.input.get(i).cloned().unwrap_or_default());
        }
        // An output that is an input, or that was named before, is copied.
        let mut copies = Vec::new();
        for (formal, actual) in function.output.iter().zip(&node.output).filter(|(_, a)| !a.is_empty()) {
            match edges.get(formal) {
                Some(_) => copies.push((formal.clone(), actual.clone())),
                None => drop(edges.insert(formal.clone(), actual.clone())),
            }
        }
        let mut body: Vec<NodeProto> = function.node.clone();
        for inside in &mut body {
            self.attributes(inside, node, function)?;
            self.rename(inside, label, &mut edges);
        }
        for (formal, actual) in copies {
            let source = edges.get(&formal).cloned().unwrap_or_default();
            let name = self.fresh(label, &formal);
            body.push(NodeProto {
                op_type: "Identity".into(),
                name,
                input: vec![source],
                output: vec![actual],
                ..Default::default()
            });
        }
        self.stack.push(key);
        let out = self.nodes(body);
        self.stack.pop();
        out
    }

    /// Checks that a function's operator sets are the model's, and takes on those that the model does not name.
    fn import(&mut self, function: &FunctionProto) -> Result<()> {
        for set in &function.opset_import {
            let domain = standard(&set.domain);
            let local = self.functions.keys().any(|(d, ..)| d == domain);
            match self.sets.get(domain) {
                Some(&version) if version == set.version || local => {}
                Some(version) => {
                    let named = if domain.is_empty() { "ai.onnx" } else { domain };
                    let text = format!(
                        "the function `{}` is written for version {} of `{named}`, the model for version {version}",
                        function.name, set.version
                    );
                    return Err(Error::new(&codes::GRAPH_UNSUPPORTED, text)
                        .help("export the model without functions, or with one operator set"));
                }
                None => {
                    self.sets.insert(domain.to_owned(), set.version);
                    self.added.push(set.clone());
                }
            }
        }
        Ok(())
    }

    /// Puts the call's attributes, or the function's defaults, in the places of a node that refer to them.
    fn attributes(&self, inside: &mut NodeProto, call: &NodeProto, function: &FunctionProto) -> Result<()> {
        let mut kept = Vec::with_capacity(inside.attribute.len());
        for mut attribute in std::mem::take(&mut inside.attribute) {
            if attribute.ref_attr_name.is_empty() {
                for graph in inner_mut(&mut attribute) {
                    for node in &mut graph.node {
                        self.attributes(node, call, function)?;
                    }
                }
                kept.push(attribute);
                continue;
            }
            let wanted = attribute.ref_attr_name.as_str();
            let given = call.attribute.iter().find(|a| a.name == wanted);
            let default = function.attribute_proto.iter().find(|a| a.name == wanted);
            let Some(value) = given.or(default) else {
                if function.attribute.iter().any(|name| name == wanted) {
                    continue;
                }
                let text = format!(
                    "the function `{}` refers to the attribute `{wanted}`, which it does not have",
                    function.name
                );
                return Err(invalid(text));
            };
            if value.type_ != attribute.type_ {
                let text =
                    format!("the attribute `{wanted}` of the function `{}` is given with another type", function.name);
                return Err(invalid(text));
            }
            let mut value = value.clone();
            value.name = attribute.name;
            kept.push(value);
        }
        inside.attribute = kept;
        Ok(())
    }

    /// Gives a node of a function the names that its edges have in the model.
    fn rename(&mut self, node: &mut NodeProto, label: &str, edges: &mut HashMap<String, String>) {
        for edge in node.input.iter_mut().chain(&mut node.output).filter(|e| !e.is_empty()) {
            *edge = self.edge(edge, label, edges);
        }
        let hint = if node.name.is_empty() { node.op_type.clone() } else { node.name.clone() };
        node.name = self.fresh(label, &hint);
        for graph in node.attribute.iter_mut().flat_map(inner_mut) {
            for tensor in &mut graph.initializer {
                tensor.name = self.edge(&tensor.name, label, edges);
            }
            for port in graph.input.iter_mut() {
                port.name = self.edge(&port.name, label, edges);
            }
            for inside in &mut graph.node {
                self.rename(inside, label, edges);
            }
            for port in graph.output.iter_mut().chain(&mut graph.value_info) {
                port.name = self.edge(&port.name, label, edges);
            }
        }
    }

    fn edge(&mut self, edge: &str, label: &str, edges: &mut HashMap<String, String>) -> String {
        if let Some(found) = edges.get(edge) {
            return found.clone();
        }
        let fresh = self.fresh(label, edge);
        edges.insert(edge.to_owned(), fresh.clone());
        fresh
    }

    /// A name that nothing has: the call's and the function's own.
    fn fresh(&mut self, label: &str, own: &str) -> String {
        let base = format!("{label}/{own}");
        let mut name = base.clone();
        let mut n = 1;
        while !self.taken.insert(name.clone()) {
            n += 1;
            name = format!("{base}.{n}");
        }
        name
    }
}
