//! Networks of methods: opened beside the model, run and differentiated on its device.
//!
//! A network's own weights stay in its graph. Those that were replaced are inputs of its programs, so that learning
//! compiles nothing anew; a program is kept for each set of outputs, seeds and variables that was asked for. `decoder`
//! reads those that answer requests as models of their own.

mod decoder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use engraft_plugin_api::{ModuleCall, ModuleGraph, ModuleId, ModuleReply, ModuleSource, ModuleVariable, Tensor};

use decoder::Decoder;

use super::codes;
use super::compile::Shelf;
use super::open::Model;
use crate::autodiff::{self, Seed};
use crate::base::{Cancel, Error, Result};
use crate::graph::{DType, Graph, Initializer, Location, Patch, Shapes};
use crate::runtime::{DType as Element, Program, Tokenizer, Value, codes as runtime_codes};

pub(super) use decoder::INPUT;

/// How many programs of one network are kept.
const KEPT: usize = 16;

/// The networks that methods opened on a model, by name.
#[derive(Default)]
pub(super) struct Modules(Mutex<BTreeMap<String, Arc<Network>>>);

/// Weights in place of a graph's own, by name.
type Weights = BTreeMap<String, Tensor>;

struct Network {
    name: String,
    graph: Graph,
    tokenizer: Option<Tokenizer>,
    /// The longest text that it is said to read.
    context: Option<usize>,
    weights: RwLock<Arc<Weights>>,
    programs: Shelf<Structure, Compiled>,
    decoder: Decoder,
    /// Where the tokenizer beside it is another than the model's, once it was asked.
    foreign: OnceLock<Option<String>>,
}

/// What a program of a network computes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Structure {
    /// Weights that are inputs.
    fed: BTreeSet<String>,
    outputs: Vec<String>,
    seeds: Vec<String>,
    variables: Vec<String>,
}

struct Compiled {
    program: Program,
    /// The edges of the gradients; none where no seed depends on the variable.
    gradients: Vec<Option<String>>,
}

/// The input that holds the gradient of the loss with respect to an output.
fn seed(output: &str) -> String {
    format!("engraft.seed:{output}")
}

impl Model {
    /// Answers a call of a method's network. Names are the caller's: who serves several methods keeps their names
    /// apart.
    ///
    /// # Errors
    /// `module-unknown`, `module-weight`, `module-output`, `module-variable` or `module-call`; what is wrong with the
    /// graph or the feeds; `gradient-missing` if an operator on the way has no rule; `interrupted`.
    pub fn module(&self, call: &ModuleCall, cancel: Option<&Cancel>) -> Result<ModuleReply> {
        let values = |(outputs, gradients)| ModuleReply::Values { outputs, gradients };
        match call {
            ModuleCall::Find { key } => {
                let there = self.modules().contains_key(key);
                Ok(ModuleReply::Module(there.then(|| ModuleId(key.clone()))))
            }
            ModuleCall::Open { key, source } => {
                if !self.modules().contains_key(key) {
                    let network = Arc::new(self.network(key, source)?);
                    self.modules().entry(key.clone()).or_insert(network);
                }
                Ok(ModuleReply::Module(Some(ModuleId(key.clone()))))
            }
            ModuleCall::Run { module, feeds, fetch } => {
                let network = self.network_of(module)?;
                self.run_network(&network, feeds, fetch, &[], &[], cancel).map(values)
            }
            ModuleCall::Gradient { module, feeds, fetch, seeds, wrt } => {
                let network = self.network_of(module)?;
                self.run_network(&network, feeds, fetch, seeds, wrt, cancel).map(values)
            }
            ModuleCall::Weights { module, names } => Ok(ModuleReply::Weights(self.network_of(module)?.read(names)?)),
            ModuleCall::Set { module, weights } => {
                self.network_of(module)?.set(weights)?;
                Ok(ModuleReply::Weights(Vec::new()))
            }
            ModuleCall::Tokenize { module, text } => {
                let network = self.network_of(module)?;
                let tokenizer = network.tokenizer.as_ref().ok_or_else(|| {
                    let what = format!("no tokenizer.json lies beside the network `{}`", network.name);
                    Error::new(&runtime_codes::TOKENIZER_MISSING, what)
                })?;
                Ok(ModuleReply::Tokens(tokenizer.encode(text)?))
            }
            _ => Err(Error::new(&codes::MODULE_CALL, "a method asked for something of its network that is not known")),
        }
    }

    fn modules(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Network>>> {
        self.modules.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn network_of(&self, id: &ModuleId) -> Result<Arc<Network>> {
        self.modules().get(&id.0).cloned().ok_or_else(|| {
            Error::new(&codes::MODULE_UNKNOWN, format!("there is no network `{}` beside this model", id.0))
        })
    }

    /// The name of a network's first output.
    ///
    /// # Errors
    /// `module-unknown` or `module-output`
    pub(super) fn first_output(&self, module: &ModuleId) -> Result<String> {
        let network = self.network_of(module)?;
        network
            .graph
            .outputs()
            .into_iter()
            .next()
            .map(|port| port.name)
            .ok_or_else(|| Error::new(&codes::MODULE_OUTPUT, format!("the network `{}` has no output", network.name)))
    }

    /// What the tokenizer beside a network makes of the first token that is another to the model's; none where they agree
    /// on those that both know, or one of them is missing.
    ///
    /// # Errors
    /// `module-unknown`
    pub(super) fn foreign_vocabulary(&self, module: &ModuleId) -> Result<Option<String>> {
        let network = self.network_of(module)?;
        let find = || {
            let (own, theirs) = (self.tokenizer().ok()?, network.tokenizer.as_ref()?);
            let (id, here, there) = own.first_difference(theirs)?;
            Some(format!("token {id} is `{here}` to the model and `{there}` to the network"))
        };
        Ok(network.foreign.get_or_init(find).clone())
    }

    fn network(&self, name: &str, source: &ModuleSource) -> Result<Network> {
        let (graph, tokenizer, context) = match &source.graph {
            ModuleGraph::Bytes(bytes) => {
                let graph = Graph::parse(bytes, &self.folder().join(format!("{name}.onnx")))?;
                for initializer in graph.initializers() {
                    if initializer.location()? != Location::Inline {
                        let text = format!("`{}` of the network `{name}` lies in another file", initializer.name());
                        return Err(Error::new(&codes::MODULE_WEIGHT, text).help("give the network by its path"));
                    }
                }
                (graph, None, None)
            }
            ModuleGraph::Path(path) => {
                let path = Graph::find(&self.folder().join(path))?;
                let folder = path.parent().unwrap_or_else(|| self.folder());
                let texts = folder.join("tokenizer.json").is_file();
                let tokenizer = if texts { Some(Tokenizer::open(folder)?) } else { None };
                (Graph::load(&path)?, tokenizer, decoder::context_of(folder)?)
            }
        };
        let network = Network {
            name: name.to_owned(),
            graph,
            tokenizer,
            context,
            weights: RwLock::default(),
            programs: Shelf::of(KEPT),
            decoder: Decoder::default(),
            foreign: OnceLock::new(),
        };
        network.set(&source.weights)?;
        Ok(network)
    }

    /// The outputs and the gradients.
    fn run_network(
        &self,
        network: &Network,
        feeds: &[(String, Tensor)],
        fetch: &[String],
        seeds: &[(String, Tensor)],
        wrt: &[ModuleVariable],
        cancel: Option<&Cancel>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let weights = network.weights.read().unwrap_or_else(|e| e.into_inner()).clone();
        let name = |variable: &ModuleVariable| match variable {
            ModuleVariable::Input(name) | ModuleVariable::Weight(name) => name.clone(),
        };
        let structure = Structure {
            fed: weights.keys().cloned().collect(),
            outputs: fetch.to_vec(),
            seeds: seeds.iter().map(|(output, _)| output.clone()).collect(),
            variables: wrt.iter().map(name).collect(),
        };
        let shapes = wrt.iter().map(|variable| network.shape_of(variable, feeds)).collect::<Result<Vec<_>>>()?;
        let compiled = network.programs.get(&structure, || {
            let (graph, gradients) = network.graph_of(&structure)?;
            Ok(Compiled { program: self.programs.compile(graph)?, gradients })
        })?;
        let mut values: Vec<(String, Value)> = Vec::new();
        for (name, tensor) in feeds {
            values.push((name.clone(), fitting(&compiled.program, name, tensor)?));
        }
        for (name, tensor) in weights.iter() {
            values.push((name.clone(), fitting(&compiled.program, name, tensor)?));
        }
        for (output, tensor) in seeds {
            values.push((seed(output), fitting(&compiled.program, &seed(output), tensor)?));
        }
        // Two variables can share a gradient.
        let gradients = compiled.gradients.iter().flatten();
        let edges: BTreeSet<&str> = fetch.iter().chain(gradients).map(String::as_str).collect();
        let edges: Vec<&str> = edges.into_iter().collect();
        let found = if edges.is_empty() {
            Vec::new()
        } else {
            let values: Vec<(&str, &Value)> = values.iter().map(|(name, value)| (name.as_str(), value)).collect();
            compiled.program.run_until(&values, &edges, cancel)?
        };
        let of = |edge: &String| found[edges.binary_search(&edge.as_str()).unwrap_or(0)].to_tensor();
        let outputs = fetch.iter().map(of).collect::<Result<_>>()?;
        let gradient =
            |(edge, shape): (&Option<String>, Vec<usize>)| edge.as_ref().map_or(Ok(Tensor::zeros(shape)), of);
        Ok((outputs, compiled.gradients.iter().zip(shapes).map(gradient).collect::<Result<_>>()?))
    }
}

/// A tensor in the element type of an input. What has no input is refused when it is fed.
fn fitting(program: &Program, name: &str, tensor: &Tensor) -> Result<Value> {
    let own = if tensor.as_f32().is_ok() { Element::F32 } else { Element::I64 };
    Value::from_tensor(tensor, program.input(name).map_or(own, |port| port.dtype))
}

impl Network {
    fn weight(&self, name: &str) -> Result<&Initializer> {
        self.graph.initializer(name).ok_or_else(|| {
            Error::new(&codes::MODULE_WEIGHT, format!("the network `{}` has no weight `{name}`", self.name))
        })
    }

    fn read(&self, names: &[String]) -> Result<Vec<(String, Tensor)>> {
        let replaced = self.weights.read().unwrap_or_else(|e| e.into_inner()).clone();
        let floats =
            || self.graph.initializers().filter(|i| i.dtype().is_float()).map(|i| i.name().to_owned()).collect();
        let names: Vec<String> = if names.is_empty() { floats() } else { names.to_vec() };
        let one = |name: String| {
            let own = self.weight(&name)?;
            let tensor = match replaced.get(&name) {
                Some(tensor) => tensor.clone(),
                None => {
                    let values = self.graph.values(own)?;
                    match values.floats() {
                        Some(floats) => Tensor::f32(own.dims(), floats.to_vec())?,
                        None => Tensor::i64(own.dims(), values.ints().unwrap_or(&[]).to_vec())?,
                    }
                }
            };
            Ok((name, tensor))
        };
        names.into_iter().map(one).collect()
    }

    fn set(&self, weights: &[(String, Tensor)]) -> Result<()> {
        for (name, tensor) in weights {
            let (dims, dtype) = (self.weight(name)?.dims(), self.weight(name)?.dtype());
            if tensor.shape() != dims || tensor.as_f32().is_ok() != dtype.is_float() {
                let found = if tensor.as_f32().is_ok() { "floats" } else { "integers" };
                let text = format!(
                    "the weight `{name}` of the network `{}` is {} of {dims:?}: expected that, found {found} of {:?}",
                    self.name,
                    dtype.name(),
                    tensor.shape()
                );
                return Err(Error::new(&codes::MODULE_WEIGHT, text));
            }
        }
        let mut guard = self.weights.write().unwrap_or_else(|e| e.into_inner());
        let mut all = (**guard).clone();
        all.extend(weights.iter().cloned());
        *guard = Arc::new(all);
        Ok(())
    }

    /// The extents of a variable.
    fn shape_of(&self, variable: &ModuleVariable, feeds: &[(String, Tensor)]) -> Result<Vec<usize>> {
        let refuse = |name: &str, what: &str| {
            let text = format!("a gradient of the network `{}` with respect to `{name}`, which {what}", self.name);
            Err(Error::new(&codes::MODULE_VARIABLE, text))
        };
        match variable {
            ModuleVariable::Weight(name) => {
                let weight = self.weight(name)?;
                if weight.dtype().is_float() { Ok(weight.dims()) } else { refuse(name, "is not of floats") }
            }
            ModuleVariable::Input(name) => {
                let input = self.graph.inputs().into_iter().find(|port| port.name == *name);
                let fed = feeds.iter().find(|(fed, _)| fed == name);
                match (input, fed) {
                    (Some(input), Some((_, tensor))) if input.dtype.is_float() => Ok(tensor.shape().to_vec()),
                    (Some(_), Some(_)) => refuse(name, "is not of floats"),
                    (Some(_), None) => refuse(name, "is not fed"),
                    (None, _) => refuse(name, "is not an input"),
                }
            }
        }
    }

    /// The graph of a program, and the edges of its gradients.
    fn graph_of(&self, structure: &Structure) -> Result<(Graph, Vec<Option<String>>)> {
        let base = self.graph.clone().feeding(structure.fed.iter().map(String::as_str));
        let ports = base.outputs();
        let port = |name: &String| {
            ports.iter().find(|port| port.name == *name).ok_or_else(|| {
                let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
                let text = format!("the network `{}` has no output `{name}`; it has: {}", self.name, names.join(", "));
                Error::new(&codes::MODULE_OUTPUT, text)
            })
        };
        let mut patch = Patch::new(&base);
        patch.drop_outputs();
        for output in &structure.outputs {
            patch.tap(output, port(output)?.dtype)?;
        }
        if structure.variables.is_empty() {
            return Ok((patch.apply()?, Vec::new()));
        }
        let shapes = Shapes::infer(&base)?;
        let mut seeds = Vec::new();
        for output in &structure.seeds {
            let dims = shapes.dims(output).map(<[_]>::to_vec).or_else(|| port(output).ok()?.dims.clone());
            let Some(dims) = dims.filter(|_| port(output).is_ok_and(|port| port.dtype.is_float())) else {
                let text = format!("the output `{output}` of the network `{}` has no known axes of floats", self.name);
                return Err(Error::new(&codes::MODULE_OUTPUT, text));
            };
            seeds.push(Seed { edge: output.clone(), cotangent: patch.input(&seed(output), DType::F32, dims)? });
        }
        let wrt: Vec<&str> = structure.variables.iter().map(String::as_str).collect();
        let gradients = autodiff::gradients(&mut patch, &shapes, &seeds, &wrt)?;
        for (of, edge) in wrt.iter().zip(&gradients) {
            if let Some(edge) = edge {
                patch.tap(edge, shapes.dtype(of).unwrap_or(DType::F32))?;
            }
        }
        Ok((patch.apply()?, gradients))
    }
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::ndarray::{Array2, ArrayView1, Axis};

    use super::*;
    use crate::graph::testing::zoo;
    use crate::graph::{Attr, Dim};
    use crate::model::OpenOptions;
    use crate::runtime;

    /// `y = tanh(x · W + b)`, `z = 2 y`.
    fn network() -> Vec<u8> {
        let empty = Graph::empty(17);
        let mut patch = Patch::new(&empty);
        let x = patch.input("x", DType::F32, vec![Dim::symbol("n"), Dim::Known(3)]).unwrap();
        let w = patch.constant(Initializer::f32("W", &[3, 2], &[0.1, -0.2, 0.3, 0.4, -0.5, 0.6]));
        let b = patch.constant(Initializer::f32("b", &[2], &[0.05, -0.05]));
        let product = patch.op("MatMul", &[&x, &w], &[]).unwrap();
        let sum = patch.op("Add", &[&product, &b], &[]).unwrap();
        let y = patch.op("Tanh", &[&sum], &[]).unwrap();
        let z = patch.op("Add", &[&y, &y], &[]).unwrap();
        let whole = patch.op("Cast", &[&x], &[("to", Attr::Int(7))]).unwrap();
        patch.tap(&y, DType::F32).unwrap();
        patch.tap(&z, DType::F32).unwrap();
        patch.tap(&whole, DType::I64).unwrap();
        patch.apply().unwrap().to_bytes().unwrap()
    }

    #[test]
    fn a_network_runs_and_its_gradients_are_those_of_the_closed_form() {
        let model = Model::open(&zoo("dynamo-mask"), &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let ask = |call: ModuleCall| model.module(&call, None);
        let key = || "test/net".to_owned();
        assert_eq!(ask(ModuleCall::Find { key: key() }).unwrap(), ModuleReply::Module(None));
        let id = ModuleId(key());
        let source = ModuleSource { graph: ModuleGraph::Bytes(network()), weights: Vec::new() };
        let outputs: Vec<String> =
            Graph::parse(&network(), "n.onnx".as_ref()).unwrap().outputs().into_iter().map(|p| p.name).collect();
        let open = ModuleCall::Open { key: key(), source };
        for call in [open.clone(), open, ModuleCall::Find { key: key() }] {
            assert_eq!(ask(call).unwrap(), ModuleReply::Module(Some(id.clone())));
        }
        let x = Array2::from_shape_fn((4, 3), |(i, j)| 0.3 * i as f32 - 0.2 * j as f32);
        let s = Array2::from_shape_fn((4, 2), |(i, j)| 0.5 - 0.25 * (i + 2 * j) as f32);
        let feeds = || vec![("x".to_owned(), Tensor::from_array(&x))];
        let near = |tensor: &Tensor, wanted: &[f32]| {
            let found = tensor.as_f32().unwrap();
            assert_eq!(found.len(), wanted.len());
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {wanted:?}");
        };
        // With the graph's own weights, then with others.
        let other = Array2::from_shape_fn((3, 2), |(i, j)| 0.4 - 0.3 * (i * j) as f32);
        for replaced in [false, true] {
            if replaced {
                let weights = vec![("W".to_owned(), Tensor::from_array(&other))];
                ask(ModuleCall::Set { module: id.clone(), weights }).unwrap();
            }
            let ModuleReply::Weights(weights) =
                ask(ModuleCall::Weights { module: id.clone(), names: Vec::new() }).unwrap()
            else {
                panic!("weights")
            };
            let names: Vec<&str> = weights.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["W", "b"]);
            let (w, b) = (weights[0].1.matrix().unwrap(), ArrayView1::from(weights[1].1.as_f32().unwrap()));
            assert_eq!(w == other, replaced);
            let y = (x.dot(&w) + b).mapv(f32::tanh);
            let run = ModuleCall::Run { module: id.clone(), feeds: feeds(), fetch: outputs[..2].to_vec() };
            let ModuleReply::Values { outputs: found, .. } = ask(run).unwrap() else { panic!("values") };
            near(&found[0], y.as_slice().unwrap());
            near(&found[1], (&y * 2.0).as_slice().unwrap());
            let gradient = ModuleCall::Gradient {
                module: id.clone(),
                feeds: feeds(),
                fetch: outputs[..1].to_vec(),
                seeds: outputs[..2].iter().map(|name| (name.clone(), Tensor::from_array(&s))).collect(),
                wrt: vec![
                    ModuleVariable::Weight("W".into()),
                    ModuleVariable::Input("x".into()),
                    ModuleVariable::Weight("b".into()),
                ],
            };
            let ModuleReply::Values { outputs: found, gradients } = ask(gradient).unwrap() else { panic!("values") };
            near(&found[0], y.as_slice().unwrap());
            // y has the seed, and twice the seed by z.
            let g = (&s * 3.0) * y.mapv(|v| 1.0 - v * v);
            near(&gradients[0], x.t().dot(&g).as_standard_layout().as_slice().unwrap());
            near(&gradients[1], g.dot(&w.t()).as_standard_layout().as_slice().unwrap());
            near(&gradients[2], g.sum_axis(Axis(0)).as_slice().unwrap());
        }
    }

    #[test]
    fn defects_of_calls_are_named() {
        let model = Model::open(&zoo("dynamo-mask"), &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let id = ModuleId("net".into());
        let code = |call: ModuleCall| model.module(&call, None).map_err(|e| e.code().id);
        let run = |fetch: &str, feeds: &[(&str, Tensor)]| ModuleCall::Run {
            module: id.clone(),
            feeds: feeds.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect(),
            fetch: vec![fetch.to_owned()],
        };
        assert_eq!(code(run("y", &[])), Err("module-unknown"));
        let source = |bytes| ModuleSource { graph: ModuleGraph::Bytes(bytes), weights: Vec::new() };
        let open = |bytes| ModuleCall::Open { key: "net".into(), source: source(bytes) };
        assert_eq!(code(open(b"not a graph".to_vec())), Err("model-not-onnx"));
        code(open(network())).unwrap();
        let output = Graph::parse(&network(), "n.onnx".as_ref()).unwrap().outputs()[0].name.clone();
        assert_eq!(code(run("nothing", &[])), Err("module-output"));
        assert_eq!(code(run(&output, &[])), Err("program-port"));
        assert_eq!(code(run(&output, &[("x", Tensor::zeros([2, 2]))])), Err("program-feed"));
        let set = |name: &str, tensor| ModuleCall::Set { module: id.clone(), weights: vec![(name.into(), tensor)] };
        assert_eq!(code(set("V", Tensor::zeros([2]))), Err("module-weight"));
        assert_eq!(code(set("b", Tensor::zeros([3]))), Err("module-weight"));
        let gradient = |wrt| ModuleCall::Gradient {
            module: id.clone(),
            feeds: vec![("x".into(), Tensor::zeros([1, 3]))],
            fetch: Vec::new(),
            seeds: vec![(output.clone(), Tensor::zeros([1, 2]))],
            wrt: vec![wrt],
        };
        assert_eq!(code(gradient(ModuleVariable::Input("u".into()))), Err("module-variable"));
        assert_eq!(code(gradient(ModuleVariable::Weight("u".into()))), Err("module-weight"));
        code(gradient(ModuleVariable::Input("x".into()))).unwrap();
        assert_eq!(code(ModuleCall::Tokenize { module: id.clone(), text: "a".into() }), Err("tokenizer-missing"));
    }
}
