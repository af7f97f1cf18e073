//! What the tests of gradients share: a compiled graph as something to evaluate, random tensors, rules on trial.

use std::path::Path;

use engraft::autodiff::check::{Evaluate, Question, compare};
use engraft::autodiff::{Seed, gradients};
use engraft::base::Result;
use engraft::graph::{DType, Dim, Graph, Patch, Shapes};
use engraft::runtime::{Program, ProgramOptions, Runtime, RuntimeSettings, Value, silent};
use engraft_plugin_api::Tensor;

/// A compiled graph.
pub struct Compiled(pub Program);

impl Compiled {
    pub fn new(graph: &Graph, optimize: bool) -> Result<Self> {
        let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
        let options = ProgramOptions { optimize, ..ProgramOptions::default() };
        let folder = if graph.folder() == Path::new("") { Path::new(".") } else { graph.folder() };
        Program::compile(&runtime, &graph.to_bytes()?, folder, &options).map(Self)
    }
}

impl Evaluate for Compiled {
    fn run(&self, feeds: &[(&str, &Tensor)], fetch: &[&str]) -> Result<Vec<Tensor>> {
        let used = feeds.iter().filter_map(|&(name, tensor)| Some((name, tensor, self.0.input(name)?.dtype)));
        let values =
            used.map(|(name, t, dtype)| Ok((name, Value::from_tensor(t, dtype)?))).collect::<Result<Vec<_>>>()?;
        let feeds: Vec<_> = values.iter().map(|(name, value)| (*name, value)).collect();
        self.0.run(&feeds, fetch)?.iter().map(Value::to_tensor).collect()
    }
}

/// Reproducible numbers in (−1, 1), never near 0.
pub fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
        let sign = if state >> 39 & 1 == 0 { 1.0 } else { -1.0 };
        sign * (0.2 + 0.8 * unit)
    };
    Tensor::f32(dims.to_vec(), (0..dims.iter().product()).map(|_| next()).collect()).unwrap()
}

/// The same, all positive.
pub fn positive(dims: &[usize], seed: u64) -> Tensor {
    let values = floats(&random(dims, seed)).iter().map(|v| v.abs()).collect();
    Tensor::f32(dims.to_vec(), values).unwrap()
}

pub fn floats(tensor: &Tensor) -> &[f32] {
    match tensor.data() {
        engraft_plugin_api::Data::F32(values) => values,
        engraft_plugin_api::Data::I64(_) => panic!("floats expected"),
    }
}

/// |a − b| / |b|
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    apart / norm(&mut b.iter().map(|b| f64::from(*b))).max(1e-30)
}

/// How much of the shapes a graph on trial tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// Every extent is a number.
    Numbers,
    /// Every extent is a name of its own.
    Names,
}

/// A small graph: named inputs and a function that adds its nodes.
pub struct Trial<'a> {
    pub opset: i64,
    pub inputs: &'a [(&'a str, Tensor)],
    /// The inputs to differentiate.
    pub wrt: &'a [&'a str],
    pub build: &'a dyn Fn(&mut Patch<'_>) -> String,
}

impl Trial<'_> {
    fn forward(&self, told: Told) -> (Graph, String) {
        let empty = Graph::empty(self.opset);
        let mut patch = Patch::new(&empty);
        for (name, value) in self.inputs {
            let dim = |(i, &n): (usize, &usize)| match told {
                Told::Numbers => Dim::Known(n),
                Told::Names => Dim::symbol(&format!("{name}.{i}")),
            };
            let dims = value.shape().iter().enumerate().map(dim).collect();
            let dtype = match value.data() {
                engraft_plugin_api::Data::F32(_) => DType::F32,
                engraft_plugin_api::Data::I64(_) => DType::I64,
            };
            patch.input(name, dtype, dims).unwrap();
        }
        let out = (self.build)(&mut patch);
        patch.tap(&out, DType::F32).unwrap();
        (patch.apply().unwrap(), out)
    }

    /// Differentiates ⟨c, output⟩ for a random c and compares with finite differences, with and without optimisation.
    /// Returns how many nodes the gradient has.
    pub fn check(&self, told: Told) -> usize {
        let (graph, out) = self.forward(told);
        let feeds: Vec<(&str, &Tensor)> = self.inputs.iter().map(|(n, t)| (*n, t)).collect();
        let value = Compiled::new(&graph, true).unwrap().run(&feeds, &[&out]).unwrap().remove(0);
        let cotangent = random(value.shape(), 99);
        let mut patch = Patch::new(&graph);
        let dims = (0..value.shape().len()).map(|i| Dim::symbol(&format!("c.{i}"))).collect();
        patch.input("c", DType::F32, dims).unwrap();
        let shapes = Shapes::infer(&graph).unwrap();
        let seeds = [Seed { edge: out.clone(), cotangent: "c".into() }];
        let found = gradients(&mut patch, &shapes, &seeds, self.wrt).unwrap();
        let found: Vec<String> = found.into_iter().map(Option::unwrap).collect();
        let loss = patch.op("Mul", &[&out, "c"], &[]).unwrap();
        patch.tap(&loss, DType::F32).unwrap();
        for gradient in &found {
            patch.tap(gradient, DType::F32).unwrap();
        }
        let patched = patch.apply().unwrap();
        let feeds: Vec<(&str, &Tensor)> = feeds.into_iter().chain([("c", &cotangent)]).collect();
        for optimize in [true, false] {
            let compiled = Compiled::new(&patched, optimize).unwrap();
            for (variable, gradient) in self.wrt.iter().zip(&found) {
                let got = compiled.run(&feeds, &[gradient]).unwrap().remove(0);
                let of = self.inputs.iter().find(|(n, _)| n == variable).unwrap();
                assert_eq!(got.shape(), of.1.shape(), "the gradient of `{variable}`");
                let question = Question { variable, loss: &loss, gradient };
                for comparison in compare(&compiled, &feeds, question).unwrap() {
                    assert!(
                        comparison.error < 2e-3,
                        "{variable}: {comparison:?}\n{}",
                        engraft::graph::dump(&patched, None)
                    );
                }
            }
        }
        patched.nodes().len() - graph.nodes().len() - 1
    }

    /// Both ways of telling the shapes.
    pub fn check_all(&self) {
        for told in [Told::Numbers, Told::Names] {
            self.check(told);
        }
    }
}
