//! Patches and slices.

use std::collections::HashSet;

use super::super::{Attr, DType, Dim, Graph, Initializer, Patch, Shapes, Slice, downstream, upstream};
use super::{code, zoo};

fn graph() -> Graph {
    Graph::load(&zoo("dynamo-mask")).unwrap()
}

#[test]
fn a_shunt_reaches_the_readers_of_the_base_and_not_the_patch() {
    let base = graph();
    let edge = "add_5";
    let readers: Vec<String> = base.index().consumers(edge).map(|(n, _)| n.output(0).to_owned()).collect();
    let mut patch = Patch::new(&base);
    let input = patch.input("engraft.add", DType::F32, vec![Dim::symbol("batch"), Dim::Known(32)]).unwrap();
    let axis = patch.i64(&[1], &[1]);
    let wide = patch.op("Unsqueeze", &[&input, &axis], &[]).unwrap();
    let sum = patch.op("Add", &[edge, &wide], &[]).unwrap();
    patch.shunt(edge, &sum).unwrap();
    assert_eq!(patch.current(edge), sum);
    patch.tap(edge, DType::F32).unwrap();
    let new = patch.apply().unwrap();
    let index = new.index();
    assert_eq!(index.consumers(edge).map(|(n, _)| n.output(0)).collect::<Vec<_>>(), [sum.as_str()]);
    for reader in &readers {
        assert!(index.producer(reader).unwrap().inputs().contains(&sum), "{reader}");
    }
    // Every edge is made before it is read, and the file can be read again.
    let again = Graph::parse(&new.to_bytes().unwrap(), &zoo("dynamo-mask").join("model.onnx")).unwrap();
    assert_eq!(again.nodes(), new.nodes());
    assert_eq!(new.outputs().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["logits", edge]);
    assert_eq!(new.nodes().len(), base.nodes().len() + 2);
    assert_eq!(Shapes::infer(&new).unwrap().dims(&sum).unwrap()[2], Dim::Known(32));
    // The base is as it was.
    assert_eq!(base.nodes(), graph().nodes());
}

#[test]
fn a_reroute_changes_one_reader_and_goes_before_a_shunt() {
    let base = graph();
    let mut patch = Patch::new(&base);
    let double = patch.op("Add", &["add_5", "add_5"], &[]).unwrap();
    let half = patch.op("Neg", &["add_5"], &[]).unwrap();
    patch.shunt("add_5", &double).unwrap();
    patch.reroute("layer_norm_1", 0, &half).unwrap();
    assert_eq!(patch.current_input("layer_norm_1", 0), Some(half.clone()));
    assert_eq!(patch.current_input("add_8", 0), Some(double.clone()));
    let new = patch.apply().unwrap();
    assert_eq!(new.index().producer("layer_norm_1").unwrap().input(0), Some(half.as_str()));
    assert_eq!(new.index().producer("add_8").unwrap().input(0), Some(double.as_str()));
}

#[test]
fn what_the_file_says_of_shapes_is_forgotten_behind_a_change() {
    let base = graph();
    let said = |graph: &Graph| graph.stated().into_iter().map(|p| p.name).collect::<HashSet<_>>();
    assert!(said(&base).contains("add_5") && said(&base).contains("layer_norm_1"));
    let mut patch = Patch::new(&base);
    let (first, axis) = (patch.i64(&[1], &[0]), patch.i64(&[1], &[1]));
    let one = patch.op("Gather", &["add_5", &first], &[("axis", Attr::Int(1))]).unwrap();
    patch.shunt("add_5", &one).unwrap();
    patch.tap(&axis, DType::I64).unwrap();
    let patched = patch.apply().unwrap();
    assert!(said(&patched).contains("add_5") && !said(&patched).contains("layer_norm_1"));
    let shapes = Shapes::infer(&patched).unwrap();
    assert_eq!(shapes.dims("layer_norm_1").unwrap(), [Dim::symbol("batch"), Dim::Known(1), Dim::Known(32)]);
    // Outputs too.
    let last = base.index().producer("logits").unwrap().input(0).unwrap().to_owned();
    let mut patch = Patch::new(&base);
    let rows = patch.op("Flatten", &[&last], &[("axis", Attr::Int(-1))]).unwrap();
    patch.shunt(&last, &rows).unwrap();
    assert!(base.outputs()[0].dims.is_some() && patch.apply().unwrap().outputs()[0].dims.is_none());
    // A change that keeps the shapes keeps what is said of them, and so does a patch that only reads.
    let mut patch = Patch::new(&base);
    let same = patch.op("Neg", &["add_5"], &[]).unwrap();
    patch.shunt("add_5", &same).unwrap();
    assert_eq!(said(&patch.apply().unwrap()), said(&base));
    let mut patch = Patch::new(&base);
    patch.tap("add_5", DType::F32).unwrap();
    assert_eq!(said(&patch.apply().unwrap()), said(&base));
}

#[test]
fn what_does_not_fit_is_refused_when_recorded_and_nothing_is_applied() {
    let base = graph();
    let mut patch = Patch::new(&base);
    let invalid = "graph-patch-invalid";
    assert_eq!(code(patch.op("Neg", &["nowhere"], &[])), invalid);
    assert_eq!(code(patch.shunt("nowhere", "add_5")), invalid);
    assert_eq!(code(patch.shunt("add_5", "nowhere")), invalid);
    assert_eq!(code(patch.reroute("layer_norm_1", 9, "add_5")), invalid);
    assert_eq!(code(patch.reroute("input_ids", 0, "add_5")), invalid);
    assert_eq!(code(patch.tap("nowhere", DType::F32)), invalid);
    assert_eq!(code(patch.input("add_5", DType::F32, vec![])), invalid);
    assert_eq!(patch.apply().unwrap().nodes(), base.nodes());
    // A constant that does not fill its shape.
    let mut patch = Patch::new(&base);
    patch.f32(&[3], &[1.0]);
    assert_eq!(code(patch.apply()), invalid);
}

#[test]
fn a_constant_does_not_take_the_name_of_what_a_node_makes() {
    let graph = graph();
    let made = graph.nodes()[0].output(0).to_owned();
    let mut patch = Patch::new(&graph);
    patch.constant(Initializer::f32(&made, &[1], &[0.0]));
    assert_eq!(code(patch.apply()), "graph-patch-invalid");
}

#[test]
fn a_cycle_is_refused() {
    let base = graph();
    let mut patch = Patch::new(&base);
    let later = patch.op("Neg", &["add_8"], &[]).unwrap();
    patch.shunt("add_5", &later).unwrap();
    assert_eq!(code(patch.apply()), "graph-patch-invalid");
    assert_eq!(base.nodes(), graph().nodes());
}

#[test]
fn the_same_recording_gives_the_same_graph_and_names_never_clash() {
    let base = graph();
    let record = || {
        let mut patch = Patch::new(&base);
        let a = patch.op("Softmax", &["add_5"], &[("axis", Attr::Int(-1))]).unwrap();
        let b = patch.op("Softmax", &[&a], &[("axis", Attr::Int(-1))]).unwrap();
        patch.tap(&b, DType::F32).unwrap();
        patch.drop_outputs();
        (b, patch.apply().unwrap())
    };
    let ((edge, first), (_, second)) = (record(), record());
    assert_eq!(first.to_bytes().unwrap(), second.to_bytes().unwrap());
    // A patch of a patched graph finds the first one's names taken.
    let mut patch = Patch::new(&first);
    let next = patch.op("Softmax", &[&edge], &[]).unwrap();
    assert!(first.nodes().iter().all(|n| !n.outputs().contains(&next)));
    patch.apply().unwrap();
}

#[test]
fn a_slice_holds_what_its_outputs_need_from_the_cut_on() {
    let base = graph();
    let shapes = Shapes::infer(&base).unwrap();
    let whole = Slice::between(&base, &shapes, &["add_8"], &["logits"]).unwrap();
    assert_eq!(whole.fed, ["add_8"]);
    assert!(whole.graph.nodes().len() < base.nodes().len() * 3 / 4);
    assert!(whole.graph.initializer("transformer.h.0.mlp.c_fc.weight").is_none());
    assert!(whole.graph.initializer("transformer.h.1.mlp.c_fc.weight").is_some());
    let inputs = whole.graph.inputs();
    let fed = inputs.iter().find(|p| p.name == "add_8").unwrap();
    assert_eq!((fed.dtype, fed.dims.as_deref()), (DType::F32, shapes.dims("add_8")));
    assert!(Shapes::infer(&whole.graph).unwrap().dims("logits").is_some());
    Graph::parse(&whole.graph.to_bytes().unwrap(), &base.folder().join("model.onnx")).unwrap();
    // A cut that the outputs do not need is not fed; an output that is a cut needs nothing.
    let none = Slice::between(&base, &shapes, &["add_8", "layer_norm"], &["logits"]).unwrap();
    assert_eq!(none.fed, ["add_8"]);
    assert!(Slice::between(&base, &shapes, &["add_8"], &["add_8"]).unwrap().graph.nodes().is_empty());
    assert_eq!(code(Slice::between(&base, &shapes, &[], &["nowhere"])), "graph-patch-invalid");
}

#[test]
fn upstream_and_downstream_meet_at_an_edge() {
    let base = graph();
    let index = base.index();
    let after = downstream(&index, ["add_5"]);
    let before = upstream(&index, ["add_5"], &HashSet::new());
    assert!(after.is_disjoint(&before));
    let (made, norm) = (index.producer_id("add_5").unwrap(), index.producer_id("layer_norm_1").unwrap());
    assert!(before.contains(&made) && !after.contains(&made) && after.contains(&norm));
    assert!(after.contains(&index.producer_id("logits").unwrap()));
    let stopped = upstream(&index, ["logits"], &HashSet::from(["add_5"]));
    assert!(!stopped.contains(&made) && stopped.contains(&norm));
}
