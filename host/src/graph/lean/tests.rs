//! Lean graphs by structure; that they compute the same is tested where a runtime is (`host/src/model/tests`).

use crate::graph::testing::zoo;
use crate::graph::{Attr, DType, Dim, Graph, Patch, Shapes, downstream};

fn count(graph: &Graph, ops: &[&str]) -> usize {
    graph.nodes().iter().filter(|n| ops.iter().any(|op| n.is(op))).count()
}

const RESHAPES: [&str; 4] = ["Reshape", "Flatten", "Squeeze", "Unsqueeze"];

#[test]
fn products_of_rows_are_joined_without_reshapes() {
    let graph = Graph::load(&zoo("dynamo-mask").join("model.onnx")).unwrap();
    let lean = graph.lean(&[]).unwrap();
    assert!(count(&lean, &RESHAPES) * 3 < count(&graph, &RESHAPES) * 2, "{}", count(&lean, &RESHAPES));
    assert!(lean.nodes().len() < graph.nodes().len());
    assert_eq!(lean.outputs(), graph.outputs());
    let dims = |g: &Graph| Shapes::infer(g).unwrap().dims("logits").unwrap().to_vec();
    assert_eq!(dims(&lean), dims(&graph));
}

#[test]
fn what_depends_on_a_kept_edge_still_reads_it() {
    let graph = Graph::load(&zoo("dynamo-mask").join("model.onnx")).unwrap();
    let shapes = Shapes::infer(&graph).unwrap();
    let wide = |n: &&crate::graph::Node| shapes.dims(n.output(0)).is_some_and(|d| d.len() == 3);
    for node in graph.nodes().iter().filter(|n| n.is("Reshape") || n.is("Add")).filter(wide) {
        let edge = node.output(0);
        let reaches = |g: &Graph| {
            let index = g.index();
            downstream(&index, [edge]).contains(&index.producer_id("logits").unwrap())
        };
        assert_eq!(reaches(&graph.lean(&[edge]).unwrap()), reaches(&graph), "{edge}");
    }
}

/// x `[b, s, 12]` split into queries of 2 heads and keys and values of one head each, 3 wide, and joined again.
fn heads(second: usize) -> Graph {
    let empty = Graph::empty(18);
    let mut patch = Patch::new(&empty);
    let dims = |last: usize| vec![Dim::symbol("b"), Dim::symbol("s"), Dim::Known(last)];
    let x = patch.input("x", DType::F32, dims(12)).unwrap();
    let sizes = patch.i64(&[3], &[6, 3, 3]);
    let parts = patch.op_many("Split", &[&x, &sizes], &[("axis", Attr::Int(-1))], 3).unwrap();
    let mut joined = Vec::new();
    for (part, wide) in parts.iter().zip([3, second, 3]) {
        let target = patch.i64(&[4], &[0, 0, -1, wide as i64]);
        let apart = patch.op("Reshape", &[part, &target], &[]).unwrap();
        let bent = patch.op("Transpose", &[&apart], &[("perm", Attr::Ints(vec![0, 1, 2, 3]))]).unwrap();
        let target = patch.i64(&[3], &[0, 0, -1]);
        joined.push(patch.op("Reshape", &[&bent, &target], &[]).unwrap());
    }
    let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
    let joined = patch.op("Concat", &joined, &[("axis", Attr::Int(2))]).unwrap();
    let y = patch.op("Identity", &[&joined], &[]).unwrap();
    patch.tap(&y, DType::F32).unwrap();
    patch.apply().unwrap()
}

#[test]
fn heads_are_set_apart_before_the_split_and_joined_after() {
    let graph = heads(3);
    let lean = graph.lean(&[]).unwrap();
    assert_eq!((count(&graph, &["Reshape"]), count(&lean, &["Reshape"])), (6, 2));
    let shapes = Shapes::infer(&lean).unwrap();
    let split = lean.nodes().iter().find(|n| n.is("Split")).unwrap();
    let known = |e: &str| shapes.dims(e).unwrap()[2..].to_vec();
    let found: Vec<_> = split.outputs().iter().map(|e| known(e)).collect();
    assert_eq!(found, [2, 1, 1].map(|n| vec![Dim::Known(n), Dim::Known(3)]));
    assert_eq!(shapes.dims(&graph.outputs()[0].name).unwrap()[2], Dim::Known(12));
    // Heads of different widths have no axis in common.
    let lean = heads(1).lean(&[]).unwrap();
    assert_eq!(count(&lean, &["Reshape"]), 6);
}

/// GELU of x in one of the ways that exporters write it, or nearly.
fn spelled(way: &str, opset: i64) -> Graph {
    let empty = Graph::empty(opset);
    let mut patch = Patch::new(&empty);
    let x = patch.input("x", DType::F32, vec![Dim::symbol("n"), Dim::Known(4)]).unwrap();
    let number = |patch: &mut Patch<'_>, v: f32| patch.f32(&[], &[v]);
    let (half, one, a) = (number(&mut patch, 0.5), number(&mut patch, 1.0), number(&mut patch, 0.044_715));
    let root = number(&mut patch, if way == "nearly" { 0.75 } else { 0.797_884_6 });
    let two = number(&mut patch, 2.0_f32.sqrt());
    let mut op = |op: &str, a: &str, b: &str| {
        let inputs: &[&str] = if b.is_empty() { &[a] } else { &[a, b] };
        patch.op(op, inputs, &[]).unwrap()
    };
    let middle = match way {
        "erf" => {
            let u = op("Div", &x, &two);
            op("Erf", &u, "")
        }
        _ => {
            let square = op("Mul", &x, &x);
            let cube = op("Mul", &square, &x);
            let cubic = op("Mul", &a, &cube);
            let sum = op("Add", &x, &cubic);
            let u = op("Mul", &sum, &root);
            op("Tanh", &u, "")
        }
    };
    let more = op("Add", &one, &middle);
    let y = match way {
        "erf" => {
            let product = op("Mul", &x, &more);
            op("Mul", &product, &half)
        }
        _ => {
            let less = op("Mul", &half, &x);
            op("Mul", &less, &more)
        }
    };
    patch.tap(&y, DType::F32).unwrap();
    patch.apply().unwrap()
}

#[test]
fn gelu_is_known_by_its_values() {
    let lean = |way: &str, opset: i64| {
        let graph = spelled(way, opset);
        let shapes = Shapes::infer(&graph).unwrap();
        let outputs = graph.outputs();
        let lean = graph.with_gelu(&shapes).live();
        assert_eq!(lean.outputs(), outputs);
        lean.nodes().iter().find(|n| n.is("Gelu")).map(|n| n.string("approximate").unwrap().to_owned())
    };
    assert_eq!(lean("erf", 20).as_deref(), Some("none"));
    assert_eq!(lean("tanh", 20).as_deref(), Some("tanh"));
    assert_eq!((lean("nearly", 20), lean("tanh", 19)), (None, None));
}
