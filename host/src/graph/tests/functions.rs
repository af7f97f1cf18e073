//! Model-local functions: put in where that is exact, refused elsewhere.

use std::path::Path;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, FunctionProto, Message, ModelProto, NodeProto, OperatorSetIdProto};

use super::super::{DType, Dim, Graph, Patch, Shapes, dump};
use super::code;
use crate::base::Result;

fn node(op: &str, domain: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    NodeProto {
        op_type: op.into(),
        domain: domain.into(),
        input: owned(inputs),
        output: owned(outputs),
        ..Default::default()
    }
}

fn axis(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}

fn reference(name: &str, to: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: to.into(), ..axis(name, 0) }
}

fn set(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version, ..Default::default() }
}

/// f(x, [shift]; axis, keep = 0) = (max x over axis, x, softmax of x clipped at shift), through another function for the last.
fn functions() -> Vec<FunctionProto> {
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    let mut soft = node("Softmax", "", &["in"], &["out"]);
    soft.attribute.push(reference("axis", "dim"));
    let inner = FunctionProto {
        name: "soft".into(),
        domain: "local".into(),
        input: names(&["in"]),
        output: names(&["out"]),
        attribute: names(&["dim"]),
        node: vec![soft],
        opset_import: vec![set("", 17)],
        ..Default::default()
    };
    let mut top = node("ArgMax", "", &["x"], &["top"]);
    top.attribute.extend([reference("axis", "axis"), reference("keepdims", "keep")]);
    let mut call = node("soft", "local", &["sum"], &["soft"]);
    call.attribute.push(reference("dim", "axis"));
    let outer = FunctionProto {
        name: "f".into(),
        domain: "local".into(),
        input: names(&["x", "shift"]),
        output: names(&["top", "x", "soft"]),
        attribute: names(&["axis"]),
        attribute_proto: vec![axis("keep", 0)],
        node: vec![top, node("Clip", "", &["x", "shift"], &["sum"]), call],
        opset_import: vec![set("", 17), set("local", 1)],
        ..Default::default()
    };
    vec![outer, inner]
}

/// Two calls of `f`, the second on what the first made.
fn model(change: impl FnOnce(&mut ModelProto)) -> Result<Graph> {
    let empty = Graph::empty(17);
    let mut patch = Patch::new(&empty);
    patch.input("a", DType::F32, vec![Dim::symbol("n"), Dim::Known(4)]).unwrap();
    let end = patch.op("Identity", &["a"], &[]).unwrap();
    patch.tap(&end, DType::F32).unwrap();
    let bytes = patch.apply().unwrap().to_bytes().unwrap();
    let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
    model.functions = functions();
    model.opset_import.push(set("local", 1));
    let graph = model.graph.as_mut().unwrap();
    let mut first = node("f", "local", &["a", "a"], &["", "copy", "sum"]);
    let mut second = node("f", "local", &["sum"], &["best", "", "end"]);
    for (call, name, value) in [(&mut first, "one", -1), (&mut second, "two", 0)] {
        call.name = name.into();
        call.attribute.push(axis("axis", value));
    }
    second.attribute.push(axis("keep", 1));
    graph.node = vec![first, second, node("Mul", "", &["copy", "end"], &[&end])];
    change(&mut model);
    Graph::parse(&model.write_to_bytes().unwrap(), Path::new("model.onnx"))
}

#[test]
fn calls_become_the_nodes_of_their_functions() {
    let graph = model(|_| {}).unwrap();
    let text = dump(&graph, Some(&Shapes::infer(&graph).unwrap()));
    let nodes: Vec<&str> = text.lines().filter(|l| l.contains(" = ")).collect();
    // The inner edge `sum` does not clash with the model's own, and an absent input stays absent.
    let expected = [
        "one/top: int64[n] = ArgMax(a) axis=-1 keepdims=0",
        "one/sum: float32[n, 4] = Clip(a, a)",
        "sum: float32[n, 4] = Softmax(one/sum) axis=-1",
        "copy: float32[n, 4] = Identity(a)",
        "best: int64[1, 4] = ArgMax(sum) axis=0 keepdims=1",
        "two/sum: float32[n, 4] = Clip(sum, )",
        "end: float32[n, 4] = Softmax(two/sum) axis=0",
    ];
    assert_eq!(nodes[..7], expected, "{text}");
    let written = ModelProto::parse_from_bytes(&graph.to_bytes().unwrap()).unwrap();
    assert!(written.functions.is_empty() && written.opset_import.iter().all(|o| o.domain.is_empty()));
}

#[test]
fn functions_that_are_not_exact_are_refused() {
    let refused = |change: &dyn Fn(&mut Vec<FunctionProto>)| code(model(|m| change(&mut m.functions)));
    assert_eq!(refused(&|f| f[1].node[0] = node("soft", "local", &["in"], &["out"])), "graph-invalid");
    assert_eq!(refused(&|f| f[1].node[0] = node("f", "local", &["in"], &["out"])), "graph-invalid");
    assert_eq!(refused(&|f| f[1].node[0].attribute[0].ref_attr_name = "nothing".into()), "graph-invalid");
    assert_eq!(refused(&|f| f[0].attribute_proto[0].type_ = AttributeType::FLOAT.into()), "graph-invalid");
    assert_eq!(refused(&|f| f[0].input.truncate(1)), "graph-invalid");
    assert_eq!(refused(&|f| f[0].opset_import[0].version = 18), "graph-unsupported");
    assert_eq!(refused(&|f| f.push(f[0].clone())), "graph-invalid");
    // Functions that multiply each other.
    let many = |i: usize, next: &str| FunctionProto {
        name: format!("d{i}"),
        domain: "local".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        node: (0..64).map(|k| node(next, "local", &["x"], &[if k == 0 { "y" } else { "" }])).collect(),
        ..Default::default()
    };
    let bomb = model(|m| {
        m.functions.extend((0..60).map(|i| many(i, &format!("d{}", i + 1))));
        m.graph.as_mut().unwrap().node.insert(0, node("d0", "local", &["a"], &["unused"]));
    });
    assert_eq!(code(bomb), "graph-unsupported");
}
