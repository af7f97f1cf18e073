//! The logits: the output of the graph that a linear map makes, perhaps scaled or capped, and what that map reads.

use crate::anatomy::codes;
use crate::anatomy::look::view::View;
use crate::anatomy::parts::Shaping;
use crate::anatomy::pieces::linear::{Linear, Linears};
use crate::anatomy::pieces::norms::{Norm, Norms};
use crate::base::{Error, Result};
use crate::graph::Node;

const HEAD: &str = "engraft reads decoders with their language-modelling head; export the causal language model, not the bare \
                    transformer, an encoder or a classifier";

/// The output of the graph that is the logits, and what makes it.
pub(in crate::anatomy) struct Unembedding<'l, 'g> {
    pub logits: &'g str,
    pub linear: &'l Linear<'g>,
    /// What is done to the linear map's output, first step first.
    pub shaping: Vec<Shaping>,
    /// The last norm.
    pub norm: Option<&'l Norm<'g>>,
    /// The end of the residual stream.
    pub end: &'g str,
    /// The node that leaves something out, if one does, and what it leaves out.
    pub selects: Option<(&'g Node, &'static str)>,
}

/// Finds the logits.
///
/// # Errors
/// `anatomy-ambiguous` and `anatomy-not-found`
pub(in crate::anatomy) fn unembedding<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    norms: &'l Norms<'g>,
) -> Result<Unembedding<'l, 'g>> {
    let outputs = view.graph.outputs();
    let mut found = Vec::new();
    for output in &outputs {
        let Some(edge) = view.edge(&output.name) else { continue };
        let rank = view.rank(edge).or(output.dims.as_ref().map(Vec::len));
        if matches!(rank, Some(2 | 3)) {
            found.extend(behind(view, linears, norms, edge));
        }
    }
    // What other outputs are computed from is an activation inside.
    let last = |u: &Unembedding<'_, 'g>| {
        !found.iter().any(|other| other.logits != u.logits && view.derives(other.linear.operand, u.linear.output))
    };
    let keep: Vec<bool> = found.iter().map(last).collect();
    let mut found: Vec<_> = found.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(u, _)| u).collect();
    // One number a position is no choice among tokens.
    if found.iter().any(|u| u.linear.width_out > 1) {
        found.retain(|u| u.linear.width_out > 1);
    } else if let Some(value) = found.first() {
        let (logits, op) = (value.logits, value.linear.op);
        let text = format!(
            "the output `{logits}` is one number for each position, made by a {op} of the width 1: expected logits, one \
             for each token of the vocabulary"
        );
        return Err(Error::new(&codes::NO_TRANSFORMER, text).help(HEAD));
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|f| format!("`{}`", f.logits)).collect();
        let text = format!("{} outputs could be the logits: {}", found.len(), names.join(" and "));
        return Err(Error::new(&codes::AMBIGUOUS, text).help("export the model with its logits as the only output"));
    }
    found.pop().ok_or_else(|| {
        let one = |o: &crate::graph::Port| {
            let rank = view.rank(&o.name).or(o.dims.as_ref().map(Vec::len));
            let rank = rank.map_or("of unknown rank".to_owned(), |r| format!("of rank {r}"));
            format!("`{}` ({rank}, made by {})", o.name, view.maker(&o.name))
        };
        let list: Vec<String> = outputs.iter().map(one).collect();
        let text = format!(
            "no output is [batch, pos, vocab] made by a Gemm or MatMul with a matrix of the file: {}",
            list.join(", ")
        );
        Error::new(&codes::NO_TRANSFORMER, text).help(HEAD)
    })
}

fn behind<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    norms: &'l Norms<'g>,
    logits: &'g str,
) -> Option<Unembedding<'l, 'g>> {
    let (mut shaping, mut selects) = (Vec::new(), None);
    let mut at = logits;
    let linear = loop {
        if let Some(linear) = linears.making(at) {
            break linear;
        }
        let node = view.producer(at)?;
        at = match passed(view, node) {
            Some(Passed::Same(before)) => before,
            Some(Passed::Selects(before)) => {
                let narrower = view.width(before) != view.width(node.output(0));
                selects = Some((
                    node,
                    match narrower {
                        true => "leaves a part of the vocabulary out behind the unembedding",
                        false => "leaves positions out behind the unembedding",
                    },
                ));
                before
            }
            Some(Passed::Scale(before, factor)) => {
                shaping.push(Shaping::Scale(factor));
                before
            }
            None if node.is("Tanh") => {
                shaping.push(Shaping::Tanh);
                node.input(0)?
            }
            None => return None,
        };
    };
    shaping.reverse();
    let mut at = linear.input;
    let norm = loop {
        if let Some(norm) = norms.making(at) {
            break Some(norm);
        }
        at = match view.producer(at).and_then(|node| Some((node, passed(view, node)?))) {
            Some((_, Passed::Same(before))) => before,
            Some((node, Passed::Selects(before))) => {
                selects = Some((node, "leaves positions out before they are unembedded"));
                before
            }
            Some((_, Passed::Scale(before, factor))) => {
                shaping.insert(0, Shaping::Scale(factor));
                before
            }
            None => break None,
        };
    };
    Some(Unembedding { logits, linear, shaping, norm, end: norm.map_or(at, |n| n.input), selects })
}

/// What stands between the stream and the logits besides norm and linear map.
enum Passed<'g> {
    Same(&'g str),
    Selects(&'g str),
    Scale(&'g str, f32),
}

fn passed<'g>(view: &View<'g>, node: &'g Node) -> Option<Passed<'g>> {
    if let Some(before) = view.relayed(node) {
        return Some(Passed::Same(before));
    }
    let input = node.input(0)?;
    match node.op() {
        // A slice or gather of positions; rows of a table are no activation.
        "Gather" | "Slice" | "GatherND" | "GatherElements" if view.rank(input) == Some(3) => {
            Some(Passed::Selects(input))
        }
        "Mul" => view.either(node, |e| view.number(e)).map(|(before, factor)| Passed::Scale(before, factor)),
        "Div" => Some(Passed::Scale(input, 1.0 / view.number(node.input(1)?)?)),
        _ => None,
    }
}
