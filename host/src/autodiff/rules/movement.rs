//! Operators that move elements.
//!
//! Reshape (5+), Flatten (9+), Squeeze, Unsqueeze (13+): g in the old shape. Transpose (1+): g transposed back.
//! Split (13+): the parts' gradients joined, zeros for parts that nothing reads. Concat (4+): g split. Slice (10+):
//! g padded with zeros; with steps other than 1, g put back at the places it was read from. Pad (11+, with a constant):
//! g with the margins cut off. Trilu (14+): the same triangle of g.

use super::super::facts::{Facts, front};
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, Node};

pub(super) fn reshape(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, y, grad) = (visit.input(0), visit.output(), visit.grad());
    // What is flat already stays so: one shape is as good as another until somebody needs the right one.
    if matches!(grad.form, Form::Flat(_)) || tape.facts.same_shape(x, y) {
        return Ok(vec![(0, grad)]);
    }
    let form = Form::Flat(tape.facts.dims(y));
    Ok(vec![(0, tape.shaped(&grad, y)?.formed(form))])
}

/// The order of the axes that a Transpose makes.
pub(super) fn order(node: &Node, rank: usize) -> Vec<usize> {
    match node.ints("perm") {
        Some(perm) => perm.iter().map(|&p| front(p, rank)).collect(),
        None => (0..rank).rev().collect(),
    }
}

pub(super) fn check_transpose(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.node.ints("perm").is_none() && facts.rank(visit.input(0)).is_none() {
        return Err("the number of axes of its input is not known".into());
    }
    Ok(())
}

pub(super) fn transpose(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let node = visit.node;
    let rank = node.ints("perm").map(<[i64]>::len).or_else(|| tape.facts.rank(visit.input(0))).unwrap_or(0);
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    let edge = tape.transposed(&shaped.edge, &inverse(&order(node, rank)))?;
    Ok(vec![(0, Grad { edge, ..shaped })])
}

/// The order that undoes an order.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut back = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        back[from] = to;
    }
    back
}

/// Joins gradients along an axis, each in its own shape.
pub(super) fn join(tape: &mut Tape<'_, '_, '_>, parts: Vec<Grad>, axis: i64, like: &str) -> Result<Grad> {
    let scale = parts.first().map_or(1.0, |p| p.scale);
    let equal = parts.iter().all(|p| p.scale == scale);
    let mut edges = Vec::with_capacity(parts.len());
    for part in parts {
        edges.push(if equal { part.edge } else { tape.multiplied(&part.edge, part.scale, like)? });
    }
    let refs: Vec<&str> = edges.iter().map(String::as_str).collect();
    let edge = tape.op("Concat", &refs, &[("axis", Attr::Int(axis))])?;
    Ok(Grad::full(&edge).scaled(if equal { scale } else { 1.0 }))
}

pub(super) fn split(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let beside = visit.grads.iter().flatten().next().map(|g| g.edge.clone()).unwrap_or_default();
    let scale = visit.grads.iter().flatten().next().map_or(1.0, |g| g.scale);
    let mut parts = Vec::with_capacity(visit.grads.len());
    for (grad, output) in visit.grads.iter().zip(visit.node.outputs()) {
        parts.push(match grad {
            Some(grad) => tape.shaped(grad, output)?,
            None => Grad::full(&tape.zeros(output, &beside)?).scaled(scale),
        });
    }
    Ok(vec![(0, join(tape, parts, visit.node.int("axis").unwrap_or(0), visit.input(0))?)])
}

pub(super) fn concat(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let axis = visit.node.int("axis").unwrap_or(0);
    let inputs = visit.node.inputs();
    let known: Option<Vec<i64>> = inputs.iter().map(|e| tape.facts.extent(e, axis).map(|n| n as i64)).collect();
    let sizes = match known {
        Some(known) => tape.ints(&known),
        None => {
            let edges = inputs.iter().map(|of| tape.extent(of, axis)).collect::<Result<Vec<_>>>()?;
            let refs: Vec<&str> = edges.iter().map(String::as_str).collect();
            tape.op("Concat", &refs, &[("axis", Attr::Int(0))])?
        }
    };
    let shaped = tape.shaped(&visit.grad(), visit.output())?;
    let count = visit.node.inputs().len();
    let parts = tape.op_many("Split", &[&shaped.edge, &sizes], &[("axis", Attr::Int(axis))], count)?;
    Ok(visit.wanted.iter().map(|&slot| (slot, Grad::full(&parts[slot]).scaled(shaped.scale))).collect())
}

pub(super) fn check_pad(_: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.wants(2) {
        return Err("the value it fills with depends on the variable".into());
    }
    match visit.node.string("mode").unwrap_or("constant") {
        "constant" => Ok(()),
        other => Err(format!("its mode is `{other}`; `constant` is covered")),
    }
}

pub(super) fn pad(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let g = tape.shaped(&visit.grad(), visit.output())?;
    let margins = tape.op("Neg", &[visit.input(1)], &[])?;
    let mut inputs = vec![g.edge.as_str(), &margins];
    if let Some(axes) = visit.node.input(3) {
        inputs.extend(["", axes]);
    }
    let edge = tape.op("Pad", &inputs, &[])?;
    Ok(vec![(0, Grad { edge, ..g })])
}

pub(super) fn trilu(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let g = tape.shaped(&visit.grad(), visit.output())?;
    let mut inputs = vec![g.edge.as_str()];
    inputs.extend(visit.node.input(1));
    let edge = tape.op("Trilu", &inputs, &[("upper", Attr::Int(visit.node.int("upper").unwrap_or(1)))])?;
    Ok(vec![(0, Grad { edge, ..g })])
}

/// How a Slice cuts, where that is constant.
struct Cut {
    /// The axes, counted from the front.
    axes: Vec<usize>,
    starts: Option<Vec<i64>>,
    ends: Option<Vec<i64>>,
    steps: Vec<i64>,
    rank: usize,
}

impl Cut {
    fn of(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> std::result::Result<Self, String> {
        let node = visit.node;
        let rank = facts.rank(visit.input(0)).ok_or("the number of axes of its input is not known")?;
        let (starts, ends) = (facts.ints(visit.input(1)), facts.ints(visit.input(2)));
        let axes: Vec<usize> = match node.input(3) {
            Some(edge) => {
                facts.ints(edge).ok_or("its axes are not constant")?.iter().map(|&a| front(a, rank)).collect()
            }
            None => {
                let count = starts.as_ref().map(Vec::len).ok_or("the number of its axes is not known")?;
                (0..count).collect()
            }
        };
        let steps = match node.input(4) {
            Some(edge) => facts.ints(edge).ok_or("its steps are not constant")?,
            None => vec![1; axes.len()],
        };
        if steps.iter().any(|&s| s != 1) && axes.len() > 1 {
            return Err("it steps over several axes at once".into());
        }
        Ok(Self { axes, starts, ends, steps, rank })
    }

    /// True if nothing is cut off.
    fn is_whole(&self, facts: &Facts<'_, '_>, x: &str, y: &str) -> bool {
        let dims = facts.dims(x);
        let long = |axis: &usize, end: &i64| {
            let extent = dims.as_ref().and_then(|d| d[*axis].known());
            *end >= i64::from(i32::MAX) || extent.is_some_and(|n| *end >= n as i64)
        };
        let from_start = self.starts.as_ref().is_some_and(|s| s.iter().all(|&s| s == 0));
        let to_end = self.ends.as_ref().is_some_and(|e| self.axes.iter().zip(e).all(|(a, e)| long(a, e)));
        self.steps.iter().all(|&s| s == 1) && (from_start && to_end || facts.same_shape(x, y))
    }
}

pub(super) fn check_slice(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    Cut::of(facts, visit).map(|_| ())
}

pub(super) fn slice(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, y) = (visit.input(0), visit.output());
    let Ok(cut) = Cut::of(&tape.facts, visit) else { return Ok(Vec::new()) };
    if cut.is_whole(&tape.facts, x, y) {
        return Ok(vec![(0, visit.grad())]);
    }
    let shaped = tape.shaped(&visit.grad(), y)?;
    let edge = if cut.steps.iter().all(|&s| s == 1) {
        let pads = pads(tape, visit, &cut)?;
        tape.op("Pad", &[&shaped.edge, &pads], &[])?
    } else {
        stepped(tape, visit, cut.axes[0], cut.rank, &shaped.edge)?
    };
    Ok(vec![(0, Grad { edge, ..shaped })])
}

/// How many zeros stand before and after on each axis: `[2 · rank]`.
fn pads(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, cut: &Cut) -> Result<String> {
    let (x, y) = (visit.input(0), visit.output());
    if let (Some(starts), Some(from), Some(to)) = (&cut.starts, tape.facts.dims(x), tape.facts.dims(y)) {
        let known: Option<Vec<(i64, i64)>> =
            cut.axes.iter().map(|&a| Some((from[a].known()? as i64, to[a].known()? as i64))).collect();
        if let Some(extents) = known {
            let mut pads = vec![0i64; 2 * cut.rank];
            for ((&axis, &start), (whole, part)) in cut.axes.iter().zip(starts).zip(extents) {
                let start = if start < 0 { start + whole } else { start }.clamp(0, whole - part);
                pads[axis] = start;
                pads[axis + cut.rank] = whole - part - start;
            }
            return Ok(tape.ints(&pads));
        }
    }
    let (whole, part) = (tape.shape_of(x)?, tape.shape_of(y)?);
    let missing = tape.op("Sub", &[&whole, &part], &[])?;
    let zeros = tape.ints(&vec![0; cut.rank]);
    let before = match &cut.starts {
        Some(starts) if starts.iter().all(|&s| s >= 0) => {
            let mut all = vec![0; cut.rank];
            for (&axis, &start) in cut.axes.iter().zip(starts) {
                all[axis] = start;
            }
            tape.ints(&all)
        }
        _ => {
            let axes = tape.ints(&cut.axes.iter().map(|&a| a as i64).collect::<Vec<_>>());
            let given = tape.op("ScatterElements", &[&zeros, &axes, visit.input(1)], &[])?;
            let negative = tape.op("Less", &[&given, &zeros], &[])?;
            let counted = tape.op("Add", &[&given, &whole], &[])?;
            let start = tape.op("Where", &[&negative, &counted, &given], &[])?;
            tape.op("Max", &[&start, &zeros], &[])?
        }
    };
    let before = tape.op("Min", &[&before, &missing], &[])?;
    let after = tape.op("Sub", &[&missing, &before], &[])?;
    tape.op("Concat", &[&before, &after], &[("axis", Attr::Int(0))])
}

/// Puts rows along an axis back at the places that a Slice with a step read.
fn stepped(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, axis: usize, rank: usize, g: &str) -> Result<String> {
    let node = visit.node;
    let extent = tape.extent(visit.input(0), axis as i64)?;
    let zero = tape.ints(&[0]);
    let scalar = tape.ints(&[]);
    let limit = tape.op("Reshape", &[&extent, &scalar], &[])?;
    let (from, by) = (tape.integer(0), tape.integer(1));
    let all = tape.op("Range", &[&from, &limit, &by], &[])?;
    let places =
        tape.op("Slice", &[&all, visit.input(1), visit.input(2), &zero, node.input(4).unwrap_or_default()], &[])?;
    super::picking::put(tape, visit.input(0), axis, rank, &places, 1, g, super::picking::Add::Unique)
}
