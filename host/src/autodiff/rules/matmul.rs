//! Products. MatMul (9+): dA = g·Bᵀ, dB = Aᵀ·g, summed over broadcast batch axes. Gemm (7+), Y = α·A′·B′ + β·C:
//! dA′ = α·g·B′ᵀ, dB′ = α·A′ᵀ·g, dC = β·g.
//!
//! Against a matrix, the other operand counts as a matrix of rows and the product is a Gemm with transpose flags: no
//! copy of a weight is ever transposed. Between activations a transposition that the graph already made is undone
//! rather than done twice; where an operand would have to be transposed anew, dA = (B·gᵀ)ᵀ and dB = (gᵀ·A)ᵀ are used if
//! A or B was transposed before the product, since its gradient is transposed back anyway.

use super::super::facts::Facts;
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::broadcasting::{reduce, repeated, to_operand};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::Dim;

pub(super) fn check_matmul(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    let (a, b) = (facts.rank(visit.input(0)), facts.rank(visit.input(1)));
    match (a, b) {
        (_, Some(2)) => Ok(()),
        (None, _) | (_, None) => Err("the number of axes of its operands is not known".into()),
        (Some(a), Some(b)) if a < 2 || b < 2 => Err(format!("its operands have {a} and {b} axes")),
        _ => Ok(()),
    }
}

pub(super) fn matmul(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (a, b, y, g) = (visit.input(0), visit.input(1), visit.output(), visit.grad());
    if tape.facts.rank(b) == Some(2) { rows(tape, visit, a, b, y, &g) } else { batched(tape, visit, a, b, y, &g) }
}

/// Rows of any shape times a matrix.
fn rows(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, a: &str, b: &str, y: &str, g: &Grad) -> Result<Gradients> {
    let g2 = tape.matrix(g, y)?;
    let mut gradients = Vec::new();
    if visit.wants(0) {
        let (matrix, flip) = match untransposed(tape, b) {
            Some((source, perm)) if perm == [1, 0] => (source, false),
            _ => (b.to_owned(), true),
        };
        let edge = tape.gemm((&g2, false), (&matrix, flip), g.scale)?;
        let grad = Grad::full(&edge);
        let rank = tape.facts.rank(a);
        gradients.push((0, if rank == Some(2) { grad } else { grad.formed(row_form(tape, a, &edge)) }));
    }
    if visit.wants(1) {
        let rank = tape.facts.rank(a);
        let a2 = tape.flattened(a, rank)?;
        let edge = tape.gemm((&a2, true), (&g2, false), g.scale)?;
        gradients.push((1, Grad::full(&edge)));
    }
    Ok(gradients)
}

/// The form of a matrix that has the elements of `of` in rows.
fn row_form(tape: &Tape<'_, '_, '_>, of: &str, edge: &str) -> Form {
    let last = tape.facts.dims(of).and_then(|d| d.last().cloned());
    Form::Flat(last.map(|last| vec![Dim::symbol(&format!("{edge}.rows")), last]))
}

/// Matrices in batches, at least the second one.
fn batched(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, a: &str, b: &str, y: &str, g: &Grad) -> Result<Gradients> {
    let shaped = tape.shaped(g, y)?;
    let (g, scale) = if visit.wanted.len() == 2 {
        (tape.multiplied(&shaped.edge, shaped.scale, y)?, 1.0)
    } else {
        (shaped.edge, shaped.scale)
    };
    let rank = [a, b].into_iter().filter_map(|e| tape.facts.rank(e)).max().unwrap_or(2);
    let mut gradients = Vec::new();
    if visit.wants(0) {
        let edge = if copies(tape, b) && absorbs(tape, a) {
            let turned = tape.transposed(&g, &last_two(rank))?;
            let edge = tape.op("MatMul", &[b, &turned], &[])?;
            tape.transposed(&edge, &last_two(rank))?
        } else {
            let turned = swapped(tape, b)?;
            tape.op("MatMul", &[&g, &turned], &[])?
        };
        gradients.push((0, over_batches(tape, Grad::full(&edge).scaled(scale), a, b, y)?));
    }
    if visit.wants(1) {
        let edge = if copies(tape, a) && absorbs(tape, b) {
            let turned = tape.transposed(&g, &last_two(rank))?;
            let edge = tape.op("MatMul", &[&turned, a], &[])?;
            tape.transposed(&edge, &last_two(rank))?
        } else {
            let turned = swapped(tape, a)?;
            tape.op("MatMul", &[&turned, &g], &[])?
        };
        gradients.push((1, over_batches(tape, Grad::full(&edge).scaled(scale), b, a, y)?));
    }
    Ok(gradients)
}

/// Sums a gradient of the shape (batch axes of `y`, last two axes of `x`) to the shape of `x`.
fn over_batches(tape: &mut Tape<'_, '_, '_>, grad: Grad, x: &str, other: &str, y: &str) -> Result<Grad> {
    let (Some(dims), Some(beside)) = (tape.facts.dims(x), tape.facts.dims(other)) else { return Ok(grad) };
    let matrix = &dims[dims.len() - 2..];
    let with_matrix = |of: &[Dim]| [&of[..of.len() - 2], matrix].concat();
    let out = tape.facts.dims(y).map(|y| with_matrix(&y));
    let found = repeated(&dims, out.as_deref(), Some(&[with_matrix(&beside)]));
    reduce(tape, grad, y, x, found)
}

/// The edge that Transposes made this one from, with its order. A variable is not looked behind.
fn untransposed(tape: &Tape<'_, '_, '_>, edge: &str) -> Option<(String, Vec<usize>)> {
    let mut found: Option<(String, Vec<usize>)> = None;
    let mut at = edge;
    while let Some(node) = tape.facts.index.producer(at).filter(|n| n.is("Transpose") && !tape.is_variable(at)) {
        let source = node.input(0)?;
        let order = super::movement::order(node, tape.facts.rank(source)?);
        let perm = match &found {
            Some((_, behind)) => behind.iter().map(|&axis| order[axis]).collect(),
            None => order,
        };
        found = Some((source.to_owned(), perm));
        at = source;
    }
    found
}

/// The order that swaps the last two of some axes.
fn last_two(rank: usize) -> Vec<usize> {
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    perm
}

/// True if swapping the last two axes moves elements. A swap of an operand alone is a flag of the product for the
/// runtime; on top of a Transpose that the graph makes, it is another order of axes, and a copy.
fn copies(tape: &Tape<'_, '_, '_>, edge: &str) -> bool {
    untransposed(tape, edge).is_some_and(|(_, mut perm)| {
        let rank = perm.len();
        perm.swap(rank - 2, rank - 1);
        perm.iter().enumerate().any(|(i, &p)| i != p)
    })
}

/// True if the gradient of an edge is transposed on its way anyway, so that one more transposition is part of that one.
fn absorbs(tape: &Tape<'_, '_, '_>, edge: &str) -> bool {
    untransposed(tape, edge).is_some()
}

/// An edge with its last two axes swapped.
fn swapped(tape: &mut Tape<'_, '_, '_>, edge: &str) -> Result<String> {
    let rank = tape.facts.rank(edge).unwrap_or(2);
    let (source, mut perm) = untransposed(tape, edge).unwrap_or_else(|| (edge.to_owned(), (0..rank).collect()));
    perm.swap(rank - 2, rank - 1);
    tape.transposed(&source, &perm)
}

pub(super) fn gemm(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (node, y, g) = (visit.node, visit.output(), visit.grad());
    let (a, b) = (visit.input(0), visit.input(1));
    let flag = |name| node.int(name).unwrap_or(0) != 0;
    let (ta, tb) = (flag("transA"), flag("transB"));
    let alpha = g.scale * node.float("alpha").unwrap_or(1.0);
    let mut gradients = Vec::new();
    if visit.wants(0) || visit.wants(1) {
        let g = tape.matrix(&g, y)?;
        if visit.wants(0) {
            let edge =
                if ta { tape.gemm((b, tb), (&g, true), alpha)? } else { tape.gemm((&g, false), (b, !tb), alpha)? };
            gradients.push((0, Grad::full(&edge)));
        }
        if visit.wants(1) {
            let edge =
                if tb { tape.gemm((&g, true), (a, ta), alpha)? } else { tape.gemm((a, !ta), (&g, false), alpha)? };
            gradients.push((1, Grad::full(&edge)));
        }
    }
    if visit.wants(2) {
        let grad = g.scaled(node.float("beta").unwrap_or(1.0));
        gradients.push((2, to_operand(tape, grad, y, visit.input(2), None)?));
    }
    Ok(gradients)
}
