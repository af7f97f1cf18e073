//! The shapes of operators that cut tensors or join them: Concat, Split, SplitToSequence, Slice, Tile, Pad.

use super::extent::Extent;
use super::rules::{at, unknown};
use super::{FOLLOWED, Fact};
use crate::graph::Dim;
use crate::graph::node::Node;

pub(super) fn concat(node: &Node, inputs: &[Fact]) -> Option<Vec<Dim>> {
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

pub(super) fn split(node: &Node, data: &Fact, sizes: &Fact) -> Vec<Fact> {
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
pub(super) fn split_to_sequence(node: &Node, data: &Fact, sizes: &Fact) -> Fact {
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

pub(super) fn slice(node: &Node, inputs: &[Fact]) -> Option<Vec<Dim>> {
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
            (Some(start), Some(end), Some(step)) => stepped(&d, start.known(), end.known(), step),
            _ => None,
        };
        dims[axis] = new.unwrap_or_else(|| unknown(node, axis));
    }
    Some(dims)
}

/// How many numbers lie from `from` on before `to`, in steps.
pub(super) fn steps(from: i64, to: i64, step: i64) -> Option<Dim> {
    let length = to.checked_sub(from)?;
    let whole = length.checked_div(step)? + i64::from(length.checked_rem(step)? != 0);
    Some(Dim::Known(usize::try_from(whole).unwrap_or(0)))
}

/// The extent of `d[start..end..step]`, where all are numbers.
fn stepped(d: &Dim, start: Option<i64>, end: Option<i64>, step: i64) -> Option<Dim> {
    let n = i64::try_from(d.known()?).ok()?;
    let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (start, end) = (from_end(start?), from_end(end?));
    match step {
        1.. => steps(start.clamp(0, n), end.clamp(0, n), step),
        _ => steps(start.clamp(0, n - 1), end.clamp(-1, n - 1), step),
    }
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

/// Extents multiplied by constant counts.
pub(super) fn tile(node: &Node, data: &Fact, repeats: &Fact) -> Option<Vec<Dim>> {
    let dims = data.dims.as_ref()?;
    let times = |(i, d): (usize, &Dim)| {
        let count = repeats.value.as_ref().and_then(|v| v.get(i)?.clone());
        count.and_then(|n| Extent::of(d).times(&n)).map_or_else(|| unknown(node, i), |e| e.dim())
    };
    Some(dims.iter().enumerate().map(times).collect())
}

/// Extents with constant margins; `axes` count from the end where they are negative.
pub(super) fn pad(node: &Node, inputs: &[Fact]) -> Option<Vec<Dim>> {
    let mut dims = inputs.first()?.dims.clone()?;
    let rank = dims.len();
    let numbers = |i: usize| inputs.get(i).and_then(|f| f.value.clone());
    let given: Option<Vec<Option<Extent>>> = match node.ints("pads") {
        Some(pads) => Some(pads.iter().map(|&n| Some(Extent::number(n))).collect()),
        None => numbers(1),
    };
    let axes: Option<Vec<usize>> = match node.input(3) {
        Some(_) => numbers(3).and_then(|v| v.iter().map(|a| Some(at(a.as_ref()?.known()?, rank))).collect()),
        None => Some((0..rank).collect()),
    };
    let (Some(pads), Some(axes)) = (given, axes) else {
        return Some((0..rank).map(|i| unknown(node, i)).collect());
    };
    for (k, &axis) in axes.iter().enumerate() {
        let d = dims.get_mut(axis)?;
        let margins = pads.get(k).cloned().flatten().zip(pads.get(k + axes.len()).cloned().flatten());
        let whole = margins.and_then(|(before, after)| Extent::of(d).plus(&before)?.plus(&after));
        *d = whole.map_or_else(|| unknown(node, axis), |e| e.dim());
    }
    Some(dims)
}
