//! Attention (23+), with every attribute: P = softmax(cap(α·Q·Kᵀ) + mask), Y = P·V gives dV = Pᵀ·g, dP = g·Vᵀ,
//! dS = P∘(dP − Σ dP∘P), times 1 − t² where scores are capped to c·t, dQ = α·dS·K, dK = α·dSᵀ·Q.
//!
//! P is computed again, since the operator keeps it to itself. Query heads that share a head of keys lie beside each
//! other, so that they count as more rows of it: their gradients are summed by the products themselves. A row that sees
//! no key has no gradient.

use super::super::facts::{Facts, front};
use super::super::plan::Visit;
use super::super::tape::{Grad, Tape};
use super::broadcasting::reduce;
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, DType, Dim};

/// The operator's inputs.
const MASK: usize = 3;
const PAST: [usize; 2] = [4, 5];
const VALID: usize = 6;

/// The number of heads of an operand: the attribute, or the extent.
fn heads(facts: &Facts<'_, '_>, visit: &Visit<'_>, slot: usize) -> Option<i64> {
    let edge = visit.input(slot);
    match facts.rank(edge)? {
        4 => facts.extent(edge, 1).map(|n| n as i64),
        3 => visit.node.int(if slot == 0 { "q_num_heads" } else { "kv_num_heads" }).filter(|&n| n > 0),
        _ => None,
    }
}

pub(super) fn check(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    let (Some(q), Some(kv)) = (heads(facts, visit, 0), heads(facts, visit, 1)) else {
        return Err("the number of its heads is not known".into());
    };
    if heads(facts, visit, 2).is_none_or(|v| v != kv) || kv == 0 || q % kv != 0 {
        return Err(format!("its {q} heads of queries do not share {kv} heads of keys and as many of values evenly"));
    }
    let mode = visit.node.int("qk_matmul_output_mode").unwrap_or(0);
    if visit.live.contains(&3) && !matches!(mode, 0 | 3) {
        return Err("the scores behind its mask are used further on".into());
    }
    if visit.wants(MASK) && !mask_is_whole(facts, visit) {
        return Err("its mask, which depends on the variable, may be shorter than the keys".into());
    }
    Ok(())
}

/// True if the mask cannot be shorter than the keys, as operator sets from 24 on allow.
fn mask_is_whole(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> bool {
    let extent = |edge: &str, axis: i64| -> Option<Dim> {
        let dims = facts.dims(edge)?;
        dims.get(front(axis, dims.len())).cloned()
    };
    if facts.graph.opset() < 24 {
        return true;
    }
    let keys = if facts.rank(visit.input(1)) == Some(4) { 2 } else { 1 };
    visit.node.input(PAST[0]).is_none() && extent(visit.input(MASK), -1) == extent(visit.input(1), keys)
}

/// One differentiation of the operator. Tensors are `[batch, heads of keys, rows, width]`, where the rows are those of
/// all query heads that share a head of keys, or `[batch, heads of queries, positions, keys]` where the mask applies.
struct Pass {
    heads: i64,
    shared: i64,
    scale: String,
}

impl Pass {
    /// `[batch, positions, heads · width]` as `[batch, heads, positions, width]`; what has four axes stays.
    fn by_head(tape: &mut Tape<'_, '_, '_>, edge: &str, of: &str, heads: i64) -> Result<String> {
        if tape.facts.rank(of) != Some(3) {
            return Ok(edge.to_owned());
        }
        let target = tape.ints(&[0, 0, heads, -1]);
        let parts = tape.op("Reshape", &[edge, &target], &[])?;
        tape.transposed(&parts, &[0, 2, 1, 3])
    }

    /// The way back.
    fn flat(tape: &mut Tape<'_, '_, '_>, edge: &str, of: &str) -> Result<String> {
        if tape.facts.rank(of) != Some(3) {
            return Ok(edge.to_owned());
        }
        let target = tape.ints(&[0, 0, -1]);
        let turned = tape.transposed(edge, &[0, 2, 1, 3])?;
        tape.op("Reshape", &[&turned, &target], &[])
    }

    /// Query heads as rows of the heads of keys.
    fn rows(&self, tape: &mut Tape<'_, '_, '_>, edge: &str) -> Result<String> {
        self.regroup(tape, edge, self.shared)
    }

    /// Rows of the heads of keys as query heads.
    fn queries(&self, tape: &mut Tape<'_, '_, '_>, edge: &str) -> Result<String> {
        self.regroup(tape, edge, self.heads)
    }

    fn regroup(&self, tape: &mut Tape<'_, '_, '_>, edge: &str, to: i64) -> Result<String> {
        if self.heads == self.shared {
            return Ok(edge.to_owned());
        }
        let target = tape.ints(&[0, to, -1, 0]);
        tape.op("Reshape", &[edge, &target], &[])
    }
}

/// 1/√width of a head, or what the attribute says, as a scalar of the queries' type.
fn scale(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, heads: i64, q4: &str) -> Result<String> {
    let q = visit.input(0);
    if let Some(scale) = visit.node.float("scale") {
        return Ok(tape.real(q, scale));
    }
    let per = if tape.facts.rank(q) == Some(3) { heads as usize } else { 1 };
    if let Some(width) = tape.facts.extent(q, -1) {
        return Ok(tape.real(q, ((width / per) as f32).sqrt().recip()));
    }
    let to = tape.facts.dtype(q).unwrap_or(DType::F32);
    let (shape, last) = (tape.op("Shape", &[q4], &[])?, tape.integer(3));
    let width = tape.op("Gather", &[&shape, &last], &[])?;
    let width = tape.cast(&width, to)?;
    let root = tape.op("Sqrt", &[&width], &[])?;
    tape.op("Reciprocal", &[&root], &[])
}

/// Numbers 0, 1, ... as many as `edge` has along `axis`.
fn count(tape: &mut Tape<'_, '_, '_>, edge: &str, axis: i64) -> Result<String> {
    let length = length(tape, edge, axis)?;
    let (from, by) = (tape.integer(0), tape.integer(1));
    tape.op("Range", &[&from, &length, &by], &[])
}

fn length(tape: &mut Tape<'_, '_, '_>, edge: &str, axis: i64) -> Result<String> {
    let (shape, axis) = (tape.op("Shape", &[edge], &[])?, tape.integer(axis));
    tape.op("Gather", &[&shape, &axis], &[])
}

/// Where attention is allowed by position, if that is not everywhere: it broadcasts to the scores.
fn allowed(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, q4: &str, k4: &str) -> Result<Option<String>> {
    let node = visit.node;
    let causal = node.int("is_causal") == Some(1);
    let window = |name: &str| node.int(name).filter(|&n| n >= 0);
    let (left, right) = (window("left_window_size"), window("right_window_size"));
    let valid = match node.input(VALID) {
        Some(edge) => {
            let wide = tape.cast(edge, DType::I64)?;
            let column = tape.ints(&[-1, 1, 1, 1]);
            Some(tape.op("Reshape", &[&wide, &column], &[])?)
        }
        None => None,
    };
    let keys = count(tape, k4, 2)?;
    let mut all = Vec::new();
    if causal || left.is_some() || right.is_some() {
        // Queries count on from the keys that were there before them.
        let (numbers, column) = (count(tape, q4, 2)?, tape.ints(&[1]));
        let mut place = tape.op("Unsqueeze", &[&numbers, &column], &[])?;
        let before = match (node.input(PAST[0]), &valid) {
            (Some(past), _) => Some(length(tape, past, 2)?),
            (None, Some(valid)) => {
                let own = length(tape, q4, 2)?;
                Some(tape.op("Sub", &[valid, &own], &[])?)
            }
            (None, None) => None,
        };
        if let Some(before) = before {
            place = tape.op("Add", &[&place, &before], &[])?;
        }
        if causal {
            all.push(tape.op("LessOrEqual", &[&keys, &place], &[])?);
        }
        let back = tape.op("Sub", &[&place, &keys], &[])?;
        if let Some(left) = left {
            let left = tape.integer(left);
            all.push(tape.op("LessOrEqual", &[&back, &left], &[])?);
        }
        if let Some(right) = right {
            let right = tape.integer(-right);
            all.push(tape.op("GreaterOrEqual", &[&back, &right], &[])?);
        }
    }
    if let Some(valid) = valid {
        all.push(tape.op("Less", &[&keys, &valid], &[])?);
    }
    let Some(mut joined) = all.pop() else { return Ok(None) };
    for other in all {
        joined = tape.op("And", &[&other, &joined], &[])?;
    }
    Ok(Some(joined))
}

/// The scores with the mask; what may not be seen is −∞.
fn masked(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, scores: &str, q4: &str, k4: &str) -> Result<String> {
    let q = visit.input(0);
    let mut scores = scores.to_owned();
    let mut open = allowed(tape, visit, q4, k4)?;
    if let Some(mask) = visit.node.input(MASK) {
        let truth = tape.facts.dtype(mask) == Some(DType::BOOL);
        let mut mask = mask.to_owned();
        if !mask_is_whole(&tape.facts, visit) {
            let (have, want) = (length(tape, &mask, -1)?, length(tape, k4, 2)?);
            let missing = tape.op("Sub", &[&want, &have], &[])?;
            let (column, before) = (tape.ints(&[1]), tape.ints(&[0]));
            let missing = tape.op("Reshape", &[&missing, &column], &[])?;
            let pads = tape.op("Concat", &[&before, &missing], &[("axis", Attr::Int(0))])?;
            let last = tape.ints(&[-1]);
            let fill = if truth { tape.falsehood() } else { tape.real(q, f32::NEG_INFINITY) };
            mask = tape.op("Pad", &[&mask, &pads, &fill, &last], &[])?;
        }
        if truth {
            open = Some(match open {
                Some(open) => tape.op("And", &[&mask, &open], &[])?,
                None => mask,
            });
        } else {
            scores = tape.op("Add", &[&scores, &mask], &[])?;
        }
    }
    let Some(open) = open else { return Ok(scores) };
    let nothing = tape.real(q, f32::NEG_INFINITY);
    tape.op("Where", &[&open, &scores, &nothing], &[])
}

/// The last two axes swapped.
fn turned(tape: &mut Tape<'_, '_, '_>, edge: &str) -> Result<String> {
    tape.transposed(edge, &[0, 1, 3, 2])
}

/// A sum of what is there.
fn plus(tape: &mut Tape<'_, '_, '_>, a: String, b: Option<String>) -> Result<String> {
    match b {
        Some(b) => tape.op("Add", &[&a, &b], &[]),
        None => Ok(a),
    }
}

/// Keys or values with those of the past before them.
fn with_past(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, slot: usize, heads: i64) -> Result<String> {
    let own = Pass::by_head(tape, visit.input(slot), visit.input(slot), heads)?;
    match visit.node.input(PAST[slot - 1]) {
        Some(past) => tape.op("Concat", &[past, &own], &[("axis", Attr::Int(2))]),
        None => Ok(own),
    }
}

pub(super) fn backward(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let (node, q) = (visit.node, visit.input(0));
    let (Some(heads), Some(shared)) = (heads(&tape.facts, visit, 0), heads(&tape.facts, visit, 1)) else {
        return Ok(Vec::new());
    };
    let grad = |i: usize| visit.grads.get(i).cloned().flatten();
    let mut exact = Vec::new();
    for i in 0..4 {
        exact.push(match grad(i) {
            Some(grad) => Some(tape.exact(&grad, node.output(i))?),
            None => None,
        });
    }
    let [ours, present_key, present_value, qk] = exact.try_into().unwrap_or_default();
    let q4 = Pass::by_head(tape, q, q, heads)?;
    let k4 = with_past(tape, visit, 1, shared)?;
    let v4 = with_past(tape, visit, 2, shared)?;
    let pass = Pass { heads, shared, scale: scale(tape, visit, heads, &q4)? };
    let q_rows = pass.rows(tape, &q4)?;
    let g_rows = match &ours {
        Some(g) => {
            let g = Pass::by_head(tape, g, q, heads)?;
            Some(pass.rows(tape, &g)?)
        }
        None => None,
    };

    // Forward, up to the probabilities.
    let k_turned = turned(tape, &k4)?;
    let raw = tape.op("MatMul", &[&q_rows, &k_turned], &[])?;
    let raw = tape.op("Mul", &[&raw, &pass.scale], &[])?;
    let raw = pass.queries(tape, &raw)?;
    let cap = node.float("softcap").filter(|&c| c > 0.0);
    let bent = match cap {
        Some(cap) => {
            let part = tape.multiplied(&raw, cap.recip(), q)?;
            Some(tape.op("Tanh", &[&part], &[])?)
        }
        None => None,
    };
    let capped = match (cap, &bent) {
        (Some(cap), Some(bent)) => tape.multiplied(bent, cap, q)?,
        _ => raw.clone(),
    };
    let scores = masked(tape, visit, &capped, &q4, &k4)?;
    let own = tape.facts.dtype(q).unwrap_or(DType::F32);
    let precise = node.int("softmax_precision").and_then(|p| i32::try_from(p).ok()).map(DType).filter(|&p| p != own);
    let cast = |tape: &mut Tape<'_, '_, '_>, edge: &str, to: Option<DType>| match to {
        Some(to) => tape.cast(edge, to),
        None => Ok(edge.to_owned()),
    };
    let back = precise.map(|_| own);
    let scores = cast(tape, &scores, precise)?;
    let p = tape.op("Softmax", &[&scores], &[("axis", Attr::Int(-1))])?;
    let blind = tape.op("IsNaN", &[&p], &[])?;
    let zero = tape.real_of(precise.unwrap_or(own), 0.0);
    let p = tape.op("Where", &[&blind, &zero, &p], &[])?;
    let p_rows = cast(tape, &p, back)?;
    let p_rows = pass.rows(tape, &p_rows)?;

    let mut gradients = Vec::new();
    if visit.wants(2) || visit.wants(PAST[1]) {
        let mut dv = match &g_rows {
            Some(g) => {
                let p = turned(tape, &p_rows)?;
                Some(tape.op("MatMul", &[&p, g], &[])?)
            }
            None => None,
        };
        dv = match dv {
            Some(dv) => Some(plus(tape, dv, present_value)?),
            None => present_value,
        };
        if let Some(dv) = dv {
            gradients.extend(divided(tape, visit, 2, dv)?);
        }
    }
    if ![0, 1, MASK, PAST[0]].iter().any(|&slot| visit.wants(slot)) {
        return Ok(gradients);
    }

    // Back through the softmax, in its precision.
    let after = node.int("qk_matmul_output_mode") == Some(3);
    let dp = match &g_rows {
        Some(g) => {
            let v = turned(tape, &v4)?;
            let dp = tape.op("MatMul", &[g, &v], &[])?;
            Some(pass.queries(tape, &dp)?)
        }
        None => None,
    };
    let dp = match (dp, qk.clone().filter(|_| after)) {
        (Some(dp), more) => Some(plus(tape, dp, more)?),
        (None, more) => more,
    };
    let mut ds = None;
    if let Some(dp) = dp {
        let dp = cast(tape, &dp, precise)?;
        let product = tape.op("Mul", &[&dp, &p], &[])?;
        let total = tape.reduce("ReduceSum", &product, &[-1], true)?;
        let centred = tape.op("Sub", &[&dp, &total], &[])?;
        let slope = tape.op("Mul", &[&centred, &p], &[])?;
        ds = Some(cast(tape, &slope, back)?);
    }
    if visit.wants(MASK)
        && let Some(ds) = &ds
    {
        gradients.push((MASK, reduce(tape, Grad::full(ds), ds, visit.input(MASK), None)?));
    }
    if let (Some(slope), Some(bent)) = (&ds, &bent) {
        let one = tape.real(q, 1.0);
        let square = tape.op("Mul", &[bent, bent], &[])?;
        let rest = tape.op("Sub", &[&one, &square], &[])?;
        ds = Some(tape.op("Mul", &[slope, &rest], &[])?);
    }
    let ds = match (ds, qk.filter(|_| !after)) {
        (Some(ds), more) => Some(plus(tape, ds, more)?),
        (None, more) => more,
    };
    let mut dk = None;
    if let Some(ds) = ds {
        let ds = tape.op("Mul", &[&ds, &pass.scale], &[])?;
        let ds = pass.rows(tape, &ds)?;
        if visit.wants(0) {
            let dq = tape.op("MatMul", &[&ds, &k4], &[])?;
            let dq = pass.queries(tape, &dq)?;
            gradients.push((0, Grad::full(&Pass::flat(tape, &dq, q)?)));
        }
        if visit.wants(1) || visit.wants(PAST[0]) {
            let ds = turned(tape, &ds)?;
            dk = Some(tape.op("MatMul", &[&ds, &q_rows], &[])?);
        }
    }
    let dk = match dk {
        Some(dk) => Some(plus(tape, dk, present_key)?),
        None => present_key,
    };
    if let Some(dk) = dk
        && (visit.wants(1) || visit.wants(PAST[0]))
    {
        gradients.extend(divided(tape, visit, 1, dk)?);
    }
    Ok(gradients)
}

/// The gradient of keys or values: that of the past ones, and that of the new ones.
fn divided(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>, slot: usize, whole: String) -> Result<Gradients> {
    let mut gradients = Vec::new();
    let (own, past_slot) = (visit.input(slot), PAST[slot - 1]);
    let mut now = whole;
    if let Some(past) = visit.node.input(past_slot) {
        let (all, before) = (length(tape, &now, 2)?, length(tape, past, 2)?);
        let after = tape.op("Sub", &[&all, &before], &[])?;
        let column = tape.ints(&[1]);
        let before = tape.op("Reshape", &[&before, &column], &[])?;
        let after = tape.op("Reshape", &[&after, &column], &[])?;
        let sizes = tape.op("Concat", &[&before, &after], &[("axis", Attr::Int(0))])?;
        let parts = tape.op_many("Split", &[&now, &sizes], &[("axis", Attr::Int(2))], 2)?;
        if visit.wants(past_slot) {
            gradients.push((past_slot, Grad::full(&parts[0])));
        }
        now = parts[1].clone();
    }
    if visit.wants(slot) {
        gradients.push((slot, Grad::full(&Pass::flat(tape, &now, own)?)));
    }
    Ok(gradients)
}
