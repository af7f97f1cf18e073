//! Attention: from its output projection back over the mixed values to the weights over positions, and from there to
//! queries, keys and values.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::branch::{self, Names};
use super::causal;
use super::heads::{self, Heads};
use super::residual::Block;
use super::unread;
use crate::anatomy::codes;
use crate::anatomy::draft::Draft;
use crate::anatomy::look::region::{ELEMENTWISE, Region, mixes};
use crate::anatomy::look::view::{View, operator};
use crate::anatomy::parts::Axes;
use crate::anatomy::pieces::linear::Linears;
use crate::anatomy::pieces::norms::{Norm, Norms};
use crate::base::Error;
use crate::graph::Node;

const INSIDE: [BlockSite; 5] = [BlockSite::Q, BlockSite::K, BlockSite::V, BlockSite::Pattern, BlockSite::Z];
const ROLES: [Role; 8] = [
    Role::Query,
    Role::Key,
    Role::Value,
    Role::QueryBias,
    Role::KeyBias,
    Role::ValueBias,
    Role::QueryNorm,
    Role::KeyNorm,
];
const NAMES: Names = Names {
    added: BlockSite::AttnOut,
    projected: BlockSite::AttnProj,
    weight: Role::Output,
    bias: Role::OutputBias,
    post: Role::Ln1Post,
    addition: "the first Add of the block",
};

/// Reads the attention of a block.
pub(in crate::anatomy) fn read<'g>(
    view: &View<'g>,
    linears: &Linears<'g>,
    norms: &Norms<'g>,
    layer: usize,
    block: &Block<'_, 'g>,
    draft: &mut Draft,
) {
    let site = |s| Site::Block(layer, s);
    let weight = |r| WeightRef::Block(layer, r);
    let (attention, region) = (block.attention, &block.attention.region);
    draft.site(
        site(BlockSite::AttnOut),
        attention.edge,
        format!("what {} adds to the residual stream", NAMES.addition),
    );
    let ending = match branch::ending(view, linears, norms, attention) {
        Ok(ending) => ending,
        Err(maker) => {
            let reason = format!("attention ends in {maker}, not in a linear map that is read");
            let reason = unread::because(view, linears, region, reason);
            draft.absent_sites(layer, &INSIDE, &reason);
            draft.absent_sites(layer, &[BlockSite::AttnProj, BlockSite::Ln1Out], &reason);
            draft.absent_weights(layer, &ROLES, &reason);
            draft.absent_weights(layer, &[Role::Output, Role::OutputBias, Role::Ln1Post], &reason);
            draft.absent_weights(layer, &[Role::Ln1Scale, Role::Ln1Shift], &reason);
            return;
        }
    };
    let out = ending.out;
    let mix = mixing(view, norms, region, out.operand);
    let z = z(view, out.operand);
    let input = match z {
        Some((edge, _)) if view.rank(out.input) != Some(3) => edge,
        _ => out.input,
    };
    branch::note(&ending, layer, &NAMES, input, draft);

    let missing = |what: String, draft: &mut Draft| {
        let what = fused(view, region).map_or(what, |op| format!("one {op} operator fuses attention"));
        draft.absent_sites(layer, &INSIDE, &what);
        draft.absent_sites(layer, &[BlockSite::Ln1Out], &what);
        draft.absent_weights(layer, &ROLES, &what);
        draft.absent_weights(layer, &[Role::Ln1Scale, Role::Ln1Shift], &what);
    };
    let Some(mix) = mix else {
        let what = "the input of the output projection is not a product of attention weights and values";
        return missing(what.into(), draft);
    };
    let Some((q, k)) = mix.scores else {
        return missing("no one product of queries and keys makes the scores".into(), draft);
    };
    if !causal::looks_back(view, region, mix.weighs) {
        let text = format!(
            "block {layer}: nothing that masks the scores of {} tells earlier from later positions, so this is not a \
             decoder, or its mask is left to the caller",
            mix.weighs.label()
        );
        let error = Error::new(&codes::NO_TRANSFORMER, text);
        draft.problems.push(error.help("engraft reads decoders; encoders, which look at all positions, are not read"));
    }
    match mix.pattern {
        Ok(pattern) => {
            let left = if mix.sink { "; a key that is none of the positions' takes a part of it" } else { "" };
            draft.anatomy.sinks.extend(mix.sink.then_some(layer));
            let evidence = format!("the Softmax of masked scores, multiplied with the values{left}");
            draft.site(site(BlockSite::Pattern), pattern, evidence);
        }
        Err(op) => {
            draft.absent_sites(layer, &[BlockSite::Pattern], &format!("one {op} operator fuses scores and mixing"));
        }
    }

    let parts = [
        (BlockSite::Q, Role::Query, Role::QueryBias, q, "left factor of the scores"),
        (BlockSite::K, Role::Key, Role::KeyBias, k, "right factor of the scores"),
        (BlockSite::V, Role::Value, Role::ValueBias, mix.v, "what the attention weights mix"),
    ];
    // The last axis of the factors is what they are multiplied along, unless an operator says how many heads they hold.
    let width = |operand, heads: Option<usize>| {
        let width = view.width(operand)?;
        let merged = heads.filter(|&n| n > 0 && view.rank(operand) == Some(3) && width % n == 0);
        Some(merged.map_or(width, |n| width / n))
    };
    let found = parts.map(|part| {
        let width = match part.0 {
            // Keys are turned before they are multiplied with queries; both are equally wide.
            BlockSite::Q | BlockSite::K => width(q, mix.heads.map(|h| h.0)),
            _ => width(mix.v, mix.heads.map(|h| h.1)),
        };
        (part, heads::read(view, linears, region, part.3, width))
    });
    // The output projection reads one mixed value for each query head, and groups of those share keys and values.
    let each = width(mix.v, mix.heads.map(|h| h.1)).filter(|&d| d > 0 && out.width_in.is_multiple_of(d));
    let mixed = each.map(|d| out.width_in / d);
    let found = found.map(|(part, found)| (part, found.and_then(|found| counted(found, part.0, mixed))));
    let keys = found[1].1.is_ok();
    for ((name, ..), found) in &found {
        match (name, found) {
            (BlockSite::Q, Ok(found)) => draft.heads(layer, found.heads, found.d_head),
            (BlockSite::K, Ok(found)) => draft.kv_heads(layer, found.heads),
            // As many as there are of values, where several maps make the keys.
            (BlockSite::V, Ok(values)) if !keys => draft.kv_heads(layer, values.heads),
            _ => {}
        }
    }
    if let (Err(_), Some(heads), Some(width)) = (&found[0].1, mixed, each) {
        // Mixed values are in the heads of the queries.
        draft.heads(layer, heads, width);
    }
    let mut reads = None;
    for ((name, role, bias, operand, word), found) in found {
        let found = match found {
            Ok(found) => found,
            Err(reason) => {
                let reason = unread::because(view, linears, &region.upstream_of(view, operand), reason);
                draft.absent(site(name), &reason);
                draft.absent_weights(layer, &[role, bias], &reason);
                continue;
            }
        };
        let packed = if found.projection.columns.is_some() { "a part of a packed projection" } else { "a projection" };
        let made = found.projection.linear;
        let altered = (name == BlockSite::V).then(|| altering(view, made.output, mix.v)).flatten();
        let then =
            altered.map_or(String::new(), |node| format!("; {} alters them before they are mixed", node.label()));
        draft.anatomy.altered_values.extend(altered.map(|_| layer));
        match found.edge {
            Some((edge, axes)) => draft.site_in(site(name), edge, axes, format!("{packed} in heads; {word}{then}")),
            None => draft.absent(
                site(name),
                found.altered.map_or("no edge holds them, and nothing else, in heads".to_owned(), |node| {
                    format!("{} alters them before any edge holds them and nothing else", node.label())
                }),
            ),
        }
        let input = made.input;
        draft.linear(&found.projection, weight(role), weight(bias), input);
        reads = reads.or(Some(input));
    }
    for (role, operand, word) in [(Role::QueryNorm, q, "queries"), (Role::KeyNorm, k, "keys")] {
        let part = heads::norms(view, linears, norms, region, operand);
        match part[..] {
            [norm] => draft.scale(norm, weight(role)),
            [] => draft.absent(weight(role), format!("no norm of {word} stands before the scores")),
            _ => draft.absent(weight(role), format!("{} norms of {word} stand before the scores", part.len())),
        }
    }
    let after = mix.norm.map_or(String::new(), |norm| format!(" after {}", norm.words()));
    draft.anatomy.altered_values.extend(mix.norm.map(|_| layer));
    match z {
        Some((edge, axes)) => {
            let evidence = format!("the mixed values{after}, read by the output projection");
            draft.site_in(site(BlockSite::Z), edge, axes, evidence);
        }
        None => draft.absent(site(BlockSite::Z), "no edge holds the mixed values as [batch, pos, head, d_head]"),
    }

    let norm = reads.and_then(|input| norms.behind(view, input)).filter(|n| view.root(n.input) == block.before);
    match norm {
        Some(norm) => {
            let evidence = format!("{} of resid_pre, read by attention", norm.words());
            draft.site(site(BlockSite::Ln1Out), norm.output, evidence);
            draft.norm(norm, site(BlockSite::Ln1Out), weight(Role::Ln1Scale), weight(Role::Ln1Shift));
        }
        None => {
            let bare = reads.is_some_and(|input| view.root(input) == block.before);
            let reason = match bare {
                true => "attention reads resid_pre itself, without a norm before it",
                false => "attention does not read a norm of resid_pre",
            };
            draft.absent_sites(layer, &[BlockSite::Ln1Out], reason);
            draft.absent_weights(layer, &[Role::Ln1Scale, Role::Ln1Shift], reason);
        }
    }
}

/// The same heads, if there are as many as the output projection reads.
fn counted<'l, 'g>(found: Heads<'l, 'g>, name: BlockSite, mixed: Option<usize>) -> Result<Heads<'l, 'g>, String> {
    let fits = |all: usize| match name {
        BlockSite::Q => all == found.heads,
        _ => found.heads > 0 && all.is_multiple_of(found.heads),
    };
    match mixed.filter(|&all| !fits(all)) {
        None => Ok(found),
        Some(all) => Err(format!(
            "which outputs of `{}` they are could not be followed: all of it is {} heads of {}, and the output \
             projection reads {all}",
            found.projection.linear.output, found.heads, found.d_head
        )),
    }
}

/// The product of attention weights and values.
struct Mix<'n, 'g> {
    /// The norm that the mixed values go through before they are projected.
    norm: Option<&'n Norm<'g>>,
    /// True if the softmax is over a key more than is mixed.
    sink: bool,
    /// The attention weights, or the operator that keeps them inside.
    pattern: Result<&'g str, String>,
    v: &'g str,
    /// Queries and keys as they are multiplied.
    scores: Option<(&'g str, &'g str)>,
    /// The softmax, or the operator around it.
    weighs: &'g Node,
    /// (query heads, key and value heads), where an operator states them.
    heads: Option<(usize, usize)>,
}

/// The edge of the mixed values that the projection reads, and its axes.
fn z<'g>(view: &View<'g>, operand: &'g str) -> Option<(&'g str, Axes)> {
    let chain = view.chain(operand);
    let of_rank = |rank| chain.iter().rev().copied().find(|e| view.rank(e) == Some(rank));
    let turned = |e: &&str| view.producer(e).is_some_and(|n| n.is("Transpose"));
    // In four axes only what was turned back from heads is known to have positions first.
    let four = of_rank(4).filter(turned).map(|e| (e, Axes::Named));
    four.or_else(|| of_rank(3).map(|e| (e, Axes::HeadsMerged)))
}

/// Walks back from the projection's input to the product of attention weights and values.
fn mixing<'n, 'g>(view: &View<'g>, norms: &'n Norms<'g>, region: &Region<'g>, operand: &'g str) -> Option<Mix<'n, 'g>> {
    let (mut at, mut norm) = (operand, None);
    loop {
        let node = view.producer(at).filter(|_| region.has(at))?;
        if let Some(found) = norms.making(at).filter(|_| norm.is_none()) {
            (at, norm) = (found.input, Some(found));
        } else if let Some(before) = view.relayed(node) {
            at = before;
        } else if node.is("Transpose") {
            at = node.input(0)?;
        } else if node.is("Attention") {
            let count = |name| node.int(name).and_then(|n| usize::try_from(n).ok());
            return Some(Mix {
                norm,
                sink: false,
                pattern: Err(operator(node)),
                v: node.input(2)?,
                scores: Some((node.input(0)?, node.input(1)?)),
                weighs: node,
                heads: count("q_num_heads").zip(count("kv_num_heads")),
            });
        } else if node.is("MatMul") {
            let (a, b) = (node.input(0)?, node.input(1)?);
            let of = |edge| Some((edge, softmax(view, edge)?));
            let (weights, (softmax, sink), v) = match (of(a), of(b)) {
                (Some((weights, made)), None) => (weights, made, b),
                (None, Some((weights, made))) => (weights, made, a),
                _ => return None,
            };
            let pattern = Ok(view.root_of_rank(weights, 4).unwrap_or(weights));
            return Some(Mix {
                norm,
                sink,
                pattern,
                v,
                scores: scores(view, region, softmax.input(0)?),
                weighs: softmax,
                heads: None,
            });
        } else {
            return None;
        }
    }
}

/// The softmax of which `pattern` is the output, perhaps with not-a-number replaced or a last key left out, and whether
/// one is.
fn softmax<'g>(view: &View<'g>, pattern: &'g str) -> Option<(&'g Node, bool)> {
    let (mut at, mut sink) = (view.root(pattern), false);
    loop {
        let node = view.producer(at)?;
        let kept = match node.op() {
            "Softmax" => {
                let axis = node.int("axis").unwrap_or(-1);
                let last = view.rank(at).is_none_or(|rank| axis + 1 == rank as i64);
                return (axis == -1 || last).then_some((node, sink));
            }
            "Where" => node.input(2).filter(|kept| {
                view.producer(node.input(0).unwrap_or_default())
                    .is_some_and(|n| n.is("IsNaN") && n.input(0) == Some(kept))
            })?,
            "Slice" => {
                sink = true;
                node.input(0)?
            }
            _ => return None,
        };
        at = view.root(kept);
    }
}

/// The two factors of the scores: the only product of two activations behind the softmax.
fn scores<'g>(view: &View<'g>, region: &Region<'g>, scores: &'g str) -> Option<(&'g str, &'g str)> {
    let mut found = Vec::new();
    view.upstream(scores, |edge| {
        let Some(node) = view.producer(edge).filter(|_| region.has(edge)) else { return true };
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

/// The first operator that changes values, and does not only arrange them, on the way from a linear map to their mixing.
fn altering<'g>(view: &View<'g>, made: &'g str, mixed: &'g str) -> Option<&'g Node> {
    let changes = |node: &&Node| ELEMENTWISE.iter().any(|op| node.is(op)) && !node.is("Concat") && !node.is("Where");
    // Extents are computed from the values as well: they have one axis at most.
    Region::between(view, made, mixed)
        .nodes(view)
        .filter(changes)
        .find(|n| view.rank(n.output(0)).is_none_or(|r| r > 1))
}

/// An operator that holds all of attention.
fn fused<'g>(view: &View<'g>, region: &Region<'g>) -> Option<String> {
    region.nodes(view).find(|n| mixes(view, n) && !n.is("Softmax")).map(operator)
}
