//! Every rule against finite differences, at each operator set that changes what is emitted, with extents that are
//! numbers and extents that are only names.

use engraft::graph::{Attr, Patch};
use engraft_plugin_api::Tensor;

use crate::kit::{Told, Trial, positive, random};

const OPSETS: [i64; 5] = [13, 14, 17, 18, 20];

fn ints(dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::i64(dims.to_vec(), values.to_vec()).unwrap()
}

/// One operator of named inputs, all of which are differentiated.
fn operator(opset: i64, op: &str, inputs: &[(&str, Tensor)], attributes: &[(&str, Attr)]) {
    let names: Vec<&str> = inputs.iter().map(|(n, _)| *n).collect();
    let build = |p: &mut Patch<'_>| p.op(op, &names, attributes).unwrap();
    Trial { opset, inputs, wrt: &names, build: &build }.check_all();
}

/// An expression of one input `x`.
fn expression(opsets: &[i64], x: Tensor, build: &dyn Fn(&mut Patch<'_>) -> String) {
    for &opset in opsets {
        Trial { opset, inputs: &[("x", x.clone())], wrt: &["x"], build }.check_all();
    }
}

#[test]
fn elementwise_operators_of_one_input() {
    for op in ["Neg", "Exp", "Tanh", "Sigmoid", "Erf", "Relu", "Abs", "Softplus", "Sin", "Cos", "Identity"] {
        operator(14, op, &[("x", random(&[2, 3], 1))], &[]);
    }
    for op in ["Log", "Sqrt", "Reciprocal"] {
        operator(14, op, &[("x", positive(&[2, 3], 2))], &[]);
    }
    for form in ["none", "tanh"] {
        operator(20, "Gelu", &[("x", random(&[2, 5], 3))], &[("approximate", Attr::Str(form.into()))]);
    }
    operator(14, "Cast", &[("x", random(&[4], 3))], &[("to", Attr::Int(1))]);
}

#[test]
fn elementwise_operators_broadcast_and_sum_back() {
    let shapes: [(&[usize], &[usize]); 6] = [
        (&[2, 3], &[2, 3]),
        (&[2, 3], &[3]),
        (&[2, 3], &[]),
        (&[2, 1, 3], &[4, 1]),
        (&[1], &[2, 2]),
        (&[1, 3], &[2, 1]),
    ];
    for (a, b) in shapes {
        for op in ["Add", "Sub", "Mul", "Div"] {
            operator(14, op, &[("a", random(a, 1)), ("b", random(b, 2))], &[]);
        }
        for op in ["Max", "Min"] {
            operator(14, op, &[("a", random(a, 3)), ("b", random(b, 4))], &[]);
        }
    }
    operator(14, "Sum", &[("a", random(&[2, 3], 1)), ("b", random(&[3], 2)), ("d", random(&[2, 1], 3))], &[]);
    let same = |p: &mut Patch<'_>| p.op("Mul", &["x", "x"], &[]).unwrap();
    expression(&[14], random(&[3], 1), &same);
}

#[test]
fn powers_with_constant_and_given_exponents() {
    for exponent in [1.0, 2.0, 3.0, 0.5, -1.5] {
        expression(&[14], positive(&[2, 3], 1), &|p| {
            let e = p.f32(&[], &[exponent]);
            p.op("Pow", &["x", &e], &[]).unwrap()
        });
    }
    let inputs = [("x", positive(&[2, 3], 1)), ("e", random(&[3], 2))];
    let build = |p: &mut Patch<'_>| p.op("Pow", &["x", "e"], &[]).unwrap();
    Trial { opset: 14, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
}

#[test]
fn choices_and_limits() {
    let inputs = [("t", random(&[2, 1, 3], 1)), ("a", random(&[2, 3], 2)), ("b", random(&[], 3))];
    let build = |p: &mut Patch<'_>| {
        let zero = p.f32(&[], &[0.0]);
        let condition = p.op("Greater", &["t", &zero], &[]).unwrap();
        p.op("Where", &[&condition, "a", "b"], &[]).unwrap()
    };
    Trial { opset: 14, inputs: &inputs, wrt: &["a", "b"], build: &build }.check_all();
    expression(&[14], random(&[8], 4), &|p| {
        let (low, high) = (p.f32(&[], &[-0.5]), p.f32(&[], &[0.6]));
        p.op("Clip", &["x", &low, &high], &[]).unwrap()
    });
}

#[test]
fn products() {
    let shapes: [(&[usize], &[usize]); 7] = [
        (&[3, 4], &[4, 5]),
        (&[2, 3, 4], &[4, 5]),
        (&[2, 2, 3, 4], &[4, 5]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[3, 4], &[2, 4, 5]),
        (&[2, 2, 3, 4], &[1, 2, 4, 5]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
    ];
    for (a, b) in shapes {
        operator(14, "MatMul", &[("a", random(a, 1)), ("b", random(b, 2))], &[]);
    }
    for (ta, tb) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let a: &[usize] = if ta == 0 { &[3, 4] } else { &[4, 3] };
        let b: &[usize] = if tb == 0 { &[4, 5] } else { &[5, 4] };
        for c in [&[5][..], &[3, 5], &[3, 1], &[]] {
            let inputs = [("a", random(a, 1)), ("b", random(b, 2)), ("d", random(c, 3))];
            let attributes = [("transA", Attr::Int(ta)), ("transB", Attr::Int(tb)), ("alpha", Attr::Float(0.5))];
            operator(14, "Gemm", &inputs, &[&attributes[..], &[("beta", Attr::Float(-2.0))]].concat());
        }
    }
    operator(14, "Gemm", &[("a", random(&[3, 4], 1)), ("b", random(&[4, 5], 2))], &[]);
}

/// Attention scores of keys that were transposed before, scaled, and a tied matrix read transposed: nothing is
/// transposed twice and no weight is transposed for the gradient.
#[test]
fn products_of_transposed_operands() {
    let inputs = [("q", random(&[2, 2, 3, 4], 1)), ("k", random(&[2, 3, 2, 4], 2))];
    let build = |p: &mut Patch<'_>| {
        let k = p.op("Transpose", &["k"], &[("perm", Attr::Ints(vec![0, 2, 3, 1]))]).unwrap();
        let scores = p.op("MatMul", &["q", &k], &[]).unwrap();
        let scale = p.f32(&[], &[2.0]);
        p.op("Div", &[&scores, &scale], &[]).unwrap()
    };
    Trial { opset: 14, inputs: &inputs, wrt: &["q", "k"], build: &build }.check_all();
    let inputs = [("x", random(&[2, 3, 4], 1)), ("w", random(&[5, 4], 2))];
    let build = |p: &mut Patch<'_>| {
        let w = p.op("Transpose", &["w"], &[]).unwrap();
        p.op("MatMul", &["x", &w], &[]).unwrap()
    };
    Trial { opset: 14, inputs: &inputs, wrt: &["x", "w"], build: &build }.check_all();
    // Flatten, Gemm, Reshape.
    assert_eq!(Trial { opset: 14, inputs: &inputs, wrt: &["x"], build: &build }.check(Told::Numbers), 3);
}

#[test]
fn movements() {
    let reshape = |target: &'static [i64]| {
        move |p: &mut Patch<'_>| {
            let target = p.i64(&[target.len()], target);
            p.op("Reshape", &["x", &target], &[]).unwrap()
        }
    };
    expression(&OPSETS, random(&[2, 3, 4], 1), &reshape(&[-1, 4]));
    expression(&[14], random(&[2, 3, 4], 1), &reshape(&[0, 12]));
    expression(&[14], random(&[2, 3, 4], 1), &|p| p.op("Flatten", &["x"], &[("axis", Attr::Int(2))]).unwrap());
    expression(&[14], random(&[2, 3, 4], 1), &|p| {
        p.op("Transpose", &["x"], &[("perm", Attr::Ints(vec![2, 0, 1]))]).unwrap()
    });
    expression(&[14], random(&[2, 3], 1), &|p| p.op("Transpose", &["x"], &[]).unwrap());
    expression(&[14], random(&[2, 1, 3], 1), &|p| {
        let axis = p.i64(&[1], &[1]);
        let less = p.op("Squeeze", &["x", &axis], &[]).unwrap();
        p.op("Unsqueeze", &[&less, &axis], &[]).unwrap()
    });
    expression(&[14], random(&[2, 1, 3], 1), &|p| {
        let shape = p.i64(&[4], &[5, 1, 4, 1]);
        p.op("Expand", &["x", &shape], &[]).unwrap()
    });
}

#[test]
fn splits_and_joins() {
    for unused in [false, true] {
        expression(&[14, 18], random(&[2, 6], 1), &|p| {
            let sizes = p.i64(&[3], &[1, 2, 3]);
            let parts = p.op_many("Split", &["x", &sizes], &[("axis", Attr::Int(1))], 3).unwrap();
            let first = p.op("Exp", &[&parts[0]], &[]).unwrap();
            let last = p.op("Mul", &[&parts[2], &first], &[]).unwrap();
            if unused { last } else { p.op("Concat", &[&parts[1], &last], &[("axis", Attr::Int(-1))]).unwrap() }
        });
    }
    for axis in [0, 1] {
        let b: &[usize] = if axis == 0 { &[4, 3] } else { &[2, 5] };
        let inputs = [("a", random(&[2, 3], 1)), ("b", random(b, 2))];
        operator(14, "Concat", &inputs, &[("axis", Attr::Int(axis))]);
    }
    let build = |p: &mut Patch<'_>| {
        let size = p.i64(&[], &[2]);
        let sequence = p.op("SplitToSequence", &["x", &size], &[("axis", Attr::Int(1))]).unwrap();
        let place = |p: &mut Patch<'_>, i| {
            let i = p.i64(&[], &[i]);
            p.op("SequenceAt", &[&sequence, &i], &[]).unwrap()
        };
        let (a, b) = (place(p, 0), place(p, -1));
        let product = p.op("Mul", &[&a, &b], &[]).unwrap();
        p.op("Add", &[&product, &a], &[]).unwrap()
    };
    Trial { opset: 14, inputs: &[("x", random(&[2, 6], 1))], wrt: &["x"], build: &build }.check(Told::Numbers);
}

#[test]
fn slices() {
    // starts, ends, axes, steps
    let cuts: [[&[i64]; 4]; 9] = [
        [&[1], &[3], &[1], &[1]],
        [&[0], &[i64::MAX], &[1], &[1]],
        [&[-2], &[i64::MAX], &[1], &[1]],
        [&[-100], &[2], &[1], &[1]],
        [&[2], &[2], &[1], &[1]],
        [&[1, 0], &[2, -1], &[0, -1], &[1, 1]],
        [&[0], &[i64::MAX], &[1], &[2]],
        [&[-1], &[i64::MIN], &[1], &[-1]],
        [&[1], &[4], &[0], &[1]],
    ];
    for cut in cuts {
        expression(&[13, 17, 20], random(&[4, 5], 1), &|p| {
            let inputs = cut.map(|v| p.i64(&[v.len()], v));
            let refs = inputs.each_ref().map(String::as_str);
            p.op("Slice", &["x", refs[0], refs[1], refs[2], refs[3]], &[]).unwrap()
        });
    }
    // A start that only the run knows.
    let inputs = [("x", random(&[4, 5], 1)), ("s", ints(&[1], &[-3])), ("e", ints(&[1], &[4]))];
    let build = |p: &mut Patch<'_>| {
        let axis = p.i64(&[1], &[1]);
        p.op("Slice", &["x", "s", "e", &axis], &[]).unwrap()
    };
    Trial { opset: 14, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
}

#[test]
fn gathers_add_up_where_an_index_occurs_twice() {
    for opset in [14, 17] {
        for (axis, indices) in [
            (0, ints(&[2, 2], &[1, 0, -1, 1])),
            (1, ints(&[3], &[2, 2, -3])),
            (-1, ints(&[], &[1])),
            (0, ints(&[1], &[-1])),
        ] {
            let inputs = [("x", random(&[3, 3, 2], 1)), ("i", indices)];
            let build = |p: &mut Patch<'_>| p.op("Gather", &["x", "i"], &[("axis", Attr::Int(axis))]).unwrap();
            Trial { opset, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
        }
        // No index at all, and a table that is too large to be made of constants.
        for (table, indices) in [(&[3, 2][..], ints(&[0], &[])), (&[200, 100], ints(&[3], &[199, 0, 199]))] {
            let inputs = [("x", random(table, 1)), ("i", indices)];
            let build = |p: &mut Patch<'_>| p.op("Gather", &["x", "i"], &[]).unwrap();
            Trial { opset, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
        }
        for indices in
            [ints(&[3, 2], &[0, 1, -1, 2, 0, 1]), ints(&[2, 1], &[1, 1]), ints(&[1, 2, 3], &[0, 1, 1, 2, 2, 0])]
        {
            let inputs = [("x", random(&[3, 3, 2], 1)), ("i", indices)];
            let build = |p: &mut Patch<'_>| p.op("GatherND", &["x", "i"], &[]).unwrap();
            let trial = Trial { opset, inputs: &inputs, wrt: &["x"], build: &build };
            trial.check(Told::Numbers);
            if opset >= 16 {
                trial.check(Told::Names);
            }
        }
    }
    let inputs = [("x", random(&[3, 2], 1)), ("i", ints(&[4, 2], &[0, 1, 2, 1, -1, 0, 2, 1]))];
    let build = |p: &mut Patch<'_>| p.op("GatherElements", &["x", "i"], &[("axis", Attr::Int(0))]).unwrap();
    Trial { opset: 17, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
}

#[test]
fn scatters() {
    for (opset, reduction) in [(14, None), (17, None), (17, Some("add"))] {
        let mut attributes: Vec<(&str, Attr)> = Vec::new();
        if let Some(reduction) = reduction {
            attributes.push(("reduction", Attr::Str(reduction.into())));
        }
        let inputs = [("x", random(&[3, 3, 2], 1)), ("i", ints(&[2, 2], &[0, 1, 2, -1])), ("u", random(&[2, 2], 2))];
        let build = |p: &mut Patch<'_>| p.op("ScatterND", &["x", "i", "u"], &attributes).unwrap();
        Trial { opset, inputs: &inputs, wrt: &["x", "u"], build: &build }.check_all();
        let along = [&attributes[..], &[("axis", Attr::Int(1))]].concat();
        let inputs = [("x", random(&[2, 3], 1)), ("i", ints(&[2, 2], &[0, 1, 2, -2])), ("u", random(&[2, 2], 2))];
        let build = |p: &mut Patch<'_>| p.op("ScatterElements", &["x", "i", "u"], &along).unwrap();
        Trial { opset, inputs: &inputs, wrt: &["x", "u"], build: &build }.check_all();
    }
}

#[test]
fn reductions() {
    for opset in OPSETS {
        for op in ["ReduceSum", "ReduceMean"] {
            for keep in [0, 1] {
                for axes in [&[-1i64][..], &[0, 2], &[]] {
                    expression(&[opset], random(&[2, 3, 4], 1), &|p| {
                        let keep = ("keepdims", Attr::Int(keep));
                        // The exponential makes the gradient depend on x; the product needs it in full.
                        let x = p.op("Exp", &["x"], &[]).unwrap();
                        if axes.is_empty() {
                            return p.op(op, &[&x], &[keep]).unwrap();
                        }
                        if op == "ReduceSum" || opset >= 18 {
                            let axes = p.i64(&[axes.len()], axes);
                            p.op(op, &[&x, &axes], &[keep]).unwrap()
                        } else {
                            p.op(op, &[&x], &[keep, ("axes", Attr::Ints(axes.to_vec()))]).unwrap()
                        }
                    });
                }
            }
        }
    }
    for op in ["Softmax", "LogSoftmax"] {
        for axis in [-1, 0] {
            operator(14, op, &[("x", random(&[3, 4], 1))], &[("axis", Attr::Int(axis))]);
        }
    }
}

#[test]
fn layer_norms() {
    for axis in [-1, 1] {
        let scale: &[usize] = if axis == -1 { &[6] } else { &[3, 6] };
        let inputs = [("x", random(&[2, 3, 6], 1)), ("s", random(scale, 2)), ("b", random(scale, 3))];
        operator(17, "LayerNormalization", &inputs, &[("axis", Attr::Int(axis)), ("epsilon", Attr::Float(1e-3))]);
        operator(20, "LayerNormalization", &inputs[..2], &[("axis", Attr::Int(axis))]);
    }
    // Spelled out, as exports before operator set 17 do.
    let inputs = [("x", random(&[2, 3, 6], 1)), ("s", random(&[6], 2))];
    let build = |p: &mut Patch<'_>| {
        let last = [("axes", Attr::Ints(vec![-1]))];
        let mean = p.op("ReduceMean", &["x"], &last).unwrap();
        let centred = p.op("Sub", &["x", &mean], &[]).unwrap();
        let two = p.f32(&[], &[2.0]);
        let square = p.op("Pow", &[&centred, &two], &[]).unwrap();
        let variance = p.op("ReduceMean", &[&square], &last).unwrap();
        let epsilon = p.f32(&[], &[1e-5]);
        let shifted = p.op("Add", &[&variance, &epsilon], &[]).unwrap();
        let deviation = p.op("Sqrt", &[&shifted], &[]).unwrap();
        let unit = p.op("Div", &[&centred, &deviation], &[]).unwrap();
        p.op("Mul", &[&unit, "s"], &[]).unwrap()
    };
    Trial { opset: 14, inputs: &inputs, wrt: &["x", "s"], build: &build }.check_all();
}
