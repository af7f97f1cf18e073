//! Lean graphs compute what they computed.

use super::difference;
use crate::graph::Graph;
use crate::graph::testing::rows;
use crate::runtime::{self, DType, Program, ProgramOptions, Value};

/// All outputs of floats of a graph that reads tokens alone, masks and positions beside them.
fn outputs(graph: &Graph) -> Vec<Vec<f32>> {
    let bytes = graph.to_bytes().unwrap();
    let program = Program::compile(&runtime::for_tests(), &bytes, graph.folder(), &ProgramOptions::default()).unwrap();
    let (batch, length) = (2usize, 5usize);
    let ids = |i: usize| if i < 8 { i as i64 + 1 } else { 3 };
    let of = |f: &dyn Fn(usize) -> i64| Value::i64(&[batch, length], (0..batch * length).map(f).collect()).unwrap();
    let known =
        [("input_ids", of(&ids)), ("attention_mask", of(&|_| 1)), ("position_ids", of(&|i| (i % length) as i64))];
    let feeds: Vec<(&str, &Value)> =
        known.iter().filter(|(name, _)| program.input(name).is_some()).map(|(name, value)| (*name, value)).collect();
    let fetch: Vec<&str> =
        program.outputs().iter().filter(|p| p.dtype == DType::F32).map(|p| p.name.as_str()).collect();
    let values = program.run(&feeds, &fetch).unwrap();
    values.iter().map(|v| v.as_f32().unwrap().to_vec()).collect()
}

#[test]
fn a_lean_graph_computes_the_same() {
    let mut checked = 0;
    for row in rows() {
        let graph = Graph::load(&row.folder.join("model.onnx")).unwrap();
        let tokens = ["input_ids", "attention_mask", "position_ids"];
        if graph.opset() < 13 || !graph.inputs().iter().all(|i| tokens.contains(&i.name.as_str())) {
            continue;
        }
        let floats = |g: &Graph| g.outputs().iter().any(|o| o.dtype == crate::graph::DType::F32);
        if !floats(&graph) {
            continue;
        }
        for (a, b) in outputs(&graph).iter().zip(outputs(&graph.clone().untransposed().unwrap().lean(&[]).unwrap())) {
            assert!(difference(a, &b) < 2e-5, "{}: {}", row.name, difference(a, &b));
        }
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}
