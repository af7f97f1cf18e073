//! The network that is learnt, run and differentiated by the host: the cosines between standardised activations of
//! queries and of edits. Its weights are inputs, so that it has no state and trainings do not meet in it.

use engraft_plugin_api::{MethodError, ModelAccess, Module, ModuleGraph, ModuleSource, ModuleVariable, Tensor};
use ndarray::Array2;

use crate::graph::{Edge, Extent, GraphBuilder, Kind};

/// Keeps the norm of nothing from being 0.
pub(super) const EPSILON: f32 = 1e-6;

/// The inputs that are learnt, with the shapes `[d]`, `[d, rank]` and `[rank, d]`.
const WEIGHTS: [&str; 3] = ["gain", "left", "right"];

/// The cosines of two lists of activations.
pub(super) struct Network<'a>(Module<'a>);

/// `[n, d]`, `[m, d]`, and the values of the weights.
pub(super) struct Feeds<'f> {
    pub queries: &'f Array2<f32>,
    pub edits: &'f Array2<f32>,
    pub weights: [Tensor; 3],
}

impl Feeds<'_> {
    fn named(&self) -> Vec<(String, Tensor)> {
        let mut named = vec![
            ("queries".to_owned(), Tensor::from_array(self.queries)),
            ("edits".to_owned(), Tensor::from_array(self.edits)),
        ];
        named.extend(WEIGHTS.iter().zip(&self.weights).map(|(name, tensor)| ((*name).to_owned(), tensor.clone())));
        named
    }
}

impl<'a> Network<'a> {
    pub(super) fn open(access: &'a dyn ModelAccess) -> Result<Self, MethodError> {
        let source = || Ok(ModuleSource { graph: ModuleGraph::Bytes(graph()?), weights: vec![] });
        Module::open(access, "scope", source).map(Self)
    }

    /// The cosines `[n, m]`.
    pub(super) fn cosines(&self, feeds: &Feeds<'_>) -> Result<Array2<f32>, MethodError> {
        let outputs = self.0.run(feeds.named(), &["cosines"])?;
        matrix(&outputs[0])
    }

    /// The gradients of Σ ⟨seed, cosine⟩ with respect to the weights.
    pub(super) fn gradients(&self, feeds: &Feeds<'_>, seed: &Array2<f32>) -> Result<Vec<Tensor>, MethodError> {
        let seeds = vec![("cosines".to_owned(), Tensor::from_array(seed))];
        let wrt = WEIGHTS.map(|name| ModuleVariable::Input(name.to_owned())).to_vec();
        Ok(self.0.gradient(feeds.named(), &[], seeds, wrt)?.1)
    }
}

fn matrix(tensor: &Tensor) -> Result<Array2<f32>, MethodError> {
    Ok(tensor.matrix()?.to_owned())
}

fn graph() -> Result<Vec<u8>, MethodError> {
    let (n, m, d, rank) = (Extent::Symbol("n"), Extent::Symbol("m"), Extent::Symbol("d"), Extent::Symbol("rank"));
    let mut g = GraphBuilder::new();
    let queries = g.input("queries", Kind::F32, &[n, d]);
    let edits = g.input("edits", Kind::F32, &[m, d]);
    let gain = g.input("gain", Kind::F32, &[d]);
    let left = g.input("left", Kind::F32, &[d, rank]);
    let right = g.input("right", Kind::F32, &[rank, d]);
    let one = g.float(1.0);
    let gain = g.op("Add", &[gain, one]);
    let mut unit = |x: Edge| {
        let z = g.op("Mul", &[x, gain]);
        let low = g.op("MatMul", &[z, left]);
        let low = g.op("MatMul", &[low, right]);
        let y = g.op("Add", &[z, low]);
        let square = g.op("Mul", &[y, y]);
        let axes = g.integers(&[1], &[1]);
        let sum = g.op("ReduceSum", &[square, axes]);
        let epsilon = g.float(EPSILON);
        let sum = g.op("Add", &[sum, epsilon]);
        let norm = g.op("Sqrt", &[sum]);
        g.op("Div", &[y, norm])
    };
    let (queries, edits) = (unit(queries), unit(edits));
    let edits = g.op("Transpose", &[edits]);
    let cosines = g.op("MatMul", &[queries, edits]);
    g.output("cosines", cosines, Kind::F32, &[n, m]);
    g.bytes()
}
