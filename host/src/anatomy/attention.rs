//! Attention: from its output projection back over the mixed values to the weights over positions, and from there to
//! queries, keys and values, each with the linear map, or the part of a packed one, that makes it.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::draft::Draft;
use super::linear::{Linears, Projection};
use super::norms::Norms;
use super::residual::Step;
use super::view::View;
use crate::graph::Node;

/// Operators between attention scores and their softmax, and between a projection and the scores.
const ELEMENTWISE: [&str; 8] = ["Add", "Sub", "Mul", "Div", "Where", "Min", "Max", "Tanh"];

/// Queries, keys or values.
struct Heads<'l, 'g> {
    /// `[batch, pos, head, d_head]`
    edge: &'g str,
    projection: Projection<'l, 'g>,
    d_head: usize,
}

/// Reads the attention of a block.
pub(super) fn read<'g>(
    view: &View<'g>,
    linears: &Linears<'g>,
    norms: &Norms<'g>,
    layer: usize,
    step: Step<'g>,
    draft: &mut Draft,
) {
    let site = |s| Site::Block(layer, s);
    let weight = |r| WeightRef::Block(layer, r);
    draft.site(site(BlockSite::AttnOut), step.branch, "what the first Add of the block adds to the residual stream");
    let Some(out) = linears.behind(view, step.branch) else {
        let reason = format!("attention ends in {}, not in a linear map that is read", view.maker(step.branch));
        draft.absent_sites(layer, &INSIDE, &reason);
        draft.absent_sites(layer, &[BlockSite::AttnProj, BlockSite::Ln1Out], &reason);
        draft.absent_weights(layer, &ROLES, &reason);
        draft.absent_weights(layer, &[Role::Output, Role::OutputBias], &reason);
        draft.absent_weights(layer, &[Role::Ln1Scale, Role::Ln1Shift], &reason);
        return;
    };
    let evidence = format!("the output of the {} before the first Add of the block", out.op);
    draft.site(site(BlockSite::AttnOut), out.output, evidence.clone());
    draft.site(site(BlockSite::AttnProj), out.output, evidence);

    let mix = mixing(view, out.operand);
    let input = mix.as_ref().map_or(out.input, |m| if view.rank(out.input) == Some(3) { out.input } else { m.z });
    let whole = Projection { linear: out, columns: None };
    draft.linear(&whole, weight(Role::Output), weight(Role::OutputBias), input);

    let missing = |what: String, draft: &mut Draft| {
        let what = fused(view, step).map_or(what, |op| format!("one {op} operator fuses attention"));
        draft.absent_sites(layer, &INSIDE, &what);
        draft.absent_sites(layer, &[BlockSite::Ln1Out], &what);
        draft.absent_weights(layer, &ROLES, &what);
        draft.absent_weights(layer, &[Role::Ln1Scale, Role::Ln1Shift], &what);
    };
    let Some(mix) = mix else {
        let what = "the input of the output projection is not a transposed product of attention weights and values";
        return missing(what.into(), draft);
    };
    draft.site(site(BlockSite::Z), mix.z, "the transposed product of attention weights and values");
    let Some(softmax) = softmax(view, mix.pattern) else {
        return missing("no Softmax over the last axis makes the weights of the mixed values".into(), draft);
    };
    draft.site(site(BlockSite::Pattern), mix.pattern, "the Softmax of masked scores, multiplied with the values");
    let Some((q, k)) = softmax.input(0).and_then(|e| scores(view, e)) else {
        return missing("no one product of queries and keys makes the scores".into(), draft);
    };

    let parts = [
        (BlockSite::Q, Role::Query, Role::QueryBias, heads(view, linears, q), "left factor of the scores"),
        (BlockSite::K, Role::Key, Role::KeyBias, heads(view, linears, k), "right factor of the scores"),
        (BlockSite::V, Role::Value, Role::ValueBias, heads(view, linears, mix.v), "what the attention weights mix"),
    ];
    let mut reads = None;
    for (name, role, bias, found, word) in parts {
        let Some(found) = found else {
            let reason = "between its linear map and its use stand operators that are not read";
            draft.absent(site(name), reason);
            draft.absent_weights(layer, &[role, bias], reason);
            continue;
        };
        let count = found.projection.width() / found.d_head;
        match name {
            BlockSite::Q => draft.heads(layer, count, found.d_head),
            BlockSite::K => draft.kv_heads(layer, count),
            _ => {}
        }
        let packed = if found.projection.columns.is_some() { "a split of a packed projection" } else { "a projection" };
        draft.site(site(name), found.edge, format!("{packed} in heads; {word}"));
        let input = found.projection.linear.input;
        draft.linear(&found.projection, weight(role), weight(bias), input);
        reads = reads.or(Some(input));
    }

    match reads.and_then(|input| norms.behind(view, input)).filter(|n| view.root(n.input) == step.before) {
        Some(norm) => {
            draft.site(
                site(BlockSite::Ln1Out),
                norm.output,
                format!("{} of resid_pre, read by attention", norm.spelling),
            );
            draft.norm(norm, weight(Role::Ln1Scale), weight(Role::Ln1Shift));
        }
        None => {
            let reason = "attention does not read a layer norm of resid_pre";
            draft.absent_sites(layer, &[BlockSite::Ln1Out], reason);
            draft.absent_weights(layer, &[Role::Ln1Scale, Role::Ln1Shift], reason);
        }
    }
}

const INSIDE: [BlockSite; 5] = [BlockSite::Q, BlockSite::K, BlockSite::V, BlockSite::Pattern, BlockSite::Z];
const ROLES: [Role; 6] = [Role::Query, Role::Key, Role::Value, Role::QueryBias, Role::KeyBias, Role::ValueBias];

/// The product of attention weights and values.
struct Mix<'g> {
    z: &'g str,
    pattern: &'g str,
    v: &'g str,
}

fn mixing<'g>(view: &View<'g>, operand: &'g str) -> Option<Mix<'g>> {
    let z = view.root(operand);
    let turn = view.producer(z).filter(|n| n.is("Transpose") && n.ints("perm") == Some(&[0, 2, 1, 3]))?;
    let product = view.producer(view.root(turn.input(0)?)).filter(|n| n.is("MatMul"))?;
    let weights = product.input(0)?;
    Some(Mix { z, pattern: view.root_of_rank(weights, 4).unwrap_or(weights), v: product.input(1)? })
}

/// The softmax of which `pattern` is the output, perhaps with not-a-number replaced.
fn softmax<'g>(view: &View<'g>, pattern: &'g str) -> Option<&'g Node> {
    let mut node = view.producer(view.root(pattern))?;
    if node.is("Where")
        && let Some(kept) = node.input(2)
        && view.producer(node.input(0)?).is_some_and(|n| n.is("IsNaN") && n.input(0) == Some(kept))
    {
        node = view.producer(view.root(kept))?;
    }
    let axis = node.int("axis").unwrap_or(-1);
    (node.is("Softmax") && (axis == -1 || axis == 3)).then_some(node)
}

/// The two factors of the scores: the only product of two activations behind the softmax.
fn scores<'g>(view: &View<'g>, scores: &'g str) -> Option<(&'g str, &'g str)> {
    let mut found = Vec::new();
    view.upstream(scores, |edge| {
        let Some(node) = view.producer(edge) else { return true };
        if node.is("MatMul") && !found.contains(&(node.input(0), node.input(1))) {
            found.push((node.input(0), node.input(1)));
        }
        let onward = ELEMENTWISE.iter().any(|op| node.is(op)) || view.relayed(node).is_some();
        !onward
    });
    match found[..] {
        [(Some(q), Some(k))] => Some((q, k)),
        _ => None,
    }
}

/// Walks back over transposes, layout and scaling by a number to a projection.
fn heads<'l, 'g>(view: &View<'g>, linears: &'l Linears<'g>, operand: &'g str) -> Option<Heads<'l, 'g>> {
    let mut at = operand;
    // The last edge of four axes since the last operator that changes values or their order.
    let mut four = None;
    loop {
        if let Some(projection) = linears.projection(view, at) {
            let edge: &'g str = four?;
            let d_head = view.width(edge)?;
            return (d_head > 0 && projection.width() % d_head == 0).then_some(Heads { edge, projection, d_head });
        }
        if view.rank(at) == Some(4) {
            four = Some(at);
        }
        let node = view.producer(at)?;
        at = match view.relayed(node) {
            Some(before) => before,
            None => {
                four = None;
                match node.op() {
                    "Transpose" => node.input(0)?,
                    "Mul" | "Div" if view.is_scalar(node.input(1)?) => node.input(0)?,
                    "Mul" if view.is_scalar(node.input(0)?) => node.input(1)?,
                    _ => return None,
                }
            }
        };
    }
}

/// An operator that holds all of attention.
fn fused<'g>(view: &View<'g>, step: Step<'g>) -> Option<&'g str> {
    let mut found = None;
    view.upstream(step.branch, |edge| {
        let node = view.producer(edge).filter(|_| edge != step.before);
        found = found.or(node.map(Node::op).filter(|op| op.contains("Attention")));
        node.is_none()
    });
    found
}
