//! The MLP: from its output projection back over the activation function to the projection that feeds it.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::draft::Draft;
use super::linear::{Linear, Linears, Projection};
use super::norms::Norms;
use super::residual::Step;
use super::view::View;

const INSIDE: [BlockSite; 3] = [BlockSite::Ln2Out, BlockSite::MlpPre, BlockSite::MlpPreLinear];
const ROLES: [Role; 6] =
    [Role::Ln2Scale, Role::Ln2Shift, Role::MlpIn, Role::MlpInBias, Role::MlpGate, Role::MlpGateBias];

/// Reads the MLP of a block.
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
    let missing = |reason: &str, draft: &mut Draft| {
        draft.absent_sites(layer, &INSIDE, reason);
        draft.absent_weights(layer, &ROLES, reason);
    };
    draft.site(site(BlockSite::MlpOut), step.branch, "what the second Add of the block adds to the residual stream");
    let Some(out) = linears.behind(view, step.branch) else {
        let reason = format!("the MLP ends in {}, not in a linear map that is read", view.maker(step.branch));
        draft.absent_sites(layer, &[BlockSite::MlpProj, BlockSite::MlpPost], &reason);
        draft.absent_weights(layer, &[Role::MlpOut, Role::MlpOutBias], &reason);
        return missing(&reason, draft);
    };
    let evidence = format!("the output of the {} before the second Add of the block", out.op);
    draft.site(site(BlockSite::MlpOut), out.output, evidence.clone());
    draft.site(site(BlockSite::MlpProj), out.output, evidence);
    draft.site(site(BlockSite::MlpPost), out.input, format!("what the last {} of the block multiplies", out.op));
    draft.d_mlp(layer, out.width_in);
    let whole = Projection { linear: out, columns: None };
    draft.linear(&whole, weight(Role::MlpOut), weight(Role::MlpOutBias), out.input);

    let feeding = feeding(view, linears, out.input, step.before);
    let [into] = feeding[..] else {
        let reason = match feeding.len() {
            0 => "no linear map is found between resid_mid and mlp.post".to_owned(),
            n => format!("{n} linear maps feed mlp.post: gated and mixture MLPs are not read yet"),
        };
        return missing(&reason, draft);
    };
    draft.site(site(BlockSite::MlpPre), into.output, format!("the output of the {} before the activation", into.op));
    let whole = Projection { linear: into, columns: None };
    draft.linear(&whole, weight(Role::MlpIn), weight(Role::MlpInBias), into.input);
    let plain = "the MLP is not gated: one linear map feeds its activation function";
    draft.absent_sites(layer, &[BlockSite::MlpPreLinear], plain);
    draft.absent_weights(layer, &[Role::MlpGate, Role::MlpGateBias], plain);

    match norms.behind(view, into.input).filter(|n| view.root(n.input) == step.before) {
        Some(norm) => {
            draft.site(
                site(BlockSite::Ln2Out),
                norm.output,
                format!("{} of resid_mid, read by the MLP", norm.spelling),
            );
            draft.norm(norm, weight(Role::Ln2Scale), weight(Role::Ln2Shift));
        }
        None => missing("the MLP does not read a layer norm of resid_mid", draft),
    }
}

/// The linear maps that an edge is computed from, not looking beyond them or the residual stream.
fn feeding<'l, 'g>(view: &View<'g>, linears: &'l Linears<'g>, from: &'g str, stream: &'g str) -> Vec<&'l Linear<'g>> {
    let mut found: Vec<&Linear<'g>> = Vec::new();
    view.upstream(from, |edge| match linears.making(edge) {
        Some(linear) => {
            found.push(linear);
            true
        }
        None => edge == stream,
    });
    found
}
