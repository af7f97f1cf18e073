//! The shapes and element types that operators make.

use super::extent::Extent;
use super::{Fact, broadcast, fused, pieces};
use crate::graph::Dim;
use crate::graph::node::{DType, Node};

/// The facts of a node's outputs; nothing for an operator that is not known.
pub(super) fn shapes(node: &Node, inputs: &[Fact]) -> Vec<Fact> {
    let none = Fact::default();
    let input = |i: usize| inputs.get(i).unwrap_or(&none);
    let dtype = input(0).dtype;
    let same = |dtype| vec![Fact::new(dtype, input(0).dims.clone())];
    match (node.domain(), node.op()) {
        ("", _) => {}
        // What a host puts in itself.
        ("engraft", "Intercept") => return same(dtype),
        _ => return Vec::new(),
    }
    match node.op() {
        // Of a sequence, its tensors too.
        "Identity" => vec![Fact { value: None, ..input(0).clone() }],
        "Neg" | "Abs" | "Sqrt" | "Exp" | "Log" | "Tanh" | "Sigmoid" | "Erf" | "Relu" | "LeakyRelu" | "Elu" | "Celu"
        | "Selu" | "Softplus" | "Softsign" | "Gelu" | "Swish" | "HardSigmoid" | "HardSwish" | "Mish" | "Sin"
        | "Cos" | "Tan" | "Sinh" | "Cosh" | "Asin" | "Acos" | "Atan" | "Reciprocal" | "Floor" | "Ceil" | "Round"
        | "Sign" | "Not" | "BitwiseNot" | "Clip" | "Softmax" | "LogSoftmax" | "Hardmax" | "CumSum" | "CumProd"
        | "Trilu" | "ScatterND" | "ScatterElements" | "TensorScatter" | "RMSNormalization" | "RotaryEmbedding"
        | "LpNormalization" => same(dtype),
        "Cast" => same(node.int("to").map(|t| DType(t as i32))),
        "CastLike" => same(input(1).dtype),
        "IsNaN" | "IsInf" => same(Some(DType::BOOL)),
        "LayerNormalization" => fused::layer_norm(node, input(0)),
        "Attention" => fused::attention(node, inputs),
        "Einsum" => vec![Fact::new(dtype, fused::einsum(node, inputs))],
        "TopK" => fused::top_k(node, input(0), input(1)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "And" | "Or" | "Xor" | "PRelu" | "Sum"
        | "Mean" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitShift" => {
            vec![Fact::new(dtype, broadcast::all(inputs.iter()))]
        }
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => {
            vec![Fact::new(Some(DType::BOOL), broadcast::all(inputs.iter()))]
        }
        "Where" => vec![Fact::new(input(1).dtype.or(input(2).dtype), broadcast::all(inputs.iter()))],
        "MatMul" => vec![Fact::new(dtype, broadcast::matmul(input(0), input(1)))],
        "MatMulInteger" => vec![Fact::new(Some(DType::I32), broadcast::matmul(input(0), input(1)))],
        "Gemm" => {
            let axis = |fact: &Fact, transposed: Option<i64>, i: usize| {
                let dims = fact.dims.as_ref().filter(|d| d.len() == 2)?;
                Some(dims[if transposed == Some(1) { 1 - i } else { i }].clone())
            };
            let rows = axis(input(0), node.int("transA"), 0);
            let columns = axis(input(1), node.int("transB"), 1);
            vec![Fact::new(dtype, rows.zip(columns).map(|(r, c)| vec![r, c]))]
        }
        "Shape" => {
            let n = input(0).rank().map(|rank| {
                let clamp = |v: i64| at(v, rank).min(rank);
                clamp(node.int("end").unwrap_or(rank as i64)).saturating_sub(clamp(node.int("start").unwrap_or(0)))
            });
            vec![Fact::new(Some(DType::I64), Some(vec![n.map_or_else(|| unknown(node, 0), Dim::Known)]))]
        }
        "Size" => vec![Fact::new(Some(DType::I64), Some(Vec::new()))],
        "Reshape" => vec![Fact::new(dtype, reshape(node, input(0), input(1)))],
        "Transpose" => {
            let dims = input(0).dims.as_ref().map(|dims| match node.ints("perm") {
                Some(perm) => perm.iter().filter_map(|&p| dims.get(at(p, dims.len())).cloned()).collect(),
                None => dims.iter().rev().cloned().collect(),
            });
            vec![Fact::new(dtype, dims)]
        }
        "Flatten" => {
            let dims = input(0).dims.as_ref().map(|dims| {
                let axis = at(node.int("axis").unwrap_or(1), dims.len()).min(dims.len());
                let product = |part: &[Dim], i| Extent::elements(part).map_or_else(|| unknown(node, i), |e| e.dim());
                vec![product(&dims[..axis], 0), product(&dims[axis..], 1)]
            });
            vec![Fact::new(dtype, dims)]
        }
        "Squeeze" => vec![Fact::new(dtype, squeeze(node, input(0), input(1)))],
        "Unsqueeze" => vec![Fact::new(dtype, unsqueeze(node, input(0), input(1)))],
        "Expand" => {
            let target = from_value(node, input(1));
            let dims = match (&input(0).dims, target) {
                (Some(a), Some(b)) => broadcast::pair(a, &b),
                _ => None,
            };
            vec![Fact::new(dtype, dims)]
        }
        "Concat" => vec![Fact::new(dtype, pieces::concat(node, inputs))],
        "Split" => pieces::split(node, input(0), input(1)),
        "SplitToSequence" => vec![pieces::split_to_sequence(node, input(0), input(1))],
        "SequenceConstruct" => vec![Fact { items: inputs.to_vec(), ..Fact::default() }],
        "SequenceAt" => {
            let position = input(1).value.as_ref().and_then(|v| v.first()?.as_ref()?.known());
            let item = position.and_then(|p| input(0).items.get(at(p, input(0).items.len())));
            item.into_iter().cloned().collect()
        }
        "Slice" => vec![Fact::new(dtype, pieces::slice(node, inputs))],
        "Gather" => {
            let dims = input(0).dims.as_ref().zip(input(1).dims.as_ref()).map(|(data, indices)| {
                let axis = at(node.int("axis").unwrap_or(0), data.len()).min(data.len());
                let rest = data.get(axis + 1..).unwrap_or(&[]);
                [&data[..axis], indices, rest].concat()
            });
            vec![Fact::new(dtype, dims)]
        }
        "GatherElements" => vec![Fact::new(dtype, input(1).dims.clone())],
        "GatherND" => {
            let batch = node.int("batch_dims").unwrap_or(0) as usize;
            let dims = input(0).dims.as_ref().zip(input(1).dims.as_ref()).and_then(|(data, indices)| {
                let (last, places) = indices.split_last()?;
                Some([places, data.get(batch + last.known()?..)?].concat())
            });
            vec![Fact::new(dtype, dims)]
        }
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => {
            vec![Fact::new(dtype, reduce(node, input(0), input(1)))]
        }
        "ArgMax" | "ArgMin" => {
            let axis = node.int("axis").unwrap_or(0);
            vec![Fact::new(Some(DType::I64), reduce_axes(input(0), Some(vec![axis]), node.int("keepdims") != Some(0)))]
        }
        "Range" => {
            let element = |i: usize| input(i).value.as_ref().and_then(|v| v.first().cloned().flatten());
            let length = match (element(0), element(1), element(2)) {
                (Some(from), Some(to), Some(step)) => match (from.known(), to.known(), step.known()) {
                    (Some(from), Some(to), Some(step)) => pieces::steps(from, to, step),
                    (_, _, Some(1)) => to.minus(&from).map(|e| e.dim()),
                    _ => None,
                },
                _ => None,
            };
            vec![Fact::new(dtype, Some(vec![length.unwrap_or_else(|| unknown(node, 0))]))]
        }
        "ConstantOfShape" => {
            let dtype = node.tensor("value").map_or(DType::F32, |t| DType(t.data_type));
            vec![Fact::new(Some(dtype), from_value(node, input(0)))]
        }
        "DequantizeLinear" => vec![Fact::new(input(1).dtype, input(0).dims.clone())],
        "QuantizeLinear" => {
            let to = input(2).dtype.or_else(|| node.int("output_dtype").map(|t| DType(t as i32)).filter(|t| t.0 != 0));
            vec![Fact::new(to.or(Some(DType(2))), input(0).dims.clone())]
        }
        "DynamicQuantizeLinear" => {
            let one = |dtype| Fact::new(Some(dtype), Some(Vec::new()));
            vec![Fact::new(Some(DType(2)), input(0).dims.clone()), one(DType::F32), one(DType(2))]
        }
        "Tile" => vec![Fact::new(dtype, pieces::tile(node, input(0), input(1)))],
        "Pad" => vec![Fact::new(dtype, pieces::pad(node, inputs))],
        "EyeLike" => same(node.int("dtype").map(|t| DType(t as i32)).or(dtype)),
        "NonZero" => {
            let rank = input(0).rank().map_or_else(|| unknown(node, 0), Dim::Known);
            vec![Fact::new(Some(DType::I64), Some(vec![rank, unknown(node, 1)]))]
        }
        "Dropout" => vec![Fact::new(dtype, input(0).dims.clone()), Fact::new(Some(DType::BOOL), input(0).dims.clone())],
        "OneHot" => {
            let depth = input(1).value.as_ref().and_then(|v| v.first().cloned().flatten());
            let dims = input(0).dims.as_ref().map(|dims| {
                let axis = at(node.int("axis").unwrap_or(-1), dims.len() + 1);
                let mut dims = dims.clone();
                dims.insert(axis.min(dims.len()), depth.map_or_else(|| unknown(node, axis), |d| d.dim()));
                dims
            });
            vec![Fact::new(input(2).dtype, dims)]
        }
        _ => Vec::new(),
    }
}

/// An axis or position counted from the end where it is negative.
pub(super) fn at(axis: i64, rank: usize) -> usize {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(0)
}

pub(super) fn unknown(node: &Node, axis: usize) -> Dim {
    Extent::unknown(&format!("{}.{axis}", node.output(0))).dim()
}

/// The extents that an integer tensor spells, `?` where an element is not known.
fn from_value(node: &Node, shape: &Fact) -> Option<Vec<Dim>> {
    match &shape.value {
        Some(value) => {
            let dim = |(i, e): (usize, &Option<Extent>)| e.as_ref().map_or_else(|| unknown(node, i), Extent::dim);
            Some(value.iter().enumerate().map(dim).collect())
        }
        None => {
            let rank = shape.dims.as_ref().and_then(|d| d.first()?.known())?;
            Some((0..rank).map(|i| unknown(node, i)).collect())
        }
    }
}

fn reshape(node: &Node, data: &Fact, shape: &Fact) -> Option<Vec<Dim>> {
    let Some(value) = &shape.value else { return from_value(node, shape) };
    let copies = node.int("allowzero").unwrap_or(0) == 0;
    let mut out: Vec<Option<Extent>> = Vec::new();
    let mut open = None;
    for (i, element) in value.iter().enumerate() {
        out.push(match element.as_ref().map(|e| (e, e.known())) {
            Some((_, Some(-1))) => {
                open = Some(i);
                None
            }
            Some((_, Some(0))) if copies => data.dims.as_ref().and_then(|d| d.get(i)).map(Extent::of),
            Some((extent, _)) => Some(extent.clone()),
            None => None,
        });
    }
    if let Some(open) = open
        && let Some(dims) = &data.dims
    {
        let total = Extent::elements(dims);
        let others: Option<Vec<&Extent>> =
            out.iter().enumerate().filter(|(i, _)| *i != open).map(|(_, e)| e.as_ref()).collect();
        out[open] = others.and_then(|others| {
            let product = others.into_iter().try_fold(Extent::number(1), |all, e| all.times(e))?;
            total?.over(&product)
        });
    }
    Some(out.iter().enumerate().map(|(i, e)| e.as_ref().map_or_else(|| unknown(node, i), Extent::dim)).collect())
}

/// The axes of an operator that takes them as an attribute or as input 1, depending on the operator set.
fn axes(node: &Node, input: &Fact) -> Option<Vec<i64>> {
    match (node.ints("axes"), &input.value) {
        (Some(axes), _) => Some(axes.to_vec()),
        (None, Some(value)) => value.iter().map(|e| e.as_ref()?.known()).collect(),
        (None, None) => None,
    }
}

fn squeeze(node: &Node, data: &Fact, second: &Fact) -> Option<Vec<Dim>> {
    let dims = data.dims.as_ref()?;
    let gone: Vec<usize> = match axes(node, second) {
        Some(axes) => axes.iter().map(|&a| at(a, dims.len())).collect(),
        None if node.input(1).is_some() => return None,
        None => (0..dims.len()).filter(|&i| dims[i] == Dim::Known(1)).collect(),
    };
    Some(dims.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, d)| d.clone()).collect())
}

fn unsqueeze(node: &Node, data: &Fact, second: &Fact) -> Option<Vec<Dim>> {
    let dims = data.dims.as_ref()?;
    let new = axes(node, second)?;
    let rank = dims.len() + new.len();
    let new: Vec<usize> = new.iter().map(|&a| at(a, rank)).collect();
    let mut old = dims.iter();
    (0..rank).map(|i| if new.contains(&i) { Some(Dim::Known(1)) } else { old.next().cloned() }).collect()
}

fn reduce(node: &Node, data: &Fact, second: &Fact) -> Option<Vec<Dim>> {
    let keep = node.int("keepdims").unwrap_or(1) != 0;
    let axes = axes(node, second);
    if axes.is_none() && node.input(1).is_some() {
        return None;
    }
    if axes.is_none() && node.int("noop_with_empty_axes") == Some(1) {
        return data.dims.clone();
    }
    reduce_axes(data, axes, keep)
}

fn reduce_axes(data: &Fact, axes: Option<Vec<i64>>, keep: bool) -> Option<Vec<Dim>> {
    let dims = data.dims.as_ref()?;
    let gone: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|&a| at(a, dims.len())).collect(),
        None => (0..dims.len()).collect(),
    };
    let one = |(i, d): (usize, &Dim)| match (gone.contains(&i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
    };
    Some(dims.iter().enumerate().filter_map(one).collect())
}
