//! Activation functions: g times the slope at x. Gelu (20+, both forms), Swish (24+), HardSwish (14+), Mish (18+), and
//! the bent lines LeakyRelu, PRelu, Elu, Celu, Selu, HardSigmoid (6+), ThresholdedRelu (10+), Softsign (1+).

use super::super::plan::Visit;
use super::super::tape::Tape;
use super::Gradients;
use super::elementwise::{combine_full, masked, one_minus_square, operand};
use crate::base::Result;

/// Operators of one input.
pub(super) fn activation(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, node) = (visit.input(0), visit.node);
    let number = |name: &str, default: f32| node.float(name).unwrap_or(default);
    let mut scale = 1.0;
    let slope = match node.op() {
        "Gelu" if node.string("approximate") == Some("tanh") => tanh_gelu(tape, x, visit.output())?,
        "Gelu" => {
            scale = 0.5;
            gelu(tape, x)?
        }
        "Swish" => swish(tape, x, number("alpha", 1.0))?,
        "HardSwish" => hard_swish(tape, x)?,
        "Mish" => mish(tape, x)?,
        "Softsign" => {
            let (one, size) = (tape.real(x, 1.0), tape.op("Abs", &[x], &[])?);
            let whole = tape.op("Add", &[&one, &size], &[])?;
            let square = tape.op("Mul", &[&whole, &whole], &[])?;
            tape.op("Reciprocal", &[&square], &[])?
        }
        "HardSigmoid" => {
            let y = visit.output();
            let (zero, one) = (tape.real(x, 0.0), tape.real(x, 1.0));
            let above = tape.op("Greater", &[y, &zero], &[])?;
            let below = tape.op("Less", &[y, &one], &[])?;
            let inside = tape.op("And", &[&above, &below], &[])?;
            let grad = masked(tape, &visit.grad(), &inside, true, y)?;
            return Ok(vec![(0, grad.scaled(number("alpha", 0.2)))]);
        }
        "ThresholdedRelu" => {
            let limit = tape.real(x, number("alpha", 1.0));
            let inside = tape.op("Greater", &[x, &limit], &[])?;
            return Ok(vec![(0, masked(tape, &visit.grad(), &inside, true, visit.output())?)]);
        }
        _ => bent(tape, visit)?,
    };
    Ok(vec![(0, combine_full(tape, "Mul", &visit.grad(), &slope, visit.output())?.scaled(scale))])
}

/// Lines on the right, and something else on the left of zero.
fn bent(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<String> {
    let (x, node) = (visit.input(0), visit.node);
    let number = |name: &str, default: f32| node.float(name).unwrap_or(default);
    let (right, left) = match node.op() {
        "LeakyRelu" => (1.0, tape.real(x, number("alpha", 0.01))),
        // Twice the same: a factor times e^(x/width).
        other => {
            let (right, factor, width) = match other {
                "Celu" => (1.0, 1.0, number("alpha", 1.0)),
                "Selu" => {
                    let gamma = number("gamma", 1.050_701);
                    (gamma, gamma * number("alpha", 1.673_263_2), 1.0)
                }
                _ => (1.0, number("alpha", 1.0), 1.0),
            };
            let part = tape.multiplied(x, width.recip(), x)?;
            let power = tape.op("Exp", &[&part], &[])?;
            (right, tape.multiplied(&power, factor, x)?)
        }
    };
    let (zero, right) = (tape.real(x, 0.0), tape.real(x, right));
    let positive = tape.op("Greater", &[x, &zero], &[])?;
    tape.op("Where", &[&positive, &right, &left], &[])
}

/// PRelu (16+): g, or g times the slope left of zero; the slope's own gradient is Σ g·x there.
pub(super) fn p_relu(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (x, slope, y) = (visit.input(0), visit.input(1), visit.output());
    let (zero, one) = (tape.real(x, 0.0), tape.real(x, 1.0));
    let negative = tape.op("Less", &[x, &zero], &[])?;
    let mut gradients = Vec::new();
    if visit.wants(0) {
        let factor = tape.op("Where", &[&negative, slope, &one], &[])?;
        gradients.push((0, combine_full(tape, "Mul", &visit.grad(), &factor, y)?));
    }
    if visit.wants(1) {
        let masked = masked(tape, &visit.grad(), &negative, true, y)?;
        let grad = combine_full(tape, "Mul", &masked, x, y)?;
        gradients.push(operand(tape, visit, 1, grad)?);
    }
    Ok(gradients)
}

/// σ(αx) + αx·σ(αx)·(1 − σ(αx))
fn swish(tape: &mut Tape<'_, '_, '_>, x: &str, alpha: f32) -> Result<String> {
    let part = tape.multiplied(x, alpha, x)?;
    let gate = tape.op("Sigmoid", &[&part], &[])?;
    let one = tape.real(x, 1.0);
    let rest = tape.op("Sub", &[&one, &gate], &[])?;
    let tail = tape.op("Mul", &[&part, &rest], &[])?;
    let whole = tape.op("Add", &[&one, &tail], &[])?;
    tape.op("Mul", &[&gate, &whole], &[])
}

/// 0 below −3, 1 above 3, x/3 + 1/2 between.
fn hard_swish(tape: &mut Tape<'_, '_, '_>, x: &str) -> Result<String> {
    let third = tape.multiplied(x, 1.0 / 3.0, x)?;
    let half = tape.real(x, 0.5);
    let line = tape.op("Add", &[&third, &half], &[])?;
    let (low, high) = (tape.real(x, -3.0), tape.real(x, 3.0));
    let (zero, one) = (tape.real(x, 0.0), tape.real(x, 1.0));
    let above = tape.op("Greater", &[x, &high], &[])?;
    let below = tape.op("Less", &[x, &low], &[])?;
    let right = tape.op("Where", &[&above, &one, &line], &[])?;
    tape.op("Where", &[&below, &zero, &right], &[])
}

/// t + x·(1 − t²)·σ(x), t = tanh(softplus x)
fn mish(tape: &mut Tape<'_, '_, '_>, x: &str) -> Result<String> {
    let soft = tape.op("Softplus", &[x], &[])?;
    let t = tape.op("Tanh", &[&soft], &[])?;
    let gate = tape.op("Sigmoid", &[x], &[])?;
    let rest = one_minus_square(tape, &t, x)?;
    let product = tape.op("Mul", &[x, &rest], &[])?;
    let tail = tape.op("Mul", &[&product, &gate], &[])?;
    tape.op("Add", &[&t, &tail], &[])
}

/// e^(factor·x²)
pub(super) fn gaussian(tape: &mut Tape<'_, '_, '_>, x: &str, factor: f32) -> Result<String> {
    let square = tape.op("Mul", &[x, x], &[])?;
    let exponent = tape.multiplied(&square, factor, x)?;
    tape.op("Exp", &[&exponent], &[])
}

/// Twice the slope of x·Φ(x): 1 + erf(x/√2) + x·√(2/π)·e^(−x²/2).
fn gelu(tape: &mut Tape<'_, '_, '_>, x: &str) -> Result<String> {
    let one = tape.real(x, 1.0);
    let narrow = tape.multiplied(x, std::f32::consts::FRAC_1_SQRT_2, x)?;
    let bell = gaussian(tape, x, -0.5)?;
    let bell = tape.multiplied(&bell, (2.0 / std::f32::consts::PI).sqrt(), x)?;
    let erf = tape.op("Erf", &[&narrow], &[])?;
    let tail = tape.op("Mul", &[x, &bell], &[])?;
    let head = tape.op("Add", &[&erf, &one], &[])?;
    tape.op("Add", &[&head, &tail], &[])
}

/// The slope of its approximation y = ½x(1 + tanh u) = x·σ(2u), u = √(2/π)(x + a·x³): σ + y·(1 − σ)·2u′.
fn tanh_gelu(tape: &mut Tape<'_, '_, '_>, x: &str, y: &str) -> Result<String> {
    const A: f32 = 0.044715;
    let twice = 2.0 * (2.0 / std::f32::consts::PI).sqrt();
    let (one, linear) = (tape.real(x, 1.0), tape.real(x, twice));
    let square = tape.op("Mul", &[x, x], &[])?;
    let cubic = tape.multiplied(&square, A * twice, x)?;
    let factor = tape.op("Add", &[&cubic, &linear], &[])?;
    let u = tape.op("Mul", &[x, &factor], &[])?;
    let gate = tape.op("Sigmoid", &[&u], &[])?;
    let cubic = tape.multiplied(&square, 3.0 * A * twice, x)?;
    let inner = tape.op("Add", &[&cubic, &linear], &[])?;
    let rest = tape.op("Sub", &[&one, &gate], &[])?;
    let tail = tape.op("Mul", &[y, &rest], &[])?;
    let tail = tape.op("Mul", &[&tail, &inner], &[])?;
    tape.op("Add", &[&gate, &tail], &[])
}
