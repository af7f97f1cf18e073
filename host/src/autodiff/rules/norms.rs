//! LayerNormalization (17+): with x̂ = (x − mean)·r, r = 1/√(var + ε) over the normalised axes, and h = g·scale,
//! dx = r·(h − mean h − x̂·mean(h·x̂)), dscale = Σ g·x̂, dbias = Σ g.
//!
//! RMSNormalization (23+): with x̂ = x·r, r = 1/√(mean x² + ε), and h = g·scale, dx = r·(h − x̂·mean(h·x̂)),
//! dscale = Σ g·x̂; in the type that the operator computes its statistics in.
//!
//! x̂ and r of a LayerNormalization come from one more LayerNormalization of x with scale 1, a single pass over x; where
//! the graph itself outputs r, that is read instead. Norms that are spelled out in smaller operators follow from the
//! rules of those.

use super::super::facts::{Facts, front};
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::broadcasting::to_operand;
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, DType, Dim};

pub(super) fn check_layer_norm(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.live.iter().any(|&output| output > 0) {
        return Err("its mean or deviation is used further on".into());
    }
    if visit.node.int("axis").unwrap_or(-1) >= 0 && facts.rank(visit.input(0)).is_none() {
        return Err("the number of axes of its input is not known".into());
    }
    Ok(())
}

pub(super) fn layer_norm(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, scale, y, node) = (visit.input(0), visit.input(1), visit.output(), visit.node);
    let g = tape.shaped(&visit.grad(), y)?;
    let axis = node.int("axis").unwrap_or(-1);
    let axes = trailing(tape.facts.rank(x), axis);
    let mut gradients = Vec::new();
    if visit.wants(0) || visit.wants(1) {
        let (unit, r) = normalised(tape, visit)?;
        if visit.wants(0) {
            let h = tape.op("Mul", &[&g.edge, scale], &[])?;
            let mean = tape.reduce("ReduceMean", &h, &axes, true)?;
            let product = tape.op("Mul", &[&h, &unit], &[])?;
            let along = tape.reduce("ReduceMean", &product, &axes, true)?;
            let part = tape.op("Mul", &[&unit, &along], &[])?;
            let centred = tape.op("Sub", &[&h, &mean], &[])?;
            let across = tape.op("Sub", &[&centred, &part], &[])?;
            let edge = tape.op("Mul", &[&across, &r], &[])?;
            gradients.push((0, Grad::full(&edge).scaled(g.scale)));
        }
        if visit.wants(1) {
            let product = tape.op("Mul", &[&g.edge, &unit], &[])?;
            gradients.push((1, over_rows(tape, &product, axis, scale)?.scaled(g.scale)));
        }
    }
    if visit.wants(2) {
        gradients.push((2, over_rows(tape, &g.edge, axis, visit.input(2))?.scaled(g.scale)));
    }
    Ok(gradients)
}

/// x̂ and r.
fn normalised(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<(String, String)> {
    let (x, scale, node) = (visit.input(0), visit.input(1), visit.node);
    let dims = tape.facts.dims(scale).and_then(|d| d.iter().map(Dim::known).collect::<Option<Vec<_>>>());
    let ones = match dims {
        Some(dims) => tape.reals(scale, &dims, 1.0),
        None => {
            let (one, shape) = (tape.real(scale, 1.0), tape.shape_of(scale)?);
            tape.op("Expand", &[&one, &shape], &[])?
        }
    };
    let mut attributes = vec![("axis", Attr::Int(node.int("axis").unwrap_or(-1)))];
    if let Some(epsilon) = node.float("epsilon") {
        attributes.push(("epsilon", Attr::Float(epsilon)));
    }
    if let Some(stash) = node.int("stash_type") {
        attributes.push(("stash_type", Attr::Int(stash)));
    }
    let given = node.output(2);
    let count = if given.is_empty() { 3 } else { 1 };
    let made = tape.op_many("LayerNormalization", &[x, &ones], &attributes, count)?;
    let mut r = if given.is_empty() { made[2].clone() } else { given.to_owned() };
    let from = DType(node.int("stash_type").and_then(|s| i32::try_from(s).ok()).unwrap_or(1));
    if let Some(to) = tape.facts.dtype(x).filter(|&to| to != from) {
        r = tape.cast(&r, to)?;
    }
    Ok((made[0].clone(), r))
}

/// Sums over all axes before `axis`; what is left has the elements of `of`.
fn over_rows(tape: &mut Tape<'_, '_, '_>, edge: &str, axis: i64, of: &str) -> Result<Grad> {
    let rows = tape.op("Flatten", &[edge], &[("axis", Attr::Int(axis))])?;
    let sum = tape.reduce("ReduceSum", &rows, &[0], false)?;
    let form = if tape.facts.rank(of) == Some(1) { Form::Full } else { Form::Flat(None) };
    Ok(Grad::full(&sum).formed(form))
}

pub(super) fn check_rms_norm(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.node.int("axis").unwrap_or(-1) >= 0 && facts.rank(visit.input(0)).is_none() {
        return Err("the number of axes of its input is not known".into());
    }
    Ok(())
}

pub(super) fn rms_norm(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, scale, y, node) = (visit.input(0), visit.input(1), visit.output(), visit.node);
    let g = tape.shaped(&visit.grad(), y)?;
    let axes = trailing(tape.facts.rank(x), node.int("axis").unwrap_or(-1));
    // The statistics have a type of their own.
    let own = tape.facts.dtype(x).unwrap_or(DType::F32);
    let stash = DType(node.int("stash_type").and_then(|s| i32::try_from(s).ok()).unwrap_or(1));
    let cast = |tape: &mut Tape<'_, '_, '_>, edge: &str, to: DType| match own == stash {
        true => Ok(edge.to_owned()),
        false => tape.cast(edge, to),
    };
    let wide = cast(tape, x, stash)?;
    let square = tape.op("Mul", &[&wide, &wide], &[])?;
    let mean = tape.reduce("ReduceMean", &square, &axes, true)?;
    let epsilon = tape.real_of(stash, node.float("epsilon").unwrap_or(1e-5));
    let shifted = tape.op("Add", &[&mean, &epsilon], &[])?;
    let root = tape.op("Sqrt", &[&shifted], &[])?;
    let r = tape.op("Reciprocal", &[&root], &[])?;
    let unit = tape.op("Mul", &[&wide, &r], &[])?;
    let mut gradients = Vec::new();
    if visit.wants(0) {
        let h = tape.op("Mul", &[&g.edge, scale], &[])?;
        let h = cast(tape, &h, stash)?;
        let product = tape.op("Mul", &[&h, &unit], &[])?;
        let along = tape.reduce("ReduceMean", &product, &axes, true)?;
        let part = tape.op("Mul", &[&unit, &along], &[])?;
        let across = tape.op("Sub", &[&h, &part], &[])?;
        let edge = tape.op("Mul", &[&across, &r], &[])?;
        let edge = cast(tape, &edge, own)?;
        gradients.push((0, Grad::full(&edge).scaled(g.scale)));
    }
    if visit.wants(1) {
        let unit = cast(tape, &unit, own)?;
        let product = tape.op("Mul", &[&g.edge, &unit], &[])?;
        gradients.push((1, to_operand(tape, Grad::full(&product).scaled(g.scale), y, scale, Some(&[x]))?));
    }
    Ok(gradients)
}

/// The axes from `axis` on, counted from the end.
fn trailing(rank: Option<usize>, axis: i64) -> Vec<i64> {
    match rank {
        Some(rank) => (front(axis, rank)..rank).map(|a| a as i64 - rank as i64).collect(),
        None => (axis..0).collect(),
    }
}
