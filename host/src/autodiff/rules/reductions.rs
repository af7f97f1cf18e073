//! ReduceSum (axes as an input from 13 on), ReduceMean (from 18 on): dx = g, repeated, and divided by the number of
//! elements in a mean. Softmax (13+): dx = y·(g − Σ g·y). LogSoftmax (13+): dx = g − e^y·Σ g. Sums over the axis.

use super::super::facts::{Facts, front};
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, DType, Dim, Node};

/// The axes of a reduction: `None` where they are not constant, empty for all.
fn axes(facts: &Facts<'_, '_>, node: &Node) -> Option<Vec<i64>> {
    match node.input(1) {
        Some(edge) => facts.ints(edge),
        None => Some(node.ints("axes").unwrap_or_default().to_vec()),
    }
}

pub(super) fn check_reduce(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match axes(facts, visit.node) {
        Some(_) => Ok(()),
        None => Err("its axes are not constant".into()),
    }
}

pub(super) fn reduce(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, y, node) = (visit.input(0), visit.output(), visit.node);
    let axes = axes(&tape.facts, node).unwrap_or_default();
    let mut grad = visit.grad();
    if axes.is_empty() && node.int("noop_with_empty_axes") == Some(1) {
        return Ok(vec![(0, grad)]);
    }
    grad = tape.shaped(&grad, y)?.formed(Form::Thin);
    if node.int("keepdims") == Some(0) && !axes.is_empty() {
        let axes = tape.ints(&axes);
        grad.edge = tape.op("Unsqueeze", &[&grad.edge, &axes], &[])?;
    }
    if node.is("ReduceMean") {
        let dims = tape.facts.dims(x);
        let count = dims.and_then(|dims| {
            let all: Vec<usize> = (0..dims.len()).collect();
            let over = if axes.is_empty() { all } else { axes.iter().map(|&a| front(a, dims.len())).collect() };
            over.into_iter().map(|a| dims.get(a).and_then(Dim::known)).product::<Option<usize>>()
        });
        match count {
            Some(count) => grad = grad.scaled((count as f32).recip()),
            None => {
                let (many, few) = (tape.op("Size", &[x], &[])?, tape.op("Size", &[y], &[])?);
                let count = tape.op("Div", &[&many, &few], &[])?;
                let to = tape.facts.dtype(x).unwrap_or(DType::F32);
                let count = tape.op("Cast", &[&count], &[("to", Attr::Int(i64::from(to.0)))])?;
                grad.edge = tape.op("Div", &[&grad.edge, &count], &[])?;
            }
        }
    }
    Ok(vec![(0, grad)])
}

pub(super) fn softmax(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (y, axis) = (visit.output(), visit.node.int("axis").unwrap_or(-1));
    let g = tape.shaped(&visit.grad(), y)?;
    let product = tape.op("Mul", &[&g.edge, y], &[])?;
    let total = tape.reduce("ReduceSum", &product, &[axis], true)?;
    let centred = tape.op("Sub", &[&g.edge, &total], &[])?;
    let edge = tape.op("Mul", &[&centred, y], &[])?;
    Ok(vec![(0, Grad { edge, ..g })])
}

pub(super) fn log_softmax(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (y, axis) = (visit.output(), visit.node.int("axis").unwrap_or(-1));
    let g = tape.shaped(&visit.grad(), y)?;
    let total = tape.reduce("ReduceSum", &g.edge, &[axis], true)?;
    let probability = tape.op("Exp", &[y], &[])?;
    let part = tape.op("Mul", &[&probability, &total], &[])?;
    let edge = tape.op("Sub", &[&g.edge, &part], &[])?;
    Ok(vec![(0, Grad { edge, ..g })])
}
