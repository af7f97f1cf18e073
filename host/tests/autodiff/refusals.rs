//! What is refused, before anything is added, and what has no gradient.

use engraft::autodiff::{Seed, gradients};
use engraft::graph::{Attr, DType, Dim, Graph, Patch, Shapes};

fn graph(opset: i64, build: impl Fn(&mut Patch<'_>) -> String) -> (Graph, Vec<Seed>) {
    let empty = Graph::empty(opset);
    let mut patch = Patch::new(&empty);
    patch.input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
    patch.input("w", DType::F32, vec![Dim::symbol("n")]).unwrap();
    patch.input("unread", DType::F32, vec![]).unwrap();
    let out = build(&mut patch);
    patch.tap(&out, DType::F32).unwrap();
    (patch.apply().unwrap(), vec![Seed { edge: out, cotangent: "w".into() }])
}

#[test]
fn an_operator_without_a_rule_is_named_with_the_path_to_it() {
    let (graph, seeds) = graph(17, |p| {
        let a = p.op("Exp", &["x"], &[]).unwrap();
        let b = p.op("LpNormalization", &[&a], &[]).unwrap();
        p.op("Mul", &[&b, "w"], &[]).unwrap()
    });
    let shapes = Shapes::infer(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let error = gradients(&mut patch, &shapes, &seeds, &["x"]).unwrap_err();
    assert_eq!(error.code().id, "gradient-missing");
    for words in ["LpNormalization `engraft.LpNormalization`", "no gradient rule", "`x` -> `engraft.Exp:0`"] {
        assert!(error.message().contains(words), "{error}");
    }
    assert_eq!(patch.apply().unwrap().nodes().len(), graph.nodes().len());
    // It does not matter where it is not on the way.
    let mut patch = Patch::new(&graph);
    let early = [Seed { edge: "engraft.Exp:0".into(), cotangent: "w".into() }];
    assert!(gradients(&mut patch, &shapes, &early, &["x"]).unwrap()[0].is_some());
}

#[test]
fn a_use_that_a_rule_does_not_cover_is_named_with_the_reason() {
    let (graph, seeds) = graph(17, |p| p.op("Pow", &["w", "x"], &[]).unwrap());
    let error = gradients(&mut Patch::new(&graph), &Shapes::infer(&graph).unwrap(), &seeds, &["x"]).unwrap_err();
    assert!(error.message().contains("its exponent depends on the variable"), "{error}");
}

#[test]
fn edges_that_do_not_exist_and_old_operator_sets_are_refused() {
    let (graph, seeds) = graph(17, |p| p.op("Exp", &["x"], &[]).unwrap());
    let shapes = Shapes::infer(&graph).unwrap();
    let error = gradients(&mut Patch::new(&graph), &shapes, &seeds, &["y"]).unwrap_err();
    assert_eq!(error.code().id, "gradient-edge");
    let (graph, seeds) = self::graph(12, |p| p.op("Exp", &["x"], &[]).unwrap());
    let error = gradients(&mut Patch::new(&graph), &shapes, &seeds, &["x"]).unwrap_err();
    assert_eq!(error.code().id, "gradient-opset");
}

#[test]
fn conditions_shapes_and_integers_carry_no_gradient() {
    let (graph, seeds) = graph(17, |p| {
        let zero = p.f32(&[], &[0.0]);
        let condition = p.op("Greater", &["x", &zero], &[]).unwrap();
        let shape = p.op("Shape", &["x"], &[]).unwrap();
        let other = p.op("Expand", &[&zero, &shape], &[]).unwrap();
        let whole = p.op("Cast", &["x"], &[("to", Attr::Int(7))]).unwrap();
        let back = p.op("Cast", &[&whole], &[("to", Attr::Int(1))]).unwrap();
        let rest = p.op("Add", &[&other, &back], &[]).unwrap();
        p.op("Where", &[&condition, "w", &rest], &[]).unwrap()
    });
    let shapes = Shapes::infer(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let found = gradients(&mut patch, &shapes, &seeds, &["x", "w", "unread"]).unwrap();
    assert!(found[0].is_none() && found[2].is_none());
    assert!(found[1].is_some());
}

#[test]
fn a_seed_at_the_variable_itself_counts_and_sums() {
    let (graph, mut seeds) = graph(17, |p| p.op("Neg", &["x"], &[]).unwrap());
    seeds.push(Seed { edge: "x".into(), cotangent: "w".into() });
    let shapes = Shapes::infer(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let found = gradients(&mut patch, &shapes, &seeds, &["x"]).unwrap().remove(0).unwrap();
    let patched = {
        patch.tap(&found, DType::F32).unwrap();
        patch.apply().unwrap()
    };
    assert!(engraft::graph::dump(&patched, None).contains(&format!("{found} = Sub(w, w)")));
}
