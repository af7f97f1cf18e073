//! Operators that act on each element by itself.
//!
//! Add, Sub (7+), Sum (8+): g, −g; Mean (8+): a part of g. Mul (7+): g·b. Div (7+): g/b, −(g/b)·y. Pow (7+), by x:
//! g·p·x^(p−1). Max, Min (8+): g where the operand is the result, ties to the first. Where (9+): g where chosen.
//! Clip (6+): g where x was not changed. Neg, Exp g·y, Log g/x, Sqrt g/2y, Reciprocal −g·y², Tanh g·(1−y²),
//! Sigmoid g·y·(1−y), Erf g·2/√π·e^(−x²), Relu g·sign y, Abs g·sign x, Softplus g·σ(x), Sin, Cos. Cast, CastLike
//! between floats: a cast back. Identity, Dropout (as when not training): g.

use super::super::facts::Facts;
use super::super::plan::Visit;
use super::super::tape::{Form, Grad, Tape};
use super::broadcasting::to_operand;
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::DType;

/// An element-wise product or quotient of a gradient of `out` with an edge that broadcasts to `out`.
fn combine(tape: &mut Tape<'_, '_, '_>, op: &str, grad: &Grad, factor: &str, out: &str) -> Result<Grad> {
    let mut spread = tape.spread(grad, out)?;
    if spread.form == Form::Thin && !tape.facts.same_shape(factor, out) {
        spread = tape.shaped(&spread, out)?;
    }
    let edge = tape.op(op, &[&spread.edge, factor], &[])?;
    Ok(Grad { edge, scale: grad.scale, form: Form::Full })
}

/// The same with an edge that this differentiation made in the shape of `out`.
pub(super) fn combine_full(
    tape: &mut Tape<'_, '_, '_>,
    op: &str,
    grad: &Grad,
    factor: &str,
    out: &str,
) -> Result<Grad> {
    let spread = tape.spread(grad, out)?;
    let edge = tape.op(op, &[&spread.edge, factor], &[])?;
    Ok(Grad { edge, scale: grad.scale, form: Form::Full })
}

/// Sends a gradient on to operand `slot`, summed over what was broadcast.
pub(super) fn operand(
    tape: &mut Tape<'_, '_, '_>,
    visit: &Visit<'_>,
    slot: usize,
    grad: Grad,
) -> Result<(usize, Grad)> {
    let inputs = visit.node.inputs().iter().enumerate();
    let others: Vec<&str> = inputs.filter(|&(i, e)| i != slot && !e.is_empty()).map(|(_, e)| e.as_str()).collect();
    Ok((slot, to_operand(tape, grad, visit.output(), visit.input(slot), Some(&others))?))
}

pub(super) fn add(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    visit.wanted.iter().map(|&slot| operand(tape, visit, slot, visit.grad())).collect()
}

pub(super) fn mean(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let part = (visit.node.inputs().len() as f32).recip();
    visit.wanted.iter().map(|&slot| operand(tape, visit, slot, visit.grad().scaled(part))).collect()
}

pub(super) fn sub(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let sign = |slot| if slot == 0 { 1.0 } else { -1.0 };
    visit.wanted.iter().map(|&slot| operand(tape, visit, slot, visit.grad().scaled(sign(slot)))).collect()
}

pub(super) fn mul(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (a, b) = (visit.input(0), visit.input(1));
    if a == b {
        return Ok(vec![(0, combine(tape, "Mul", &visit.grad(), a, visit.output())?.scaled(2.0))]);
    }
    let mut gradients = Vec::new();
    for &slot in &visit.wanted {
        let other = visit.input(1 - slot);
        let constant = tape.facts.scalar(other).filter(|_| tape.facts.is_scalar_beside(other, visit.input(slot)));
        let grad = match constant {
            Some(factor) => visit.grad().scaled(factor),
            None => combine(tape, "Mul", &visit.grad(), other, visit.output())?,
        };
        gradients.push(operand(tape, visit, slot, grad)?);
    }
    Ok(gradients)
}

pub(super) fn div(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (a, b, y) = (visit.input(0), visit.input(1), visit.output());
    let constant = tape.facts.scalar(b).filter(|_| tape.facts.is_scalar_beside(b, a));
    let grad = match constant {
        Some(divisor) => visit.grad().scaled(divisor.recip()),
        None => combine(tape, "Div", &visit.grad(), b, y)?,
    };
    let mut gradients = Vec::new();
    if visit.wants(0) {
        gradients.push(operand(tape, visit, 0, grad.clone())?);
    }
    if visit.wants(1) {
        let grad = combine_full(tape, "Mul", &grad, y, y)?.scaled(-1.0);
        gradients.push(operand(tape, visit, 1, grad)?);
    }
    Ok(gradients)
}

pub(super) fn check_pow(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.wants(1) {
        return Err("its exponent depends on the variable".into());
    }
    // A constant exponent is read as a number, whatever its type.
    let constant = facts.scalar(visit.input(1)).is_some();
    let (base, exponent) = (facts.dtype(visit.input(0)), facts.dtype(visit.input(1)));
    if constant || base == exponent { Ok(()) } else { Err("its exponent is of another element type".into()) }
}

pub(super) fn pow(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, p, y, g) = (visit.input(0), visit.input(1), visit.output(), visit.grad());
    let constant = tape.facts.scalar(p).filter(|_| tape.facts.is_scalar_beside(p, x));
    let grad = match constant {
        Some(1.0) => g,
        Some(2.0) => combine(tape, "Mul", &g, x, y)?.scaled(2.0),
        Some(3.0) => {
            let square = tape.op("Mul", &[x, x], &[])?;
            combine_full(tape, "Mul", &g, &square, y)?.scaled(3.0)
        }
        Some(0.5) => combine_full(tape, "Div", &g, y, y)?.scaled(0.5),
        Some(p) => {
            let less = tape.real(x, p - 1.0);
            let power = tape.op("Pow", &[x, &less], &[])?;
            combine_full(tape, "Mul", &g, &power, y)?.scaled(p)
        }
        None => {
            let one = tape.real(x, 1.0);
            let less = tape.op("Sub", &[p, &one], &[])?;
            let power = tape.op("Pow", &[x, &less], &[])?;
            let factor = tape.op("Mul", &[&power, p], &[])?;
            combine_full(tape, "Mul", &g, &factor, y)?
        }
    };
    Ok(vec![operand(tape, visit, 0, grad)?])
}

/// What a gradient of an operator of one input is multiplied with.
pub(super) fn unary(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, y, g) = (visit.input(0), visit.output(), visit.grad());
    let grad = match visit.node.op() {
        "Neg" => g.scaled(-1.0),
        "Exp" => combine_full(tape, "Mul", &g, y, y)?,
        "Log" => combine_full(tape, "Div", &g, x, y)?,
        "Sqrt" => combine_full(tape, "Div", &g, y, y)?.scaled(0.5),
        "Reciprocal" => {
            let square = tape.op("Mul", &[y, y], &[])?;
            combine_full(tape, "Mul", &g, &square, y)?.scaled(-1.0)
        }
        "Tanh" => {
            let slope = one_minus_square(tape, y, y)?;
            combine_full(tape, "Mul", &g, &slope, y)?
        }
        "Sigmoid" => {
            let one = tape.real(y, 1.0);
            let rest = tape.op("Sub", &[&one, y], &[])?;
            let slope = tape.op("Mul", &[y, &rest], &[])?;
            combine_full(tape, "Mul", &g, &slope, y)?
        }
        "Erf" => {
            let bell = super::activations::gaussian(tape, x, -1.0)?;
            combine_full(tape, "Mul", &g, &bell, y)?.scaled(std::f32::consts::FRAC_2_SQRT_PI)
        }
        "Relu" => signed(tape, &g, y, y)?,
        "Abs" => signed(tape, &g, x, y)?,
        "Softplus" => {
            let slope = tape.op("Sigmoid", &[x], &[])?;
            combine_full(tape, "Mul", &g, &slope, y)?
        }
        "Sin" => {
            let slope = tape.op("Cos", &[x], &[])?;
            combine_full(tape, "Mul", &g, &slope, y)?
        }
        _ => {
            let slope = tape.op("Sin", &[x], &[])?;
            combine_full(tape, "Mul", &g, &slope, y)?.scaled(-1.0)
        }
    };
    Ok(vec![(0, grad)])
}

fn signed(tape: &mut Tape<'_, '_, '_>, g: &Grad, of: &str, y: &str) -> Result<Grad> {
    let sign = tape.op("Sign", &[of], &[])?;
    combine_full(tape, "Mul", g, &sign, y)
}

/// 1 − t²
pub(super) fn one_minus_square(tape: &mut Tape<'_, '_, '_>, t: &str, like: &str) -> Result<String> {
    let one = tape.real(like, 1.0);
    let square = tape.op("Mul", &[t, t], &[])?;
    tape.op("Sub", &[&one, &square], &[])
}

/// The gradient where a condition holds (or where it does not), else zero.
pub(super) fn masked(tape: &mut Tape<'_, '_, '_>, g: &Grad, condition: &str, holds: bool, y: &str) -> Result<Grad> {
    let shaped = tape.shaped(g, y)?;
    let zero = tape.real(y, 0.0);
    let inputs = if holds { [condition, &shaped.edge, &zero] } else { [condition, &zero, &shaped.edge] };
    let edge = tape.op("Where", &inputs, &[])?;
    Ok(Grad { edge, ..shaped })
}

pub(super) fn choose(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let mut gradients = Vec::new();
    for &slot in &visit.wanted {
        let grad = masked(tape, &visit.grad(), visit.input(0), slot == 1, visit.output())?;
        gradients.push(operand(tape, visit, slot, grad)?);
    }
    Ok(gradients)
}

pub(super) fn extreme(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let count = visit.node.inputs().len();
    if count == 1 {
        return Ok(vec![(0, visit.grad())]);
    }
    let op = if visit.node.is("Max") { "GreaterOrEqual" } else { "LessOrEqual" };
    let mut gradients = Vec::new();
    if count == 2 {
        let first = tape.op(op, &[visit.input(0), visit.input(1)], &[])?;
        for &slot in &visit.wanted {
            let grad = masked(tape, &visit.grad(), &first, slot == 0, visit.output())?;
            gradients.push(operand(tape, visit, slot, grad)?);
        }
        return Ok(gradients);
    }
    // Where the result was an earlier operand already, a later one that is equal has no part in it.
    let mut before: Option<String> = None;
    for slot in 0..count {
        let mut hit = tape.op("Equal", &[visit.input(slot), visit.output()], &[])?;
        let earlier = before.clone();
        before = Some(match &before {
            Some(before) => tape.op("Or", &[before, &hit], &[])?,
            None => hit.clone(),
        });
        if let Some(earlier) = earlier {
            let free = tape.op("Not", &[&earlier], &[])?;
            hit = tape.op("And", &[&hit, &free], &[])?;
        }
        if visit.wants(slot) {
            let grad = masked(tape, &visit.grad(), &hit, true, visit.output())?;
            gradients.push(operand(tape, visit, slot, grad)?);
        }
    }
    Ok(gradients)
}

pub(super) fn clip(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let inside = tape.op("Equal", &[visit.input(0), visit.output()], &[])?;
    Ok(vec![(0, masked(tape, &visit.grad(), &inside, true, visit.output())?)])
}

pub(super) fn check_identity(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    let training = visit.node.input(2).is_some_and(|e| facts.ints(e).is_none_or(|v| v != [0]));
    if training { Err("it may be in training mode".into()) } else { Ok(()) }
}

pub(super) fn identity(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    // Of a sequence, each tensor has a gradient of its own.
    for (place, grad) in tape.take_parts(visit.output()) {
        tape.contribute_part(visit.input(0), place, grad);
    }
    Ok(visit.grads.first().cloned().flatten().map(|grad| (0, grad)).into_iter().collect())
}

pub(super) fn check_cast(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    match facts.dtype(visit.input(0)) {
        Some(_) => Ok(()),
        None => Err("the element type of its input is not known".into()),
    }
}

pub(super) fn cast(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, mut grad) = (visit.input(0), visit.grad());
    let from = tape.facts.dtype(x).unwrap_or(DType::F32);
    let to = match visit.node.int("to") {
        Some(to) => i32::try_from(to).ok().map(DType),
        None => tape.facts.dtype(visit.input(1)),
    };
    if to != Some(from) {
        grad.edge = tape.cast(&grad.edge, from)?;
    }
    Ok(vec![(0, grad)])
}
