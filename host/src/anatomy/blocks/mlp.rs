//! The MLP: from its output projection back over the activation function to the projections that feed it. Of two that
//! are multiplied, the gate is the one that an activation function bends first.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::branch::{self, Names};
use super::residual::Block;
use super::sources::{self, Source};
use super::unread;
use crate::anatomy::codes;
use crate::anatomy::draft::Draft;
use crate::anatomy::look::region::Region;
use crate::anatomy::look::view::View;
use crate::anatomy::pieces::linear::{Linears, Projection};
use crate::anatomy::pieces::norms::Norms;
use crate::base::Error;

const INSIDE: [BlockSite; 3] = [BlockSite::Ln2Out, BlockSite::MlpPre, BlockSite::MlpPreLinear];
const ROLES: [Role; 6] =
    [Role::Ln2Scale, Role::Ln2Shift, Role::MlpIn, Role::MlpInBias, Role::MlpGate, Role::MlpGateBias];

/// Reads the MLP of a block.
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
    let missing = |reason: &str, draft: &mut Draft| {
        draft.absent_sites(layer, &INSIDE, reason);
        draft.absent_weights(layer, &ROLES, reason);
    };
    let because = |reason: &str| unread::because(view, linears, &block.mlp.region, reason.to_owned());
    let names = Names {
        added: BlockSite::MlpOut,
        projected: BlockSite::MlpProj,
        weight: Role::MlpOut,
        bias: Role::MlpOutBias,
        post: Role::Ln2Post,
        addition: if block.middle.is_some() { "the second Add of the block" } else { "the block's sum" },
    };
    draft.site(site(BlockSite::MlpOut), block.mlp.edge, format!("what {} adds to the residual stream", names.addition));
    if let Some(router) = block.mlp.region.router(view) {
        let label = router.label();
        let reason = format!("the MLP is a mixture of experts, among which {label} chooses for each token: not read");
        draft.absent_sites(layer, &[BlockSite::MlpProj, BlockSite::MlpPost], &reason);
        draft.absent_weights(layer, &[Role::MlpOut, Role::MlpOutBias, Role::Ln2Post], &reason);
        return missing(&reason, draft);
    }
    let ending = match branch::ending(view, linears, norms, block.mlp) {
        Ok(ending) => ending,
        Err(maker) => {
            let reason = format!("the MLP ends in {maker}, not in a linear map that is read");
            let reason = because(&reason);
            draft.absent_sites(layer, &[BlockSite::MlpProj, BlockSite::MlpPost], &reason);
            draft.absent_weights(layer, &[Role::MlpOut, Role::MlpOutBias, Role::Ln2Post], &reason);
            return missing(&reason, draft);
        }
    };
    let out = ending.out;
    branch::note(&ending, layer, &names, out.input, draft);
    draft.site(site(BlockSite::MlpPost), out.input, format!("what the last {} of the block multiplies", out.op));
    draft.d_mlp(layer, out.width_in);

    // A norm between activation and projection is not a part of the activation.
    let acted = norms.behind(view, out.input).map_or(out.input, |norm| norm.input);
    let region = block.mlp.region.upstream_of(view, acted);
    let found = sources::find(view, linears, &region, acted, false);
    let (gate, into) = match &found[..] {
        [] => {
            let reason = because("no linear map is found between the residual stream and mlp.post");
            return missing(&reason, draft);
        }
        [a, b] if unread::adapted(view, linears, &region) => {
            let (a, b) = (a.linear.output, b.linear.output);
            return missing(&because(&format!("the sum of `{a}` and `{b}` feeds mlp.post")), draft);
        }
        [one] => (None, one),
        [a, b] => match (bends(view, &region, a), bends(view, &region, b)) {
            (true, false) => (Some(a), b),
            (false, true) => (Some(b), a),
            (bent, _) => {
                let which = if bent { "both" } else { "neither" };
                let text = format!(
                    "block {layer}: `{}` and `{}` are multiplied in the MLP and an activation function bends {which} \
                     of them, so either could be the gate",
                    a.linear.output, b.linear.output
                );
                draft.problems.push(Error::new(&codes::AMBIGUOUS, text));
                return missing("which of two linear maps is the gate is not clear", draft);
            }
        },
        _ => {
            let n = found.len();
            return missing(&because(&format!("{n} linear maps feed mlp.post, expected one or two")), draft);
        }
    };
    // Each element of mlp.post is computed from one output of each map.
    let wide = |source: &&Source<'_, '_>| source.projection().map_or(out.width_in, |p| p.width()) != out.width_in;
    if let Some(source) = [Some(into), gate].into_iter().flatten().find(wide) {
        let width = source.projection().map_or(0, |p| p.width());
        let output = source.linear.output;
        let reason = format!(
            "{width} outputs of `{output}` feed mlp.post, which is {} wide: what takes them apart could not be followed",
            out.width_in
        );
        return missing(&reason, draft);
    }
    match gate {
        None => {
            let plain = "the MLP is not gated: one linear map feeds its activation function";
            draft.absent_sites(layer, &[BlockSite::MlpPreLinear], plain);
            draft.absent_weights(layer, &[Role::MlpGate, Role::MlpGateBias], plain);
            let evidence = format!("the output of the {} before the activation", into.linear.op);
            part(into, site(BlockSite::MlpPre), [weight(Role::MlpIn), weight(Role::MlpInBias)], evidence, draft);
        }
        Some(gate) => {
            let evidence = format!("the output of the {} that an activation function bends", gate.linear.op);
            let names = [weight(Role::MlpGate), weight(Role::MlpGateBias)];
            part(gate, site(BlockSite::MlpPre), names, evidence, draft);
            let evidence = format!("the output of the {} that the bent one is multiplied with", into.linear.op);
            let names = [weight(Role::MlpIn), weight(Role::MlpInBias)];
            part(into, site(BlockSite::MlpPreLinear), names, evidence, draft);
        }
    }
    norm(view, norms, layer, block, into.linear.input, draft);
}

/// The site and the weights of one projection.
fn part(source: &Source<'_, '_>, site: Site, [weight, bias]: [WeightRef; 2], evidence: String, draft: &mut Draft) {
    let Some(projection) = source.projection() else {
        let reason = "which outputs of its packed linear map it is could not be followed";
        draft.absent(site, reason);
        draft.absent(weight, reason);
        return draft.absent(bias, reason);
    };
    let whole = projection.columns.is_none().then_some(source.linear.output);
    let edge = source.edge(|l| l.is_flat().then_some(())).map(|(edge, ())| edge).or(whole);
    match edge {
        Some(edge) => draft.site(site, edge, evidence),
        None => draft.absent(site, "no edge holds it, and nothing else, as [batch, pos, d_mlp]"),
    }
    let Projection { linear, .. } = projection;
    draft.linear(&projection, weight, bias, linear.input);
}

/// The norm that the MLP reads.
fn norm<'g>(
    view: &View<'g>,
    norms: &Norms<'g>,
    layer: usize,
    block: &Block<'_, 'g>,
    input: &'g str,
    draft: &mut Draft,
) {
    let (site, weights) = (Site::Block(layer, BlockSite::Ln2Out), [Role::Ln2Scale, Role::Ln2Shift]);
    let before = block.mlp.before;
    let stream = if block.middle.is_some() { "resid_mid" } else { "resid_pre" };
    let reason = match norms.behind(view, input).filter(|n| view.root(n.input) == before) {
        Some(norm) if draft.is_site(Site::Block(layer, BlockSite::Ln1Out), norm.output) => {
            "the MLP reads ln1.out: one norm feeds attention and the MLP".to_owned()
        }
        Some(norm) => {
            draft.site(site, norm.output, format!("{} of {stream}, read by the MLP", norm.words()));
            let [scale, shift] = weights.map(|role| WeightRef::Block(layer, role));
            return draft.norm(norm, site, scale, shift);
        }
        None if view.root(input) == before => format!("the MLP reads {stream} itself, without a norm before it"),
        None => format!("the MLP does not read a norm of {stream}"),
    };
    draft.absent(site, &reason);
    draft.absent_weights(layer, &weights, &reason);
}

/// True if anything but products and arrangements stands between the uses of a source and what it feeds.
fn bends<'g>(view: &View<'g>, region: &Region<'g>, source: &Source<'_, 'g>) -> bool {
    let mut seen = std::collections::HashSet::new();
    let mut stack = source.uses.clone();
    while let Some(edge) = stack.pop() {
        for (node, _) in view.readers(edge) {
            if !region.holds_node(node) {
                continue;
            }
            let keeps = view.relayed(node).is_some() || node.is("Mul") || node.is("Transpose") || layout(node);
            if !keeps {
                return true;
            }
            let new = node.outputs().iter().map(String::as_str).filter(|o| region.has(o) && seen.insert(*o));
            stack.extend(new);
        }
    }
    false
}

fn layout(node: &crate::graph::Node) -> bool {
    ["Split", "Slice", "Gather", "SplitToSequence", "SequenceAt"].iter().any(|op| node.is(op))
}
