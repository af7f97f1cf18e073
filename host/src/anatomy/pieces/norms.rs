//! Norms over the last axis: the operators `LayerNormalization` and `RMSNormalization`, and what other operator sets
//! spell them with. A spelled norm is found around the product of a value and the inverse root of its own mean
//! square, whichever operators make square, mean, root and inverse.

use std::collections::HashMap;

use crate::anatomy::look::view::{Stored, View};
use crate::graph::Node;

/// x / sqrt(mean(x²) + epsilon) · (w + offset) + b over the last axis, of x less its mean where centred.
#[derive(Clone)]
pub(in crate::anatomy) struct Norm<'g> {
    pub input: &'g str,
    pub output: &'g str,
    /// True for a layer norm, false for an RMS norm.
    pub centred: bool,
    pub scale: Option<Stored<'g>>,
    /// What the graph adds to the stored scale.
    pub offset: f32,
    pub shift: Option<Stored<'g>>,
    pub epsilon: f32,
    /// How the graph spells it.
    pub spelling: String,
}

impl Norm<'_> {
    /// What it is and how the graph spells it.
    pub fn words(&self) -> String {
        let kind = if self.centred { "layer norm" } else { "RMS norm" };
        format!("{kind} ({})", self.spelling)
    }
}

/// Every norm of a graph.
pub(in crate::anatomy) struct Norms<'g> {
    all: Vec<Norm<'g>>,
    by_output: HashMap<&'g str, usize>,
}

impl<'g> Norms<'g> {
    pub fn find(view: &View<'g>) -> Self {
        let read = |node| operator(view, node).or_else(|| spelled(view, node)).unwrap_or_default();
        let all: Vec<Norm<'g>> = view.graph.nodes().iter().flat_map(read).collect();
        let by_output = all.iter().enumerate().map(|(i, norm)| (norm.output, i)).collect();
        Self { all, by_output }
    }

    /// The norm whose output is exactly `edge`.
    pub fn making(&self, edge: &str) -> Option<&Norm<'g>> {
        self.by_output.get(edge).map(|&i| &self.all[i])
    }

    /// The norm whose output has the values of `edge`.
    pub fn behind(&self, view: &View<'g>, edge: &'g str) -> Option<&Norm<'g>> {
        view.chain(edge).into_iter().find_map(|e| self.making(e))
    }
}

fn last_axis(view: &View<'_>, edge: &str, axis: i64) -> bool {
    axis == -1 || view.rank(edge).is_some_and(|rank| i64::try_from(rank) == Ok(axis + 1))
}

fn operator<'g>(view: &View<'g>, node: &'g Node) -> Option<Vec<Norm<'g>>> {
    let input = node.input(0)?;
    let centred = node.is("LayerNormalization");
    if !centred && !node.is("RMSNormalization") || !last_axis(view, input, node.int("axis").unwrap_or(-1)) {
        return None;
    }
    let mut norm = Norm {
        input,
        output: node.output(0),
        centred,
        scale: None,
        offset: 0.0,
        shift: view.stored(node, 2, 1),
        epsilon: node.float("epsilon").unwrap_or(1e-5),
        spelling: node.op().to_owned(),
    };
    // An RMS norm of a value less its mean is a layer norm.
    if let Some(whole) = less_mean(view, input).filter(|_| !centred) {
        (norm.input, norm.centred, norm.spelling) = (whole, true, format!("ReduceMean, Sub, {}", node.op()));
    }
    match view.parameter(node, 1) {
        Some((scale, offset)) => (norm.scale, norm.offset) = (Some(scale), offset),
        // A scale that is all ones stands in for none, and the real one may follow.
        None if norm.shift.is_none() => return Some(parameters(view, norm)),
        None => {}
    }
    Some(vec![norm])
}

/// The norms around the product of a value and the inverse root of its mean square.
fn spelled<'g>(view: &View<'g>, node: &'g Node) -> Option<Vec<Norm<'g>>> {
    let mut ops = Vec::new();
    let (x, (squared, epsilon)) = if node.is("Div") {
        (node.input(0)?, root(view, node.input(1)?, &mut ops)?)
    } else if node.is("Mul") {
        let mut found = None;
        for (x, r) in [(0, 1), (1, 0)] {
            ops.clear();
            if let Some(inverse) = inverse(view, node.input(r)?, &mut ops) {
                found = Some((node.input(x)?, inverse));
                break;
            }
        }
        found?
    } else {
        return None;
    };
    ops.push(node.op());
    let centred = less_mean(view, x);
    // Exporters may centre twice, once for each use.
    let twice = || centred.zip(less_mean(view, squared)).is_some_and(|(a, b)| view.root(a) == view.root(b));
    if view.root(x) != squared && !twice() {
        return None;
    }
    if centred.is_some() {
        ops.splice(0..0, ["ReduceMean", "Sub"]);
    }
    let norm = Norm {
        input: centred.unwrap_or(x),
        output: node.output(0),
        centred: centred.is_some(),
        scale: None,
        offset: 0.0,
        shift: None,
        epsilon,
        spelling: ops.join(", "),
    };
    Some(parameters(view, norm))
}

/// With the product with a vector and the sum with one that follow a norm. Norms of one value may share all before
/// their products.
fn parameters<'g>(view: &View<'g>, mut norm: Norm<'g>) -> Vec<Norm<'g>> {
    let mut at = norm.output;
    loop {
        let readers = view.readers(at);
        let [(reader, slot)] = readers[..] else {
            let scaled = |&(reader, slot): &(&'g Node, usize)| {
                let (scale, offset) = view.parameter(reader, 1 - slot.min(1)).filter(|_| reader.is("Mul"))?;
                let (output, spelling) = (reader.output(0), format!("{}, Mul", norm.spelling));
                Some(Norm { scale: Some(scale), offset, output, spelling, ..norm.clone() })
            };
            let several = if norm.scale.is_none() { readers.iter().map(scaled).collect() } else { None };
            let several: Option<Vec<Norm<'g>>> = several.filter(|all: &Vec<_>| !all.is_empty());
            return several
                .map_or_else(|| vec![norm], |all| all.into_iter().flat_map(|n| parameters(view, n)).collect());
        };
        let vector = || view.parameter(reader, 1 - slot.min(1));
        if slot == 0 && view.relayed(reader).is_some() {
            at = reader.output(0);
            continue;
        } else if reader.is("Mul") && norm.scale.is_none() && norm.shift.is_none() {
            let Some((scale, offset)) = vector() else { return vec![norm] };
            (norm.scale, norm.offset) = (Some(scale), offset);
        } else if reader.is("Add") && norm.shift.is_none() {
            let Some((shift, 0.0)) = vector() else { return vec![norm] };
            norm.shift = Some(shift);
        } else {
            return vec![norm];
        }
        norm.spelling = format!("{}, {}", norm.spelling, reader.op());
        at = reader.output(0);
        norm.output = at;
    }
}

/// (the value of which `edge` is the inverse root of the mean square, epsilon).
fn inverse<'g>(view: &View<'g>, edge: &'g str, ops: &mut Vec<&'g str>) -> Option<(&'g str, f32)> {
    let node = view.producer(view.root(edge))?;
    let found = match node.op() {
        "Reciprocal" => root(view, node.input(0)?, ops)?,
        "Div" if view.number(node.input(0)?) == Some(1.0) => root(view, node.input(1)?, ops)?,
        "Pow" if view.number(node.input(1)?) == Some(-0.5) => variance(view, node.input(0)?, ops)?,
        _ => return None,
    };
    ops.push(node.op());
    Some(found)
}

/// The same for the root of the mean square.
fn root<'g>(view: &View<'g>, edge: &'g str, ops: &mut Vec<&'g str>) -> Option<(&'g str, f32)> {
    let node = view.producer(view.root(edge))?;
    let half = || node.input(1).and_then(|e| view.number(e)) == Some(0.5);
    let found = (node.is("Sqrt") || node.is("Pow") && half()).then(|| variance(view, node.input(0)?, ops))??;
    ops.push(node.op());
    Some(found)
}

/// The same for the mean square with epsilon.
fn variance<'g>(view: &View<'g>, edge: &'g str, ops: &mut Vec<&'g str>) -> Option<(&'g str, f32)> {
    let node = view.producer(view.root(edge))?;
    if !node.is("Add") {
        return Some((mean_square(view, edge, ops)?, 0.0));
    }
    let (mean, epsilon) = view.either(node, |e| view.number(e))?;
    let squared = mean_square(view, mean, ops)?;
    ops.push("Add");
    Some((squared, epsilon))
}

fn mean_square<'g>(view: &View<'g>, edge: &'g str, ops: &mut Vec<&'g str>) -> Option<&'g str> {
    let square = view.producer(mean(view, edge)?)?;
    let squared = match square.op() {
        "Pow" if view.number(square.input(1)?) == Some(2.0) => view.root(square.input(0)?),
        "Mul" if view.root(square.input(0)?) == view.root(square.input(1)?) => view.root(square.input(0)?),
        _ => return None,
    };
    ops.extend([square.op(), "ReduceMean"]);
    Some(squared)
}

/// Of what `edge` is the difference to its own mean.
fn less_mean<'g>(view: &View<'g>, edge: &'g str) -> Option<&'g str> {
    let sub = view.producer(view.root(edge)).filter(|n| n.is("Sub"))?;
    let input = sub.input(0)?;
    (mean(view, sub.input(1)?)? == view.root(input)).then_some(input)
}

/// What a mean over the last axis is taken of.
fn mean<'g>(view: &View<'g>, edge: &'g str) -> Option<&'g str> {
    let node = view.producer(view.root(edge)).filter(|n| n.is("ReduceMean"))?;
    let axes = match node.input(1) {
        Some(axes) => view.ints(axes)?,
        None => node.ints("axes")?.to_vec(),
    };
    let input = node.input(0)?;
    (axes.len() == 1 && last_axis(view, input, axes[0]) && node.int("keepdims").unwrap_or(1) == 1)
        .then(|| view.root(input))
}
