//! Operators that pick elements by index, and that put them.
//!
//! Gather (1+, any axis), GatherND (12+, without batch axes): dx = zeros, with g added at the indices. GatherElements
//! (11+): the same by element, from 16 on. ScatterND, ScatterElements (16+ with reduction `add`, 11+ without):
//! d updates = g picked at the indices; d data = g, with zeros at the indices unless the updates were added. TopK (10+):
//! zeros, with g at the places that were picked.
//!
//! Adding needs ScatterND's reduction, which exists from 16 on. Before, indices become rows of a one-hot matrix, and
//! the sum is a Gemm. Floats of 16 bits are added as float32, which is exact for longer and what every device can do.

use super::super::facts::{Facts, front};
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, DType, Dim};

/// Whether an index can occur twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Add {
    Unique,
    Repeated,
}

/// An edge of indices as ScatterND wants them: 64-bit, with a last axis.
fn places(tape: &mut Tape<'_, '_, '_>, indices: &str) -> Result<String> {
    let wide = widened(tape, indices)?;
    let last = tape.ints(&[-1]);
    tape.op("Unsqueeze", &[&wide, &last], &[])
}

fn widened(tape: &mut Tape<'_, '_, '_>, indices: &str) -> Result<String> {
    match tape.facts.dtype(indices) {
        Some(other) if other != DType::I64 => tape.cast(indices, DType::I64),
        _ => Ok(indices.to_owned()),
    }
}

fn adding(add: Add) -> Vec<(&'static str, Attr)> {
    match add {
        Add::Unique => vec![],
        Add::Repeated => vec![("reduction", Attr::Str("add".into()))],
    }
}

/// Zeros in the shape of `x` with `g` put, or added, at `indices` along an axis. `g` has the shape of `x` with the
/// axis replaced by the `index_rank` axes of the indices.
#[expect(clippy::too_many_arguments, reason = "one gather in reverse; grouping them would only rename them")]
pub(super) fn put(
    tape: &mut Tape<'_, '_, '_>,
    x: &str,
    axis: usize,
    rank: usize,
    indices: &str,
    index_rank: usize,
    g: &str,
    add: Add,
) -> Result<String> {
    // The axis comes first, then the others.
    let perm: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|&a| a != axis)).collect();
    let picked = axis..axis + index_rank;
    let rest = (0..rank - 1 + index_rank).filter(|a| !picked.contains(a));
    let moved: Vec<usize> = picked.clone().chain(rest).collect();
    let rows = tape.transposed(g, &moved)?;
    if add == Add::Repeated && tape.opset() < 16 {
        let depth = tape.extent(x, axis as i64)?;
        let matrix = tape.op("Flatten", &[&rows], &[("axis", Attr::Int(index_rank as i64))])?;
        let flat = flat_indices(tape, indices)?;
        let sum = add_rows(tape, x, &flat, &depth, &matrix)?;
        let shape = permuted_shape(tape, x, &perm)?;
        let shaped = tape.reshape_by(&sum, &shape)?;
        return tape.transposed(&shaped, &super::movement::inverse(&perm));
    }
    let shape = permuted_shape(tape, x, &perm)?;
    let at = places(tape, indices)?;
    let put = scattered(tape, "ScatterND", x, Some(&shape), &at, &rows, &adding(add))?;
    tape.transposed(&put, &super::movement::inverse(&perm))
}

/// Zeros of the type of `x`, in its shape or another one, with `g` put or added at the places that `at` names.
fn scattered(
    tape: &mut Tape<'_, '_, '_>,
    op: &str,
    x: &str,
    shape: Option<&str>,
    at: &str,
    g: &str,
    attributes: &[(&str, Attr)],
) -> Result<String> {
    let own = tape.facts.dtype(x).unwrap_or(DType::F32);
    let adds = attributes.iter().any(|(name, _)| *name == "reduction");
    let narrow = adds && matches!(own, DType::F16 | DType::BF16);
    let wide = if narrow { DType::F32 } else { own };
    let g = if narrow { tape.cast(g, wide)? } else { g.to_owned() };
    let shape = match shape {
        Some(shape) => shape.to_owned(),
        None => tape.shape_of(x)?,
    };
    let zeros = tape.zeros_of(wide, &shape, x, &g)?;
    let put = tape.op(op, &[&zeros, at, &g], attributes)?;
    if narrow { tape.cast(&put, own) } else { Ok(put) }
}

fn permuted_shape(tape: &mut Tape<'_, '_, '_>, x: &str, perm: &[usize]) -> Result<String> {
    let shape = tape.shape_of(x)?;
    if perm.iter().enumerate().all(|(i, &p)| i == p) {
        return Ok(shape);
    }
    let order = tape.ints(&perm.iter().map(|&p| p as i64).collect::<Vec<_>>());
    tape.op("Gather", &[&shape, &order], &[])
}

fn flat_indices(tape: &mut Tape<'_, '_, '_>, indices: &str) -> Result<String> {
    let wide = widened(tape, indices)?;
    let all = tape.ints(&[-1]);
    tape.op("Reshape", &[&wide, &all], &[])
}

/// Σ over rows k of `g[k]` in row `indices[k]` of a matrix of `depth` rows: a one-hot matrix, transposed, times `g`.
fn add_rows(tape: &mut Tape<'_, '_, '_>, like: &str, indices: &str, depth: &str, g: &str) -> Result<String> {
    let (zero, one) = (tape.reals(like, &[1], 0.0), tape.reals(like, &[1], 1.0));
    let values = tape.op("Concat", &[&zero, &one], &[("axis", Attr::Int(0))])?;
    let hot = tape.op("OneHot", &[indices, depth, &values], &[])?;
    tape.gemm((&hot, true), (g, false), 1.0)
}

pub(super) fn check_gather(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match (facts.rank(visit.input(0)), facts.rank(visit.input(1))) {
        (Some(_), Some(_)) => Ok(()),
        _ => Err("the number of axes of its inputs is not known".into()),
    }
}

pub(super) fn gather(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, indices) = (visit.input(0), visit.input(1));
    let (rank, index_rank) = (tape.facts.rank(x).unwrap_or(1), tape.facts.rank(indices).unwrap_or(0));
    let axis = front(visit.node.int("axis").unwrap_or(0), rank);
    let single = tape.facts.dims(indices).is_some_and(|d| d.iter().all(|d| *d == Dim::Known(1)));
    let add = if single { Add::Unique } else { Add::Repeated };
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    let edge = put(tape, x, axis, rank, indices, index_rank, &shaped.edge, add)?;
    Ok(vec![(0, Grad { edge, ..shaped })])
}

/// How many axes of `x` an index of a GatherND names.
fn index_width(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Option<usize> {
    facts.dims(visit.input(1))?.last()?.known()
}

pub(super) fn check_gather_nd(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.node.int("batch_dims").unwrap_or(0) != 0 {
        return Err("it has batch axes".into());
    }
    if facts.graph.opset() < 16 && (index_width(facts, visit).is_none() || facts.rank(visit.input(0)).is_none()) {
        return Err("before operator set 16 the shape of its indices must be known".into());
    }
    Ok(())
}

pub(super) fn gather_nd(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, indices) = (visit.input(0), visit.input(1));
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    if tape.opset() >= 16 {
        let edge = scattered(tape, "ScatterND", x, None, indices, &shaped.edge, &adding(Add::Repeated))?;
        return Ok(vec![(0, Grad { edge, ..shaped })]);
    }
    let width = index_width(&tape.facts, visit).unwrap_or(1);
    let rank = tape.facts.rank(x).unwrap_or(width);
    // Row-major place of each index: Σ index · stride, after counting negative ones from the front.
    let mut strides = vec![tape.ints(&[1])];
    for axis in (0..width).rev() {
        let extent = tape.extent(x, axis as i64)?;
        let stride = strides[strides.len() - 1].clone();
        strides.push(tape.op("Mul", &[&stride, &extent], &[])?);
    }
    let depth = strides.pop().unwrap_or_default();
    strides.reverse();
    let refs: Vec<&str> = strides.iter().map(String::as_str).collect();
    let strides = tape.op("Concat", &refs, &[("axis", Attr::Int(0))])?;
    let (shape, from, to) = (tape.shape_of(x)?, tape.ints(&[0]), tape.ints(&[width as i64]));
    let extents = tape.op("Slice", &[&shape, &from, &to], &[])?;
    let negative = tape.op("Less", &[indices, &from], &[])?;
    let counted = tape.op("Add", &[indices, &extents], &[])?;
    let place = tape.op("Where", &[&negative, &counted, indices], &[])?;
    let place = tape.op("Mul", &[&place, &strides], &[])?;
    let place = tape.reduce("ReduceSum", &place, &[-1], false)?;
    let place = flat_indices(tape, &place)?;
    let matrix = if rank == width {
        let column = tape.ints(&[-1, 1]);
        tape.op("Reshape", &[&shaped.edge, &column], &[])?
    } else {
        tape.op("Flatten", &[&shaped.edge], &[("axis", Attr::Int(width as i64 - rank as i64))])?
    };
    let edge = add_rows(tape, x, &place, &depth, &matrix)?;
    Ok(vec![(0, Grad::full(&edge).scaled(shaped.scale).formed(Form::Flat(None)))])
}

pub(super) fn check_gather_elements(facts: &Facts<'_, '_>, _: &Visit<'_>) -> Check {
    if facts.graph.opset() < 16 { Err("its rule needs operator set 16".into()) } else { Ok(()) }
}

pub(super) fn gather_elements(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, indices) = (visit.input(0), visit.input(1));
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    let mut attributes = adding(Add::Repeated);
    attributes.push(("axis", Attr::Int(visit.node.int("axis").unwrap_or(0))));
    let edge = scattered(tape, "ScatterElements", x, None, indices, &shaped.edge, &attributes)?;
    Ok(vec![(0, Grad { edge, ..shaped })])
}

pub(super) fn top_k(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, places) = (visit.input(0), visit.node.output(1));
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    let zeros = tape.zeros(x, &shaped.edge)?;
    let axis = [("axis", Attr::Int(visit.node.int("axis").unwrap_or(-1)))];
    let edge = tape.op("ScatterElements", &[&zeros, places, &shaped.edge], &axis)?;
    Ok(vec![(0, Grad { edge, ..shaped })])
}

pub(super) fn check_top_k(_: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.node.output(1).is_empty() { Err("it does not say which places it picked".into()) } else { Ok(()) }
}

pub(super) fn check_scatter(_: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match visit.node.string("reduction").unwrap_or("none") {
        "none" | "add" => Ok(()),
        other => Err(format!("its reduction is `{other}`; `none` and `add` are covered")),
    }
}

pub(super) fn scatter_nd(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let picked = |tape: &mut Tape<'_, '_, '_>, g: &str| tape.op("GatherND", &[g, visit.input(1)], &[]);
    scatter(tape, visit, "ScatterND", &[], picked)
}

pub(super) fn scatter_elements(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let axis = [("axis", Attr::Int(visit.node.int("axis").unwrap_or(0)))];
    let picked = |tape: &mut Tape<'_, '_, '_>, g: &str| tape.op("GatherElements", &[g, visit.input(1)], &axis);
    scatter(tape, visit, "ScatterElements", &axis, picked)
}

fn scatter(
    tape: &mut Tape<'_, '_, '_>,
    visit: &Visit<'_>,
    op: &str,
    attributes: &[(&str, Attr)],
    picked: impl Fn(&mut Tape<'_, '_, '_>, &str) -> Result<String>,
) -> Result<Gradients> {
    let (indices, updates) = (visit.input(1), visit.input(2));
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    let mut gradients = Vec::new();
    if visit.wants(0) {
        let edge = if visit.node.string("reduction") == Some("add") {
            shaped.edge.clone()
        } else {
            let zeros = tape.zeros(updates, &shaped.edge)?;
            tape.op(op, &[&shaped.edge, indices, &zeros], attributes)?
        };
        gradients.push((0, Grad { edge, ..shaped.clone() }));
    }
    if visit.wants(2) {
        let edge = picked(tape, &shaped.edge)?;
        gradients.push((2, Grad { edge, ..shaped }));
    }
    Ok(gradients)
}
