//! ReduceSum (axes as an input from 13 on), ReduceMean (from 18 on): dx = g, repeated, and divided by the number of
//! elements in a mean. ReduceL1: g·sign x, ReduceL2: g·x/y, ReduceSumSquare: 2g·x, ReduceLogSumExp: g·e^(x−y),
//! ReduceMax, ReduceMin: g where x is the result, in equal parts. Softmax (13+): dx = y·(g − Σ g·y), sums over the axis.
//! LogSoftmax (13+): dx = g − e^y·Σ g. CumSum (11+): the same sum of g from the other end.

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
                let count = tape.cast(&count, to)?;
                grad.edge = tape.op("Div", &[&grad.edge, &count], &[])?;
            }
        }
    }
    Ok(vec![(0, grad)])
}

pub(super) fn extreme_or_norm(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, node) = (visit.input(0), visit.node);
    let axes = axes(&tape.facts, node).unwrap_or_default();
    let whole = axes.is_empty() && node.int("noop_with_empty_axes") == Some(1);
    let g = tape.shaped(&visit.grad(), visit.output())?;
    // The result and its gradient with the axes that were reduced.
    let kept = |tape: &mut Tape<'_, '_, '_>, edge: &str| {
        if whole || axes.is_empty() || node.int("keepdims") != Some(0) {
            return Ok(edge.to_owned());
        }
        let axes = tape.ints(&axes);
        tape.op("Unsqueeze", &[edge, &axes], &[])
    };
    let (y, mut thin) = (kept(tape, visit.output())?, kept(tape, &g.edge)?);
    let mut scale = g.scale;
    let slope = match node.op() {
        "ReduceL1" => tape.op("Sign", &[x], &[])?,
        "ReduceL2" => tape.op("Div", &[x, &y], &[])?,
        "ReduceSumSquare" => {
            scale *= 2.0;
            x.to_owned()
        }
        "ReduceLogSumExp" => {
            let gap = tape.op("Sub", &[x, &y], &[])?;
            tape.op("Exp", &[&gap], &[])?
        }
        _ => {
            let hit = tape.op("Equal", &[x, &y], &[])?;
            let to = tape.facts.dtype(x).unwrap_or(DType::F32);
            let hit = tape.cast(&hit, to)?;
            if !whole {
                let count = tape.reduce("ReduceSum", &hit, &axes, true)?;
                thin = tape.op("Div", &[&thin, &count], &[])?;
            }
            hit
        }
    };
    let edge = tape.op("Mul", &[&slope, &thin], &[])?;
    Ok(vec![(0, Grad::full(&edge).scaled(scale))])
}

pub(super) fn cum_sum(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let node = visit.node;
    let g = tape.shaped(&visit.grad(), visit.output())?;
    let turned = 1 - node.int("reverse").unwrap_or(0);
    let attributes = [("exclusive", Attr::Int(node.int("exclusive").unwrap_or(0))), ("reverse", Attr::Int(turned))];
    let edge = tape.op("CumSum", &[&g.edge, visit.input(1)], &attributes)?;
    Ok(vec![(0, Grad { edge, ..g })])
}

/// The result of a Softmax without the rows that are not numbers, where the graph replaces those: a row that saw
/// nothing, whose gradient is to be zero.
fn without_nothing(tape: &Tape<'_, '_, '_>, y: &str) -> Option<String> {
    let index = &tape.facts.index;
    let asked = index.consumers(y).find(|(n, _)| n.is("IsNaN"))?.0;
    let chosen = |n: &Node| n.is("Where") && n.input(0) == Some(asked.output(0)) && n.input(2) == Some(y);
    let node = index.consumers(y).map(|(n, _)| n).find(|n| chosen(n))?;
    tape.facts.scalar(node.input(1)?).filter(|v| *v == 0.0).map(|_| node.output(0).to_owned())
}

pub(super) fn softmax(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let axis = visit.node.int("axis").unwrap_or(-1);
    let g = tape.shaped(&visit.grad(), visit.output())?;
    let y = without_nothing(tape, visit.output()).unwrap_or_else(|| visit.output().to_owned());
    let y = y.as_str();
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
