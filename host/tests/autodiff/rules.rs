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
fn activation_functions() {
    let x = || [("x", wide(&[2, 6], 3))];
    for op in ["HardSwish", "Softsign", "Elu", "Celu", "Selu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu"] {
        operator(14, op, &x(), &[]);
    }
    for op in ["Elu", "Celu", "LeakyRelu", "HardSigmoid"] {
        operator(14, op, &x(), &[("alpha", Attr::Float(0.3))]);
    }
    operator(18, "Mish", &x(), &[]);
    operator(16, "PRelu", &[("x", wide(&[2, 3], 3)), ("s", random(&[3], 4))], &[]);
    operator(24, "Swish", &x(), &[]);
    operator(24, "Swish", &x(), &[("alpha", Attr::Float(1.7))]);
    // x·σ(1.702·x), and the tanh form of GELU, as older exports spell them.
    expression(&[14], wide(&[2, 6], 3), &|p| {
        let factor = p.f32(&[], &[1.702]);
        let part = p.op("Mul", &["x", &factor], &[]).unwrap();
        let gate = p.op("Sigmoid", &[&part], &[]).unwrap();
        p.op("Mul", &["x", &gate], &[]).unwrap()
    });
    expression(&[14], wide(&[2, 6], 3), &|p| {
        let [three, a, root, one, half] = [3.0, 0.044715, 0.797_884_6, 1.0, 0.5].map(|v| p.f32(&[], &[v]));
        let cube = p.op("Pow", &["x", &three], &[]).unwrap();
        let part = p.op("Mul", &[&cube, &a], &[]).unwrap();
        let sum = p.op("Add", &["x", &part], &[]).unwrap();
        let inner = p.op("Mul", &[&sum, &root], &[]).unwrap();
        let tanh = p.op("Tanh", &[&inner], &[]).unwrap();
        let gate = p.op("Add", &[&tanh, &one], &[]).unwrap();
        let left = p.op("Mul", &["x", &half], &[]).unwrap();
        p.op("Mul", &[&left, &gate], &[]).unwrap()
    });
}

/// Numbers in (−4, 4), away from 0.
fn wide(dims: &[usize], seed: u64) -> Tensor {
    let values = crate::kit::floats(&random(dims, seed)).iter().map(|v| 4.0 * v).collect();
    Tensor::f32(dims.to_vec(), values).unwrap()
}

#[test]
fn the_largest_of_several_and_means() {
    let inputs = [("a", random(&[2, 3], 1)), ("b", random(&[3], 2)), ("d", random(&[2, 1], 3))];
    for op in ["Max", "Min", "Mean"] {
        operator(14, op, &inputs, &[]);
        operator(14, op, &inputs[..1], &[]);
    }
    // Equal operands: the first alone has the gradient.
    let build = |p: &mut Patch<'_>| p.op("Max", &["x", "x", "y"], &[]).unwrap();
    let inputs = [("x", random(&[4], 1)), ("y", random(&[4], 2))];
    Trial { opset: 14, inputs: &inputs, wrt: &["x", "y"], build: &build }.check_all();
}

#[test]
fn sums_along_axes_triangles_tiles_and_margins() {
    for (exclusive, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let build = |p: &mut Patch<'_>| {
            let axis = p.i64(&[], &[1]);
            let attributes = [("exclusive", Attr::Int(exclusive)), ("reverse", Attr::Int(reverse))];
            p.op("CumSum", &["x", &axis], &attributes).unwrap()
        };
        expression(&[14], random(&[2, 4], 1), &build);
    }
    for (upper, k) in [(1, 0), (0, 0), (0, -1), (1, 1)] {
        expression(&[14], random(&[2, 3, 4], 1), &|p| {
            let k = p.i64(&[], &[k]);
            p.op("Trilu", &["x", &k], &[("upper", Attr::Int(upper))]).unwrap()
        });
    }
    expression(&[14, 20], random(&[2, 1, 3], 1), &|p| {
        let repeats = p.i64(&[3], &[1, 4, 2]);
        let x = p.op("Exp", &["x"], &[]).unwrap();
        p.op("Tile", &[&x, &repeats], &[]).unwrap()
    });
    expression(&[14, 20], random(&[2, 3], 1), &|p| {
        let pads = p.i64(&[4], &[0, 2, 1, -1]);
        p.op("Pad", &["x", &pads], &[]).unwrap()
    });
    expression(&[18], random(&[2, 3], 1), &|p| {
        let (pads, axis) = (p.i64(&[2], &[1, 2]), p.i64(&[1], &[-1]));
        p.op("Pad", &["x", &pads, "", &axis], &[]).unwrap()
    });
    expression(&[14], random(&[3, 6], 1), &|p| {
        let k = p.i64(&[1], &[2]);
        p.op_many("TopK", &["x", &k], &[], 2).unwrap().remove(0)
    });
}

#[test]
fn a_past_of_no_token_is_joined_as_nothing() {
    for past in [0, 2] {
        let inputs = [("past", random(&[2, past, 2], 1)), ("x", random(&[2, 2, 2], 2))];
        let build = |p: &mut Patch<'_>| {
            let all = p.op("Concat", &["past", "x"], &[("axis", Attr::Int(-2))]).unwrap();
            p.op("Mul", &[&all, &all], &[]).unwrap()
        };
        Trial { opset: 17, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
    }
}

#[test]
fn sums_of_products_by_equation() {
    let cases: [(&str, &[usize], &[usize]); 5] = [
        ("bhid,bhjd->bhij", &[2, 2, 3, 4], &[2, 2, 5, 4]),
        ("bij , bj -> bi", &[2, 3, 4], &[2, 4]),
        ("i,j->ij", &[3], &[4]),
        ("bij,jk", &[2, 3, 4], &[4, 2]),
        ("bij,k->bk", &[2, 3, 4], &[5]),
    ];
    for (equation, a, b) in cases {
        let inputs = [("a", random(a, 1)), ("b", random(b, 2))];
        operator(14, "Einsum", &inputs, &[("equation", Attr::Str(equation.into()))]);
    }
    operator(14, "Einsum", &[("a", random(&[2, 3], 1))], &[("equation", Attr::Str("ij->ji".into()))]);
}

/// The probabilities of a row that sees nothing are replaced by zeros, and its gradient is zero, not "no number".
#[test]
fn a_row_that_sees_nothing_has_no_gradient() {
    let build = |p: &mut Patch<'_>| {
        let mask =
            p.f32(&[2, 3], &[0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        let (scores, zero) = (p.op("Add", &["x", &mask], &[]).unwrap(), p.f32(&[], &[0.0]));
        let rows = p.op("Softmax", &[&scores], &[("axis", Attr::Int(-1))]).unwrap();
        let nothing = p.op("IsNaN", &[&rows], &[]).unwrap();
        p.op("Where", &[&nothing, &zero, &rows], &[]).unwrap()
    };
    expression(&[14], random(&[2, 3], 1), &build);
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
        let split = p.op("SplitToSequence", &["x", &size], &[("axis", Attr::Int(1))]).unwrap();
        let sequence = p.op("Identity", &[&split], &[]).unwrap();
        let place = |p: &mut Patch<'_>, i| {
            let i = p.i64(&[], &[i]);
            p.op("SequenceAt", &[&sequence, &i], &[]).unwrap()
        };
        let (a, b) = (place(p, 0), place(p, -1));
        let product = p.op("Mul", &[&a, &b], &[]).unwrap();
        // The sequence is read past its copy too.
        let first = p.i64(&[], &[0]);
        let a = p.op("SequenceAt", &[&split, &first], &[]).unwrap();
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
    for op in ["ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"] {
        for (opset, axes) in [(14, &[1i64][..]), (18, &[-1, 0]), (18, &[])] {
            for keep in [0, 1] {
                expression(&[opset], random(&[2, 3, 4], 1), &|p| {
                    let keep = ("keepdims", Attr::Int(keep));
                    if axes.is_empty() {
                        p.op(op, &["x"], &[keep]).unwrap()
                    } else if opset >= 18 {
                        let axes = p.i64(&[axes.len()], axes);
                        p.op(op, &["x", &axes], &[keep]).unwrap()
                    } else {
                        p.op(op, &["x"], &[keep, ("axes", Attr::Ints(axes.to_vec()))]).unwrap()
                    }
                });
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
