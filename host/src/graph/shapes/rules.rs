//! The shapes and element types that operators make.

use super::extent::Extent;
use super::{FOLLOWED, Fact};
use crate::graph::Dim;
use crate::graph::node::{DType, Node};

/// The facts of a node's outputs; nothing for an operator that is not known.
pub(super) fn shapes(node: &Node, inputs: &[Fact]) -> Vec<Fact> {
    let none = Fact::default();
    let input = |i: usize| inputs.get(i).unwrap_or(&none);
    let dtype = input(0).dtype;
    if !node.domain().is_empty() {
        return Vec::new();
    }
    let same = |dtype| vec![Fact::new(dtype, input(0).dims.clone())];
    match node.op() {
        "Identity" | "Neg" | "Abs" | "Sqrt" | "Exp" | "Log" | "Tanh" | "Sigmoid" | "Erf" | "Relu" | "LeakyRelu"
        | "Elu" | "Softplus" | "Gelu" | "HardSigmoid" | "Sin" | "Cos" | "Reciprocal" | "Floor" | "Ceil" | "Round"
        | "Sign" | "Not" | "Clip" | "Softmax" | "LogSoftmax" | "CumSum" | "Trilu" | "ScatterND" | "ScatterElements"
        | "RMSNormalization" => same(dtype),
        "Cast" => same(node.int("to").map(|t| DType(t as i32))),
        "CastLike" => same(input(1).dtype),
        "IsNaN" | "IsInf" => same(Some(DType::BOOL)),
        "LayerNormalization" => {
            let axis = at(node.int("axis").unwrap_or(-1), input(0).rank().unwrap_or(0));
            let reduced = input(0).dims.clone().map(|mut dims| {
                dims.iter_mut().skip(axis).for_each(|d| *d = Dim::Known(1));
                dims
            });
            let statistic = Fact::new(Some(DType::F32), reduced);
            vec![Fact::new(dtype, input(0).dims.clone()), statistic.clone(), statistic]
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "And" | "Or" | "Xor" | "PRelu" => {
            vec![Fact::new(dtype, broadcast_all(inputs.iter()))]
        }
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => {
            vec![Fact::new(Some(DType::BOOL), broadcast_all(inputs.iter()))]
        }
        "Where" => vec![Fact::new(input(1).dtype.or(input(2).dtype), broadcast_all(inputs.iter()))],
        "MatMul" => vec![Fact::new(dtype, matmul(input(0), input(1)))],
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
                (Some(a), Some(b)) => broadcast(a, &b),
                _ => None,
            };
            vec![Fact::new(dtype, dims)]
        }
        "Concat" => vec![Fact::new(dtype, concat(node, inputs))],
        "Split" => split(node, input(0), input(1)),
        "SplitToSequence" => vec![split_to_sequence(node, input(0), input(1))],
        "SequenceConstruct" => vec![Fact { items: inputs.to_vec(), ..Fact::default() }],
        "SequenceAt" => {
            let position = input(1).value.as_ref().and_then(|v| v.first()?.as_ref()?.known());
            let item = position.and_then(|p| input(0).items.get(at(p, input(0).items.len())));
            item.into_iter().cloned().collect()
        }
        "Slice" => vec![Fact::new(dtype, slice(node, inputs))],
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
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL2" | "ReduceSumSquare"
        | "ReduceLogSumExp" => vec![Fact::new(dtype, reduce(node, input(0), input(1)))],
        "ArgMax" | "ArgMin" => {
            let axis = node.int("axis").unwrap_or(0);
            vec![Fact::new(Some(DType::I64), reduce_axes(input(0), Some(vec![axis]), node.int("keepdims") != Some(0)))]
        }
        "Range" => {
            let element = |i: usize| input(i).value.as_ref().and_then(|v| v.first().cloned().flatten());
            let length = match (element(0), element(1), element(2)) {
                (Some(from), Some(to), Some(step)) if step.known() == Some(1) => to.minus(&from).map(|e| e.dim()),
                _ => None,
            };
            vec![Fact::new(dtype, Some(vec![length.unwrap_or_else(|| unknown(node, 0))]))]
        }
        "ConstantOfShape" => {
            let dtype = node.tensor("value").map_or(DType::F32, |t| DType(t.data_type));
            vec![Fact::new(Some(dtype), from_value(node, input(0)))]
        }
        "Tile" | "Pad" => {
            let dims = input(0).dims.as_ref().map(|dims| (0..dims.len()).map(|i| unknown(node, i)).collect());
            vec![Fact::new(dtype, dims)]
        }
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
        "TopK" => {
            let dims = input(0).dims.clone().map(|mut dims| {
                let axis = at(node.int("axis").unwrap_or(-1), dims.len());
                if let Some(d) = dims.get_mut(axis) {
                    *d = unknown(node, axis);
                }
                dims
            });
            vec![Fact::new(dtype, dims.clone()), Fact::new(Some(DType::I64), dims)]
        }
        _ => Vec::new(),
    }
}

/// An axis or position counted from the end where it is negative.
pub(super) fn at(axis: i64, rank: usize) -> usize {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(0)
}

fn unknown(node: &Node, axis: usize) -> Dim {
    Extent::unknown(&format!("{}.{axis}", node.output(0))).dim()
}

fn broadcast_all<'a>(mut facts: impl Iterator<Item = &'a Fact>) -> Option<Vec<Dim>> {
    let first = facts.next()?.dims.clone()?;
    facts.try_fold(first, |all, fact| broadcast(&all, fact.dims.as_deref()?))
}

/// Numpy's rule. Two symbols that differ are taken to be equal extents, for the runtime would refuse anything else
/// but an extent of one.
fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let of = |dims: &[Dim], i: usize| (i + dims.len()).checked_sub(rank).map_or(Dim::Known(1), |i| dims[i].clone());
    let one = |i: usize| match (of(a, i), of(b, i)) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => Some(other),
        (Dim::Known(x), Dim::Known(y)) => (x == y).then_some(Dim::Known(x)),
        (known @ Dim::Known(_), Dim::Symbol(_)) | (Dim::Symbol(_), known @ Dim::Known(_)) => Some(known),
        (Dim::Symbol(x), Dim::Symbol(y)) => Some(Dim::Symbol(if super::extent::is_unnamed(&x) { y } else { x })),
    };
    (0..rank).map(one).collect()
}

fn matmul(a: &Fact, b: &Fact) -> Option<Vec<Dim>> {
    let (a, b) = (a.dims.as_ref()?, b.dims.as_ref()?);
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return None;
    }
    let mut out = broadcast(&a[..n.saturating_sub(2)], &b[..m.saturating_sub(2)])?;
    if n > 1 {
        out.push(a[n - 2].clone());
    }
    if m > 1 {
        out.push(b[m - 1].clone());
    }
    Some(out)
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

fn concat(node: &Node, inputs: &[Fact]) -> Option<Vec<Dim>> {
    let all: Vec<&Vec<Dim>> = inputs.iter().map(|f| f.dims.as_ref()).collect::<Option<_>>()?;
    let first = all.first()?;
    let axis = at(node.int("axis").unwrap_or(0), first.len());
    let mut dims: Vec<Dim> = (*first).clone();
    for other in &all[1..] {
        for (i, d) in dims.iter_mut().enumerate().filter(|(i, _)| *i != axis) {
            if let (Dim::Symbol(_), Some(Dim::Known(n))) = (&*d, other.get(i)) {
                *d = Dim::Known(*n);
            }
        }
    }
    let sum = all.iter().try_fold(Extent::number(0), |sum, d| sum.plus(&Extent::of(d.get(axis)?)));
    *dims.get_mut(axis)? = sum?.dim();
    Some(dims)
}

fn split(node: &Node, data: &Fact, sizes: &Fact) -> Vec<Fact> {
    let n = node.outputs().len();
    let Some(dims) = &data.dims else { return vec![Fact::new(data.dtype, None); n] };
    let axis = at(node.int("axis").unwrap_or(0), dims.len());
    let given: Option<Vec<Dim>> = match (node.ints("split"), &sizes.value) {
        (Some(sizes), _) => Some(sizes.iter().map(|&s| Dim::Known(s.max(0) as usize)).collect()),
        (None, Some(value)) => value.iter().map(|e| e.as_ref().map(Extent::dim)).collect(),
        (None, None) => None,
    };
    let extent = |i: usize| match (&given, dims.get(axis)) {
        (Some(given), _) => given.get(i).cloned(),
        (None, Some(Dim::Known(total))) if node.input(1).is_none() => {
            let each = total.div_ceil(n);
            Some(Dim::Known(each.min(total.saturating_sub(i * each))))
        }
        _ => None,
    };
    let part = |i: usize| {
        let mut dims = dims.clone();
        if let Some(d) = dims.get_mut(axis) {
            *d = extent(i).unwrap_or_else(|| Extent::unknown(&format!("{}.{axis}", node.output(i))).dim());
        }
        Fact::new(data.dtype, Some(dims))
    };
    (0..n).map(part).collect()
}

/// Pieces of known sizes: a list of them, or one size for all but the last.
fn split_to_sequence(node: &Node, data: &Fact, sizes: &Fact) -> Fact {
    let items = || {
        let dims = data.dims.as_ref()?;
        let axis = at(node.int("axis").unwrap_or(0), dims.len());
        let total = dims.get(axis)?.known();
        let sizes: Vec<usize> = match (&sizes.value, node.input(1)) {
            (Some(value), _) => {
                let value =
                    value.iter().map(|e| usize::try_from(e.as_ref()?.known()?).ok()).collect::<Option<Vec<_>>>()?;
                match (sizes.rank()?, value.as_slice()) {
                    (0, &[each]) if each > 0 && total? / each < FOLLOWED => {
                        (0..total?.div_ceil(each)).map(|i| each.min(total.unwrap_or(0) - i * each)).collect()
                    }
                    (0, _) => return None,
                    _ => value,
                }
            }
            (None, Some(_)) => return None,
            (None, None) => vec![1; total.filter(|t| *t <= FOLLOWED)?],
        };
        let keep = node.input(1).is_some() || node.int("keepdims") != Some(0);
        let item = |size: usize| {
            let mut dims = dims.clone();
            if keep {
                dims[axis] = Dim::Known(size);
            } else {
                dims.remove(axis);
            }
            Fact::new(data.dtype, Some(dims))
        };
        Some(sizes.into_iter().map(item).collect())
    };
    Fact { items: items().unwrap_or_default(), ..Fact::default() }
}

fn slice(node: &Node, inputs: &[Fact]) -> Option<Vec<Dim>> {
    let mut dims = inputs.first()?.dims.clone()?;
    let elements = |i: usize, name: &str| -> Option<Vec<Option<Extent>>> {
        match node.ints(name) {
            Some(v) => Some(v.iter().map(|&n| Some(Extent::number(n))).collect()),
            None => inputs.get(i).and_then(|f| f.value.clone()),
        }
    };
    let all_unknown = |dims: &[Dim]| Some((0..dims.len()).map(|i| unknown(node, i)).collect());
    let (Some(starts), Some(ends)) = (elements(1, "starts"), elements(2, "ends")) else { return all_unknown(&dims) };
    let axes: Vec<usize> = match elements(3, "axes") {
        Some(axes) => {
            let known = axes.iter().map(|a| a.as_ref()?.known().map(|a| at(a, dims.len()))).collect::<Option<_>>();
            match known {
                Some(axes) => axes,
                None => return all_unknown(&dims),
            }
        }
        None if node.input(3).is_some() => return all_unknown(&dims),
        None => (0..starts.len()).collect(),
    };
    let steps = elements(4, "steps");
    for (k, &axis) in axes.iter().enumerate() {
        let Some(d) = dims.get(axis).cloned() else { continue };
        let step = steps.as_ref().map_or(Some(1), |s| s.get(k)?.as_ref()?.known());
        let new = match (starts.get(k).cloned().flatten(), ends.get(k).cloned().flatten(), step) {
            (Some(start), Some(end), Some(1)) => cut(&d, &start, &end),
            _ => None,
        };
        dims[axis] = new.unwrap_or_else(|| unknown(node, axis));
    }
    Some(dims)
}

/// The extent of `d[start..end]`.
fn cut(d: &Dim, start: &Extent, end: &Extent) -> Option<Dim> {
    let whole = Extent::of(d);
    let from_end = |e: &Extent| match e.known() {
        Some(n) if n < 0 => whole.plus(e),
        _ => Some(e.clone()),
    };
    let start = from_end(start)?;
    let end = match end.known() {
        Some(n) if n >= i64::from(i32::MAX) => whole.clone(),
        _ => from_end(end)?,
    };
    if let (Some(d), Some(s), Some(e)) = (whole.known(), start.known(), end.known()) {
        return Some(Dim::Known(usize::try_from(e.clamp(0, d) - s.clamp(0, d)).unwrap_or(0)));
    }
    // A table that is cut to the length of the input: the table is as long as the context, so the end is what counts.
    let length = end.minus(&start)?;
    match length.known() {
        Some(n) if n < 0 => None,
        _ => Some(length.dim()),
    }
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
