//! Expand (8+), Tile (6+), and what every operator that broadcasts does: dx = Σ g over the axes along which x was
//! repeated.
//!
//! Which axes these are follows from the shapes where those are known or provably equal; else the graph finds them out
//! when it runs.

use super::super::facts::Facts;
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, Dim};

pub(super) fn expand(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let grad = to_operand(tape, visit.grad(), visit.output(), visit.input(0), None)?;
    Ok(vec![(0, grad)])
}

pub(super) fn check_tile(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match facts.rank(visit.input(0)) {
        Some(_) => Ok(()),
        None => Err("the number of axes of its input is not known".into()),
    }
}

/// Every axis becomes two, how often and how long, and the first is summed away.
pub(super) fn tile(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, rank) = (visit.input(0), tape.facts.rank(visit.input(0)).unwrap_or(0));
    let g = tape.shaped(&visit.grad(), visit.output())?;
    if rank == 0 {
        return Ok(vec![(0, g)]);
    }
    let (shape, column, all) = (tape.shape_of(x)?, tape.ints(&[1]), tape.ints(&[-1]));
    let often = tape.op("Unsqueeze", &[visit.input(1), &column], &[])?;
    let long = tape.op("Unsqueeze", &[&shape, &column], &[])?;
    let pairs = tape.op("Concat", &[&often, &long], &[("axis", Attr::Int(1))])?;
    let target = tape.op("Reshape", &[&pairs, &all], &[])?;
    let apart = tape.reshape_by(&g.edge, &target)?;
    let axes: Vec<i64> = (0..rank as i64).map(|a| 2 * a).collect();
    let edge = tape.reduce("ReduceSum", &apart, &axes, false)?;
    Ok(vec![(0, Grad { edge, ..g })])
}

/// Brings a gradient of `out` to the shape of `operand`, one of those that were broadcast. `others` are the other
/// ones, where the output's shape follows from theirs.
pub(super) fn to_operand(
    tape: &mut Tape<'_, '_, '_>,
    grad: Grad,
    out: &str,
    operand: &str,
    others: Option<&[&str]>,
) -> Result<Grad> {
    let repeated = match others {
        Some(others) if others.iter().all(|o| tape.facts.is_scalar_beside(o, operand) || *o == operand) => {
            Some(Repeated::default())
        }
        _ => {
            let all: Option<Vec<_>> = others.and_then(|o| o.iter().map(|e| tape.facts.dims(e)).collect());
            let (x, y) = (tape.facts.dims(operand), tape.facts.dims(out));
            x.and_then(|x| repeated(&x, y.as_deref(), all.as_deref()))
        }
    };
    reduce(tape, grad, out, operand, repeated)
}

/// The axes of an output along which an operand was repeated.
#[derive(Default)]
pub(super) struct Repeated {
    /// How many leading axes the operand does not have.
    lead: usize,
    /// Axes that it has with the extent 1, counted in the output.
    inner: Vec<usize>,
}

/// Finds them, if the shapes tell. `others` are the shapes of the other operands. Beside a name of another operand the
/// output's extent is believed; beside an extent that nothing is known of it may be a guess.
pub(super) fn repeated(x: &[Dim], out: Option<&[Dim]>, others: Option<&[Vec<Dim>]>) -> Option<Repeated> {
    let widest = others.map(|o| o.iter().map(Vec::len).fold(x.len(), usize::max));
    let rank = widest.or(out.map(<[_]>::len))?;
    let lead = rank.checked_sub(x.len())?;
    let mut inner = Vec::new();
    for (i, extent) in x.iter().enumerate() {
        let from_end = x.len() - i;
        let same = out.is_some_and(|o| o.get(i + lead) == Some(extent));
        let named = |d: &Dim| matches!(d, Dim::Symbol(name) if !name.starts_with('?'));
        let like = |d: &Dim| *d == Dim::Known(1) || d == extent || (same && named(d));
        let whole = match others {
            Some(others) => others.iter().filter_map(|d| Some(&d[d.len().checked_sub(from_end)?])).all(like),
            None => same,
        };
        match extent {
            _ if whole => {}
            Dim::Known(1) => inner.push(i + lead),
            Dim::Known(_) => {}
            Dim::Symbol(_) => return None,
        }
    }
    Some(Repeated { lead, inner })
}

/// Sums a gradient of `out` over the axes found, or over those that the graph finds when it runs.
pub(super) fn reduce(
    tape: &mut Tape<'_, '_, '_>,
    grad: Grad,
    out: &str,
    operand: &str,
    repeated: Option<Repeated>,
) -> Result<Grad> {
    let Some(Repeated { lead, inner }) = repeated else {
        let shaped = tape.shaped(&grad, out)?;
        let edge = reduce_at_run_time(tape, &shaped.edge, operand)?;
        return Ok(Grad { edge, scale: grad.scale, form: Form::Full });
    };
    if lead == 0 && inner.is_empty() {
        return Ok(grad);
    }
    let shaped = tape.shaped(&grad, out)?;
    let axes: Vec<i64> = (0..lead).chain(inner.iter().copied()).map(|a| a as i64).collect();
    let mut edge = tape.reduce("ReduceSum", &shaped.edge, &axes, !inner.is_empty())?;
    if lead > 0 && !inner.is_empty() {
        let axes = tape.ints(&axes[..lead]);
        edge = tape.op("Squeeze", &[&edge, &axes], &[])?;
    }
    Ok(Grad { edge, scale: grad.scale, form: Form::Full })
}

/// Compares the shapes, aligned at their ends, while the graph runs, and sums over the axes that differ.
fn reduce_at_run_time(tape: &mut Tape<'_, '_, '_>, edge: &str, operand: &str) -> Result<String> {
    if tape.facts.rank(operand) == Some(0) {
        return tape.reduce("ReduceSum", edge, &[], false);
    }
    let wide = tape.op("Shape", &[edge], &[])?;
    let narrow = tape.shape_of(operand)?;
    let (ranks, own) = (tape.op("Shape", &[&wide], &[])?, tape.op("Shape", &[&narrow], &[])?);
    let missing = tape.op("Sub", &[&ranks, &own], &[])?;
    let one = tape.ints(&[1]);
    let ones = tape.op("Expand", &[&one, &missing], &[])?;
    let aligned = tape.op("Concat", &[&ones, &narrow], &[("axis", Attr::Int(0))])?;
    let same = tape.op("Equal", &[&aligned, &wide], &[])?;
    let differ = tape.op("Not", &[&same], &[])?;
    let found = tape.op("NonZero", &[&differ], &[])?;
    let all = tape.ints(&[-1]);
    let axes = tape.op("Reshape", &[&found, &all], &[])?;
    let summed = tape.op("ReduceSum", &[edge, &axes], &[("noop_with_empty_axes", Attr::Int(1))])?;
    tape.reshape_by(&summed, &narrow)
}
