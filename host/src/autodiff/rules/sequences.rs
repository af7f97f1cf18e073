//! Sequences of tensors, as unoptimised exports make them. SplitToSequence (11+) read by SequenceAt (11+) at constant
//! places: dx = the gradients of the parts, joined along the axis, zeros for parts that nothing reads.

use super::super::facts::{Facts, front};
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::movement::join;
use super::{Check, Gradients};
use crate::base::Result;

pub(super) fn check_at(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match facts.ints(visit.input(1)).as_deref() {
        Some([_]) => Ok(()),
        _ => Err("its place in the sequence is not constant".into()),
    }
}

pub(super) fn at(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let place = tape.facts.ints(visit.input(1)).and_then(|v| v.first().copied()).unwrap_or(0);
    let grad = tape.shaped(&visit.grad(), visit.output())?;
    tape.contribute_part(visit.input(0), place, grad);
    Ok(Vec::new())
}

/// The number of parts.
fn parts(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Option<usize> {
    let split = facts.constant(visit.node.input(1)?)?;
    let sizes = split.ints()?;
    if !split.dims.is_empty() {
        return Some(sizes.len());
    }
    let size = usize::try_from(*sizes.first()?).ok().filter(|&s| s > 0)?;
    let extent = facts.extent(visit.input(0), visit.node.int("axis").unwrap_or(0))?;
    Some(extent.div_ceil(size))
}

pub(super) fn check_split(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match parts(facts, visit) {
        Some(_) => Ok(()),
        None => Err("the number of its parts is not constant".into()),
    }
}

pub(super) fn split(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, sequence) = (visit.input(0), visit.output());
    let count = parts(&tape.facts, visit).unwrap_or(0);
    let mut found: Vec<Vec<Grad>> = vec![Vec::new(); count];
    for (place, grad) in tape.take_parts(sequence) {
        if let Some(part) = found.get_mut(front(place, count)) {
            part.push(grad);
        }
    }
    let beside = found.iter().flatten().next().map(|g| g.edge.clone()).unwrap_or_default();
    let mut joined = Vec::with_capacity(count);
    for (place, terms) in found.into_iter().enumerate() {
        joined.push(if terms.is_empty() {
            let place = tape.integer(place as i64);
            let part = tape.op("SequenceAt", &[sequence, &place], &[])?;
            let shape = tape.op("Shape", &[&part], &[])?;
            Grad::full(&tape.zeros_by(&shape, x, &beside)?)
        } else {
            // The parts are already in their shapes; only factors may differ.
            tape.sum(terms, x)?.formed(Form::Full)
        });
    }
    let grad = join(tape, joined, visit.node.int("axis").unwrap_or(0), x)?;
    Ok(vec![(0, grad)])
}
