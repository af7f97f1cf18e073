//! Random small decoders: the gradient of a loss with respect to every weight, against finite differences.

use std::collections::BTreeSet;
use std::path::Path;

use engraft_plugin_api::Tensor;

use super::check::{Evaluate, Question, compare};
use super::{Seed, gradients, nll};
use crate::base::Result;
use crate::graph::testing::decoders::{Activation, Decoder, IDS, MASK, POSITIONS, Style, VOCAB};
use crate::graph::{DType, Dim, Patch, Shapes, dump};
use crate::runtime::{Program, ProgramOptions, Value, for_tests};

const DECODERS: u64 = 24;
/// One weight in so many is varied.
const SAMPLED: usize = 3;
const ROWS: usize = 2;
const LENGTH: usize = 5;

struct Compiled(Program);

impl Evaluate for Compiled {
    fn run(&self, feeds: &[(&str, &Tensor)], fetch: &[&str]) -> Result<Vec<Tensor>> {
        let values = feeds.iter().map(|(n, t)| Ok((*n, Value::try_from(*t)?))).collect::<Result<Vec<_>>>()?;
        let feeds: Vec<_> = values.iter().map(|(n, v)| (*n, v)).collect();
        self.0.run(&feeds, fetch)?.iter().map(Value::to_tensor).collect()
    }
}

#[test]
fn random_decoders_have_the_gradients_that_their_losses_have() {
    let runtime = for_tests();
    for seed in 0..DECODERS {
        let style = Style::random(seed);
        let Decoder { graph: base, weights, .. } = style.build();
        let weights: BTreeSet<String> = weights.into_values().map(|(name, _)| name).collect();
        let variables: Vec<(String, String)> = weights.into_iter().map(|name| (format!("free {name}"), name)).collect();
        // Every weight is an input, so that it can be varied.
        let mut patch = Patch::new(&base);
        let mut feeds = Vec::new();
        for (free, name) in &variables {
            let weight = base.initializer(name).unwrap();
            patch.input(free, DType::F32, weight.dims().into_iter().map(Dim::Known).collect()).unwrap();
            patch.shunt(name, free).unwrap();
            let values = base.values(weight).unwrap().floats().unwrap().to_vec();
            feeds.push((free.as_str(), Tensor::f32(weight.dims(), values).unwrap()));
        }
        patch.input("places", DType::I64, vec![Dim::symbol("m"), Dim::Known(2)]).unwrap();
        let logits = base.outputs().remove(0).name;
        let picked = patch.op("GatherND", &[&logits, "places"], &[]).unwrap();
        patch.tap(&picked, DType::F32).unwrap();
        let graph = patch.apply().unwrap();
        let shapes = Shapes::infer(&graph).unwrap();
        let said = || format!("{style:?}\n{}", dump(&base, Some(&shapes)));
        assert_eq!(shapes.dims(&logits).unwrap()[2], Dim::Known(VOCAB), "{}", said());

        let mut patch = Patch::new(&graph);
        patch.drop_outputs();
        patch.input("targets", DType::I64, vec![Dim::symbol("m")]).unwrap();
        patch.input("weights", DType::F32, vec![Dim::symbol("m")]).unwrap();
        let loss = nll(&mut patch, &picked, "targets", "weights").unwrap();
        let seeds = [Seed { edge: picked.clone(), cotangent: loss.cotangent }];
        let wrt: Vec<&str> = variables.iter().map(|(free, _)| free.as_str()).collect();
        let found = gradients(&mut patch, &shapes, &seeds, &wrt).unwrap_or_else(|e| panic!("{e}\n{}", said()));
        patch.tap(&loss.terms, DType::F32).unwrap();
        found.iter().flatten().for_each(|edge| patch.tap(edge, DType::F32).unwrap());
        let whole = patch.apply().unwrap();
        assert!(!dump(&whole, None).contains("NonZero"), "a shape is left to the run\n{}", said());
        let program =
            Program::compile(&runtime, &whole.to_bytes().unwrap(), Path::new("."), &ProgramOptions::default());
        let program = Compiled(program.unwrap_or_else(|e| panic!("{e}\n{}", said())));

        let whole_rows =
            |of: &dyn Fn(usize) -> i64| Tensor::i64([ROWS, LENGTH], (0..ROWS * LENGTH).map(of).collect()).unwrap();
        feeds.push((IDS, whole_rows(&|i| ((i * 7 + seed as usize) % VOCAB) as i64)));
        feeds.push((MASK, whole_rows(&|_| 1)));
        feeds.push((POSITIONS, whole_rows(&|i| (i % LENGTH) as i64)));
        feeds.push(("places", Tensor::i64([3, 2], vec![0, 4, 1, 4, 1, 2]).unwrap()));
        feeds.push(("targets", Tensor::i64([3], vec![5, 11, 2]).unwrap()));
        feeds.push(("weights", Tensor::f32([3], vec![1.0; 3]).unwrap()));
        let feeds: Vec<(&str, &Tensor)> =
            feeds.iter().map(|(n, t)| (*n, t)).filter(|(n, _)| program.0.input(n).is_some()).collect();
        // A step may cross a kink.
        let tolerance = if style.activation == Activation::Relu { 3e-2 } else { 1e-2 };
        for (i, (variable, gradient)) in wrt.iter().zip(&found).enumerate() {
            let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{variable} has no gradient\n{}", said()));
            // Some of the weights of each, other ones of the next.
            if !(i + seed as usize).is_multiple_of(SAMPLED) {
                continue;
            }
            let question = Question { variable, loss: &loss.terms, gradient };
            for comparison in compare(&program, &feeds, question).unwrap() {
                // Rounding of a loss of about 10 in float32 hides gradients that are tiny.
                let close = comparison.error < tolerance || (comparison.claimed - comparison.measured).abs() < 2e-4;
                assert!(close, "{variable}: {comparison:?}\n{}", said());
            }
        }
    }
}
