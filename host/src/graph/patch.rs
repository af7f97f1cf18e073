//! A patch: taps, shunts, new nodes and inputs recorded against a graph, checked when recorded, applied whole.
//!
//! A *tap* reads an edge as an output. A *shunt* makes everything that read an edge read another one instead; the
//! patch's own nodes keep reading the original. Recording never touches the base graph, and [`Patch::apply`] gives a
//! new graph or an error, never a half-changed one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use onnx_protobuf::{OperatorSetIdProto, ValueInfoProto};

use super::codes;
use super::container::{Dim, Graph, Port};
use super::index::Index;
use super::initializer::Initializer;
use super::node::{Attr, DType, Node};
use super::shapes::Shapes;
use super::slice::downstream;
use crate::base::{Error, Result};

/// A recorded change of one graph.
pub struct Patch<'g> {
    graph: &'g Graph,
    index: Index<'g>,
    taken: HashSet<String>,
    made: HashSet<String>,
    counters: HashMap<String, usize>,
    nodes: Vec<Node>,
    inputs: Vec<Port>,
    initializers: Vec<Initializer>,
    shunts: BTreeMap<String, String>,
    reroutes: BTreeMap<(String, usize), String>,
    outputs: Vec<Port>,
    keep_outputs: bool,
    domains: BTreeSet<String>,
    stated: Vec<Port>,
}

impl<'g> Patch<'g> {
    /// An empty patch.
    pub fn new(graph: &'g Graph) -> Self {
        let index = graph.index();
        let mut made: HashSet<String> = graph.initializers().map(|i| i.name().to_owned()).collect();
        made.extend(graph.inputs.iter().map(|p| p.name.clone()));
        made.extend(graph.nodes().iter().flat_map(|n| n.outputs().iter().cloned()));
        Self {
            graph,
            index,
            taken: graph.names().into_iter().map(str::to_owned).collect(),
            made,
            counters: HashMap::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            initializers: Vec::new(),
            shunts: BTreeMap::new(),
            reroutes: BTreeMap::new(),
            outputs: Vec::new(),
            keep_outputs: true,
            domains: BTreeSet::new(),
            stated: Vec::new(),
        }
    }

    /// The graph that this is recorded against.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The look-up over that graph.
    pub fn index(&self) -> &Index<'g> {
        &self.index
    }

    /// A name that is not taken: `hint`, or `hint.2`, `hint.3`, ... The same recording gives the same names.
    pub fn fresh(&mut self, hint: &str) -> String {
        let counter = self.counters.entry(hint.to_owned()).or_insert(0);
        loop {
            *counter += 1;
            let name = if *counter == 1 { hint.to_owned() } else { format!("{hint}.{counter}") };
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    fn known(&self, edge: &str, what: &str) -> Result<()> {
        if self.made.contains(edge) {
            return Ok(());
        }
        Err(Error::new(&codes::PATCH_INVALID, format!("{what} `{edge}`, which is not an edge of the graph")))
    }

    /// A new input of the graph under exactly this name.
    ///
    /// # Errors
    /// `graph-patch-invalid` if the name is taken.
    pub fn input(&mut self, name: &str, dtype: DType, dims: Vec<Dim>) -> Result<String> {
        if !self.taken.insert(name.to_owned()) {
            return Err(Error::new(&codes::PATCH_INVALID, format!("the name of the new input `{name}` is taken")));
        }
        self.made.insert(name.to_owned());
        self.inputs.push(Port::new(name, dtype, dims));
        Ok(name.to_owned())
    }

    /// True if this patch added an input of that name.
    pub fn is_input(&self, name: &str) -> bool {
        self.inputs.iter().any(|p| p.name == name)
    }

    /// A new constant of floats.
    pub fn f32(&mut self, dims: &[usize], values: &[f32]) -> String {
        let name = self.fresh("engraft.const");
        self.constant(Initializer::f32(&name, dims, values))
    }

    /// A new constant of integers.
    pub fn i64(&mut self, dims: &[usize], values: &[i64]) -> String {
        let name = self.fresh("engraft.const");
        self.constant(Initializer::i64(&name, dims, values))
    }

    /// A new constant under its own name, which must come from [`Patch::fresh`], or a replacement of an initializer
    /// of the base graph.
    pub fn constant(&mut self, initializer: Initializer) -> String {
        let name = initializer.name().to_owned();
        self.made.insert(name.clone());
        self.initializers.push(initializer);
        name
    }

    /// A new node with one output, whose name is returned. Empty inputs are inputs left out.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an input is not an edge.
    pub fn op(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> Result<String> {
        self.op_many(op, inputs, attributes, 1).map(|mut outputs| outputs.remove(0))
    }

    /// A new node with several outputs.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an input is not an edge.
    pub fn op_many(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attr)],
        outputs: usize,
    ) -> Result<Vec<String>> {
        for edge in inputs.iter().filter(|e| !e.is_empty()) {
            self.known(edge, &format!("a new {op} reads"))?;
        }
        let hint = format!("engraft.{op}");
        let name = self.fresh(&hint);
        let made: Vec<String> = (0..outputs).map(|i| self.fresh(&format!("{name}:{i}"))).collect();
        let made_refs: Vec<&str> = made.iter().map(String::as_str).collect();
        let mut node = Node::new(op, &name, inputs, &made_refs);
        for (key, value) in attributes {
            node = node.with(key, value.clone());
        }
        self.made.extend(made.iter().cloned());
        self.nodes.push(node);
        Ok(made)
    }

    /// A new node of an operator of another domain, with one output, whose name is returned. The graph then says that
    /// it uses version 1 of that domain, unless it says which one already.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an input is not an edge.
    pub fn op_of(&mut self, domain: &str, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> Result<String> {
        let output = self.op(op, inputs, attributes)?;
        let node = self.nodes.pop().map(|node| node.of_domain(domain));
        self.nodes.extend(node);
        self.domains.insert(domain.to_owned());
        Ok(output)
    }

    /// Says what a new edge is, for runtimes that do not know the operator that makes it.
    pub fn state(&mut self, port: Port) {
        self.stated.push(port);
    }

    /// A new node that does what `node` does with other inputs; returns its outputs.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an input is not an edge.
    pub fn copy(&mut self, node: &Node, inputs: &[String]) -> Result<Vec<String>> {
        for edge in inputs.iter().filter(|e| !e.is_empty()) {
            self.known(edge, &format!("a copy of {} reads", node.label()))?;
        }
        let mut copy = node.renamed(&self.fresh(&format!("engraft.{}", node.op())));
        for (slot, edge) in inputs.iter().enumerate() {
            copy.set_input(slot, edge);
        }
        for slot in (0..node.outputs().len()).filter(|&i| !node.output(i).is_empty()) {
            let edge = self.fresh(&format!("engraft.{}", node.output(slot)));
            copy.set_output(slot, &edge);
            self.made.insert(edge);
        }
        let outputs = copy.outputs().to_vec();
        self.nodes.push(copy);
        Ok(outputs)
    }

    /// `x` with `values` `[n, ...]` added at places `[n, k]` of its first axes. Operator sets before 16 have no adding
    /// scatter: there the values go into zeros.
    ///
    /// # Errors
    /// `graph-patch-invalid` if an operand is not an edge.
    pub fn add_at(&mut self, x: &str, places: &str, values: &str) -> Result<String> {
        if self.graph.opset() >= 16 {
            return self.op("ScatterND", &[x, places, values], &[("reduction", Attr::Str("add".into()))]);
        }
        let shape = self.op("Shape", &[x], &[])?;
        let zeros = self.op("ConstantOfShape", &[&shape], &[])?;
        let scattered = self.op("ScatterND", &[&zeros, places, values], &[])?;
        self.op("Add", &[x, &scattered], &[])
    }

    /// What readers of an edge read after the shunts recorded so far.
    pub fn current(&self, edge: &str) -> String {
        self.shunts.get(edge).cloned().unwrap_or_else(|| edge.to_owned())
    }

    /// Makes the base graph's readers of `edge` read `replacement`. A later shunt of the same edge takes the place of
    /// an earlier one; build on [`Patch::current`] to chain them.
    ///
    /// # Errors
    /// `graph-patch-invalid` if either is not an edge.
    pub fn shunt(&mut self, edge: &str, replacement: &str) -> Result<()> {
        self.known(edge, "a shunt reroutes")?;
        self.known(replacement, "a shunt leads to")?;
        self.shunts.insert(edge.to_owned(), replacement.to_owned());
        Ok(())
    }

    /// Makes one reader of an edge read another one: input `slot` of the base node whose first output is `reader`.
    /// It goes before a shunt of the edge that the slot reads.
    ///
    /// # Errors
    /// `graph-patch-invalid` if there is no such input or the replacement is not an edge.
    pub fn reroute(&mut self, reader: &str, slot: usize, replacement: &str) -> Result<()> {
        self.known(replacement, "a reroute leads to")?;
        if self.index.producer(reader).and_then(|n| n.input(slot)).is_none() {
            let text = format!("the maker of `{reader}` has no input {slot} to reroute");
            return Err(Error::new(&codes::PATCH_INVALID, text));
        }
        self.reroutes.insert((reader.to_owned(), slot), replacement.to_owned());
        Ok(())
    }

    /// What input `slot` of the maker of `reader` reads after the reroutes and shunts recorded so far.
    pub fn current_input(&self, reader: &str, slot: usize) -> Option<String> {
        match self.reroutes.get(&(reader.to_owned(), slot)) {
            Some(to) => Some(to.clone()),
            None => self.index.producer(reader)?.input(slot).map(|edge| self.current(edge)),
        }
    }

    /// Makes an edge an output, under its own name.
    ///
    /// # Errors
    /// `graph-patch-invalid` if it is not an edge.
    pub fn tap(&mut self, edge: &str, dtype: DType) -> Result<()> {
        self.known(edge, "a tap reads")?;
        let there = |p: &Port| p.name == edge;
        let base = self.keep_outputs && self.graph.outputs().iter().any(there);
        if !base && !self.outputs.iter().any(there) {
            self.outputs.push(Port { name: edge.to_owned(), dtype, dims: None });
        }
        Ok(())
    }

    /// Leaves the base graph's outputs out; only taps remain.
    pub fn drop_outputs(&mut self) {
        self.keep_outputs = false;
    }

    /// The patched graph, with its nodes in an order in which every edge is made before it is read.
    ///
    /// # Errors
    /// `graph-patch-invalid` if the shunts close a cycle, or a new constant has too few values or the name of
    /// an edge that a node makes.
    pub fn apply(self) -> Result<Graph> {
        let mut graph = self.graph.clone();
        let mut changed: HashSet<String> = HashSet::new();
        for node in &mut graph.nodes {
            let reader = node.output(0).to_owned();
            for slot in 0..node.inputs().len() {
                let to = self.reroutes.get(&(reader.clone(), slot)).or_else(|| self.shunts.get(&node.inputs()[slot]));
                if let Some(to) = to {
                    node.set_input(slot, to);
                    changed.insert(reader.clone());
                }
            }
        }
        graph.nodes.extend(self.nodes);
        for initializer in self.initializers {
            if self.index.producer_id(initializer.name()).is_some() {
                let text = format!("the name of the new constant `{}` is taken", initializer.name());
                return Err(Error::new(&codes::PATCH_INVALID, text));
            }
            if initializer.proto().raw_data.len() as u64 != initializer.byte_len()?
                && initializer.location()? == super::initializer::Location::Inline
            {
                let text = format!("the new constant `{}` does not fill its shape", initializer.name());
                return Err(Error::new(&codes::PATCH_INVALID, text));
            }
            if let Some(old) = graph.initializer(initializer.name())
                && old.dims() != initializer.dims()
            {
                changed.extend(self.index.consumers(initializer.name()).map(|(node, _)| node.output(0).to_owned()));
            }
            graph.set_initializer(initializer);
        }
        graph.inputs.extend(self.inputs.iter().map(Port::to_proto));
        if !self.keep_outputs {
            graph.outputs.clear();
        }
        graph.outputs.extend(self.outputs.iter().map(Port::to_proto));
        if !self.stated.is_empty() {
            let inner = Arc::make_mut(&mut graph.shell).graph.mut_or_insert_default();
            inner.value_info.extend(self.stated.iter().map(Port::to_proto));
        }
        for domain in self.domains {
            if !graph.shell.opset_import.iter().any(|set| set.domain == domain) {
                let set = OperatorSetIdProto { domain, version: 1, ..Default::default() };
                Arc::make_mut(&mut graph.shell).opset_import.push(set);
            }
        }
        let closed = |node| Error::new(&codes::PATCH_INVALID, format!("{node} depends on itself"));
        graph.sort().map_err(closed)?;
        graph.unsay(&changed);
        Ok(graph)
    }
}

impl Graph {
    /// Forgets what the file says of the shapes of edges that depend on the nodes with these first outputs, where
    /// inference says otherwise: it was said of another graph, and a runtime would believe it.
    fn unsay(&mut self, changed: &HashSet<String>) {
        if changed.is_empty() {
            return;
        }
        let index = self.index();
        let mut reached: HashSet<usize> = changed.iter().filter_map(|edge| index.producer_id(edge)).collect();
        let made = |id: &usize| self.nodes[*id].outputs().iter().map(String::as_str);
        let direct: Vec<&str> = reached.iter().flat_map(made).collect();
        reached.extend(downstream(&index, direct));
        let edges: HashSet<String> = reached.iter().flat_map(made).map(str::to_owned).collect();
        let inferred = Shapes::infer_beside(self, &edges);
        let stale = |said: &ValueInfoProto| {
            edges.contains(&said.name)
                && match (&inferred, Port::from_proto(said).dims) {
                    (Ok(shapes), Some(dims)) => shapes.contradict(&said.name, &dims),
                    (_, dims) => dims.is_some(),
                }
        };
        for output in self.outputs.iter_mut().filter(|o| stale(o)) {
            let port = Port { dims: None, ..Port::from_proto(output) };
            *output = port.to_proto();
        }
        if self.shell.graph.value_info.iter().any(stale) {
            let shell = Arc::make_mut(&mut self.shell);
            shell.graph.mut_or_insert_default().value_info.retain(|v| !stale(v));
        }
    }

    /// Orders the nodes so that every edge is made before it is read, keeping the given order where it can.
    ///
    /// # Errors
    /// A node that depends on itself, as messages name it.
    pub(super) fn sort(&mut self) -> std::result::Result<(), String> {
        let order = {
            let index = self.index();
            let mut state = vec![0u8; self.nodes.len()];
            let mut order = Vec::with_capacity(self.nodes.len());
            let mut stack = Vec::new();
            for root in 0..self.nodes.len() {
                stack.push((root, false));
                while let Some((id, done)) = stack.pop() {
                    if done {
                        state[id] = 2;
                        order.push(id);
                        continue;
                    }
                    if state[id] == 2 {
                        continue;
                    }
                    if state[id] == 1 {
                        return Err(self.nodes[id].label());
                    }
                    state[id] = 1;
                    stack.push((id, true));
                    let inside = self.nodes[id].read_inside();
                    for edge in inside.into_iter().chain(self.nodes[id].inputs().iter().rev().map(String::as_str)) {
                        if let Some(producer) = index.producer_id(edge)
                            && state[producer] != 2
                        {
                            stack.push((producer, false));
                        }
                    }
                }
            }
            order
        };
        let mut slots: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|id| slots[id].take()).collect();
        Ok(())
    }
}
