//! Shapes of the tiny GPT-2 graphs against what they were when the graphs ran.

use std::collections::BTreeMap;

use onnx_protobuf::Message;

use super::super::{Attr, DType, Dim, Graph, Patch, Shapes};
use super::{ZOO, code, load_changed, message, zoo};
use crate::anatomy::Anatomy;

/// An extent in a run of these sizes: a sum of products of them and numbers.
fn evaluate(dim: &Dim, sizes: &BTreeMap<&str, usize>) -> Option<usize> {
    let term =
        |t: &str| -> Option<usize> { t.split('*').map(|f| f.parse().ok().or_else(|| sizes.get(f).copied())).product() };
    match dim {
        Dim::Known(n) => Some(*n),
        Dim::Symbol(name) => name.split(" + ").map(term).sum(),
    }
}

#[test]
fn every_float_edge_has_a_rank_and_extents_of_the_inputs() {
    let sizes = BTreeMap::from([("batch", 3), ("sequence", 5)]);
    for name in ZOO {
        let graph = Graph::load(&zoo(name)).unwrap();
        let shapes = Shapes::infer(&graph).unwrap();
        for node in graph.nodes().iter().filter(|n| !n.is("SplitToSequence")) {
            for edge in node.outputs() {
                let dims = shapes.dims(edge).unwrap_or_else(|| panic!("{name}: the rank of `{edge}`"));
                assert!(shapes.dtype(edge).is_some(), "{name}: {edge}");
                assert!(dims.iter().all(|d| evaluate(d, &sizes).is_some()), "{name}: {} is {dims:?}", node.label());
            }
        }
        let logits = shapes.dims("logits").unwrap();
        assert_eq!(logits, [Dim::symbol("batch"), Dim::symbol("sequence"), Dim::Known(128)]);
    }
}

#[test]
fn sites_have_the_shapes_that_were_recorded() {
    let bytes = std::fs::read(zoo("x").parent().unwrap().join("gpt2.safetensors")).unwrap();
    let records = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = records.tensor("ids").unwrap().shape().to_vec();
    let sizes = BTreeMap::from([("batch", ids[0]), ("sequence", ids[1])]);
    for name in ZOO {
        let graph = Graph::load(&zoo(name)).unwrap();
        let shapes = Shapes::infer(&graph).unwrap();
        let anatomy = Anatomy::of(&graph, &shapes).unwrap();
        let mut compared = 0;
        for (site, view) in &anatomy.sites {
            let Ok(record) = records.tensor(&site.to_string()) else { continue };
            let dims = shapes.dims(&view.edge).unwrap();
            let elements: usize = dims.iter().map(|d| evaluate(d, &sizes).unwrap()).product();
            let parts = elements / record.shape().iter().product::<usize>();
            assert!(parts == 1 || parts == 3, "{name} {site}: {dims:?} for {:?}", record.shape());
            compared += 1;
        }
        assert!(compared > 40, "{name}: {compared}");
    }
}

#[test]
fn graphs_without_statements_have_the_same_shapes() {
    for name in ZOO {
        let stated = Graph::load(&zoo(name)).unwrap();
        let mut silent = message(name);
        silent.graph.as_mut().unwrap().value_info.clear();
        let path = zoo(name).join("model.onnx");
        let silent = Graph::parse(&silent.write_to_bytes().unwrap(), &path).unwrap();
        let (stated_shapes, silent_shapes) = (Shapes::infer(&stated).unwrap(), Shapes::infer(&silent).unwrap());
        for node in stated.nodes().iter().filter(|n| !n.is("SplitToSequence")) {
            for edge in node.outputs() {
                assert_eq!(stated_shapes.dims(edge), silent_shapes.dims(edge), "{name} {}", node.label());
                assert_eq!(stated_shapes.dtype(edge), silent_shapes.dtype(edge), "{name} {}", node.label());
            }
        }
    }
}

#[test]
fn contradictions_are_refused() {
    use onnx_protobuf::tensor_shape_proto::dimension::Value;
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(zoo("dynamo-mask").join("model.onnx.data"), folder.path().join("model.onnx.data")).unwrap();
    // The file states another width than the operands give.
    let graph = load_changed(folder.path(), |m| {
        let info = m.graph.as_mut().unwrap().value_info.iter_mut().find(|v| v.name == "view_16").unwrap();
        let dims = &mut info.type_.as_mut().unwrap().mut_tensor_type().shape.as_mut().unwrap().dim;
        dims[2].value = Some(Value::DimValue(64));
    });
    assert_eq!(code(Shapes::infer(&graph.unwrap())), "graph-invalid");
    // Operands that do not fit together.
    for (reader, slot, wrong) in [
        ("addmm", 1, "transformer.wpe.weight"),
        ("add_5", 1, "transformer.h.0.mlp.c_fc.weight"),
        ("view_9", 0, "layer_norm"),
    ] {
        let graph = load_changed(folder.path(), |m| {
            let nodes = &mut m.graph.as_mut().unwrap().node;
            nodes.iter_mut().find(|n| n.output[0] == reader).unwrap().input[slot] = wrong.into();
        });
        assert_eq!(code(Shapes::infer(&graph.unwrap())), "graph-invalid", "{reader}");
    }
}

/// The shapes of operators over named inputs, as text.
fn shapes_of(inputs: &[(&str, &str)], build: impl Fn(&mut Patch<'_>) -> Vec<String>) -> Vec<String> {
    let empty = Graph::empty(23);
    let mut patch = Patch::new(&empty);
    for (name, dims) in inputs {
        let dim = |d: &str| d.parse().map_or_else(|_| Dim::symbol(d), Dim::Known);
        patch.input(name, DType::F32, dims.split_whitespace().map(dim).collect()).unwrap();
    }
    let made = build(&mut patch);
    let graph = patch.apply().unwrap();
    let shapes = Shapes::infer(&graph).unwrap();
    let text = |edge: &String| shapes.dims(edge).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    made.iter().map(text).collect()
}

#[test]
fn names_that_differ_are_not_equal_extents() {
    let sums = [("a b 1", "a b c"), ("a 1", "b"), ("a b", "b a"), ("a", "3")];
    let expected = ["a b c", "a b", "?(a|b) ?(a|b)", "3"];
    for ((x, y), expected) in sums.into_iter().zip(expected) {
        let made = shapes_of(&[("x", x), ("y", y)], |p| {
            let sum = p.op("Add", &["x", "y"], &[]).unwrap();
            let back = p.op("Add", &["y", "x"], &[]).unwrap();
            vec![sum, back]
        });
        assert_eq!(made, [expected, expected]);
    }
}

#[test]
fn operators_of_decoders_have_their_shapes() {
    let flat = [("q", "b s 32"), ("k", "b s 16"), ("v", "b s 16"), ("pk", "b 2 p 8"), ("pv", "b 2 p 8")];
    let made = shapes_of(&flat, |p| {
        let heads = [("q_num_heads", Attr::Int(4)), ("kv_num_heads", Attr::Int(2))];
        p.op_many("Attention", &["q", "k", "v", "", "pk", "pv"], &heads, 4).unwrap()
    });
    assert_eq!(made, ["b s 32", "b 2 p + s 8", "b 2 p + s 8", "b 4 s p + s"]);
    let made = shapes_of(&[("x", "b s 12"), ("w", "12 n")], |p| {
        let ints = |p: &mut Patch<'_>, v: &[i64]| p.i64(&[v.len()], v);
        let (repeats, pads, k) = (ints(p, &[1, 2, 3]), ints(p, &[0, 1, 0, 0, 2, -4]), ints(p, &[5]));
        let cut = [&[1][..], &[i64::MAX], &[2], &[5]].map(|v| ints(p, v));
        let equation = [("equation", Attr::Str("bsi, in".into()))];
        vec![
            p.op("Tile", &["x", &repeats], &[]).unwrap(),
            p.op("Pad", &["x", &pads], &[]).unwrap(),
            p.op_many("TopK", &["x", &k], &[], 2).unwrap().remove(1),
            p.op("Slice", &["x", &cut[0], &cut[1], &cut[2], &cut[3]], &[]).unwrap(),
            p.op("Einsum", &["x", "w"], &equation).unwrap(),
        ]
    });
    assert_eq!(made, ["b 2*s 36", "b s + 3 8", "b s 5", "b s 3", "b n s"]);
}
