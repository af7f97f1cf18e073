//! The identities inside a block.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};
use ndarray::{Array2, ArrayView2, Axis};

use super::{Activations, Report, Weights, formulas, shape};
use crate::anatomy::parts::Anatomy;
use crate::base::Result;

/// What feeds a linear map, where no norm does, with the spellings of the identities.
type Feeds<const N: usize> = [(BlockSite, [&'static str; N]); 2];

const ATTENTION: Feeds<3> = [
    (BlockSite::Ln1Out, ["attn.q = ln1.out W_Q + b_Q", "attn.k = ln1.out W_K + b_K", "attn.v = ln1.out W_V + b_V"]),
    (
        BlockSite::ResidPre,
        ["attn.q = resid_pre W_Q + b_Q", "attn.k = resid_pre W_K + b_K", "attn.v = resid_pre W_V + b_V"],
    ),
];

/// Plain `mlp.pre`, gated `mlp.pre`, `mlp.pre_linear`.
const MLP: [(BlockSite, [&str; 3]); 4] = [
    (
        BlockSite::Ln2Out,
        ["mlp.pre = ln2.out W_in + b_in", "mlp.pre = ln2.out W_gate + b_gate", "mlp.pre_linear = ln2.out W_in + b_in"],
    ),
    (
        BlockSite::Ln1Out,
        ["mlp.pre = ln1.out W_in + b_in", "mlp.pre = ln1.out W_gate + b_gate", "mlp.pre_linear = ln1.out W_in + b_in"],
    ),
    (
        BlockSite::ResidMid,
        [
            "mlp.pre = resid_mid W_in + b_in",
            "mlp.pre = resid_mid W_gate + b_gate",
            "mlp.pre_linear = resid_mid W_in + b_in",
        ],
    ),
    (
        BlockSite::ResidPre,
        [
            "mlp.pre = resid_pre W_in + b_in",
            "mlp.pre = resid_pre W_gate + b_gate",
            "mlp.pre_linear = resid_pre W_in + b_in",
        ],
    ),
];

pub(super) fn check(
    anatomy: &Anatomy,
    layer: usize,
    at: &Activations,
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    let block = Block { anatomy, layer, at };
    attention(&block, weight, report)?;
    mlp(&block, weight, report)
}

/// One block.
struct Block<'a> {
    anatomy: &'a Anatomy,
    layer: usize,
    at: &'a Activations,
}

impl Block<'_> {
    fn site(&self, site: BlockSite) -> Site {
        Site::Block(self.layer, site)
    }

    fn rows(&self, site: BlockSite) -> Result<Option<ArrayView2<'_, f32>>> {
        self.at.rows(self.site(site))
    }

    fn pair(&self, w: Role, b: Role) -> [WeightRef; 2] {
        [w, b].map(|role| WeightRef::Block(self.layer, role))
    }

    /// Of several sites the one that a weight multiplies: a norm that was found for it, else one at the same edge.
    fn feeds<'f, T>(&self, weight: Role, norm: BlockSite, feeds: &'f [(BlockSite, T)]) -> Option<&'f (BlockSite, T)> {
        let input = self.anatomy.weights.get(&WeightRef::Block(self.layer, weight))?.input.as_ref();
        let fits = |site: BlockSite| match self.anatomy.sites.get(&self.site(site)) {
            Some(found) => site == norm || Some(&found.edge) == input,
            None => false,
        };
        feeds.iter().find(|(site, _)| fits(*site))
    }
}

fn attention(block: &Block<'_>, weight: &Weights<'_>, report: &mut Report<'_>) -> Result<()> {
    use BlockSite as B;
    let facts = block.anatomy.norms.get(&block.site(B::Ln1Out));
    let ln1 = block.pair(Role::Ln1Scale, Role::Ln1Shift);
    let (before, out) = (block.rows(B::ResidPre)?, block.rows(B::Ln1Out)?);
    formulas::norm("ln1.out = norm(resid_pre)", facts, before, out, ln1, weight, report)?;
    let parts =
        [(B::Q, Role::Query, Role::QueryBias), (B::K, Role::Key, Role::KeyBias), (B::V, Role::Value, Role::ValueBias)];
    for (i, (site, w, b)) in parts.into_iter().enumerate() {
        let Some((from, spellings)) = block.feeds(w, B::Ln1Out, &ATTENTION) else { continue };
        formulas::linear(spellings[i], block.rows(*from)?, block.rows(site)?, block.pair(w, b), weight, report)?;
    }
    if let Some(pattern) = block.at.heads(block.site(B::Pattern))? {
        let sums = pattern.sum_axis(Axis(3));
        let sums = Array2::from_shape_vec((sums.len(), 1), sums.iter().copied().collect()).map_err(shape)?;
        if !block.anatomy.sinks.contains(&block.layer) {
            report.compare("attn.pattern sums to 1", sums.view(), &Array2::ones(sums.raw_dim()))?;
        }
        let n = pattern.len_of(Axis(2));
        if n == pattern.len_of(Axis(3)) {
            let seen = Array2::from_shape_fn((n, n), |(query, key)| f32::from(u8::from(key <= query)));
            let back = (&pattern * &seen).sum_axis(Axis(3));
            let back = Array2::from_shape_vec((back.len(), 1), back.iter().copied().collect()).map_err(shape)?;
            report.compare("attn.pattern looks back only", back.view(), &sums)?;
        }
        let altered = block.anatomy.altered_values.contains(&block.layer);
        if let (false, Some(v), Some(z)) = (altered, block.at.heads(block.site(B::V))?, block.rows(B::Z)?) {
            let mixed = formulas::mix(&pattern, &v)?;
            let width = mixed.len() / z.nrows().max(1);
            let flat = mixed.into_shape_with_order((z.nrows(), width)).map_err(shape)?;
            report.compare("attn.z = attn.pattern attn.v", z, &flat)?;
        }
    }
    let output = block.pair(Role::Output, Role::OutputBias);
    let (z, out) = (block.rows(B::Z)?, block.rows(B::AttnProj)?);
    formulas::linear("attn.out = attn.z W_O + b_O", z, out, output, weight, report)?;
    if let (Some(pre), Some(out), Some(mid)) = (before, block.rows(B::AttnOut)?, block.rows(B::ResidMid)?) {
        report.compare("resid_mid = resid_pre + attn_out", mid, &formulas::sum(pre, out)?)?;
    }
    Ok(())
}

fn mlp(block: &Block<'_>, weight: &Weights<'_>, report: &mut Report<'_>) -> Result<()> {
    use BlockSite as B;
    let parallel = block.anatomy.parallel.contains(&block.layer);
    let (before, identity) = match parallel {
        true => (block.rows(B::ResidPre)?, "ln2.out = norm(resid_pre)"),
        false => (block.rows(B::ResidMid)?, "ln2.out = norm(resid_mid)"),
    };
    let facts = block.anatomy.norms.get(&block.site(B::Ln2Out));
    let ln2 = block.pair(Role::Ln2Scale, Role::Ln2Shift);
    formulas::norm(identity, facts, before, block.rows(B::Ln2Out)?, ln2, weight, report)?;
    let gated = block.anatomy.weights.contains_key(&WeightRef::Block(block.layer, Role::MlpGate));
    let pre = match gated {
        true => (1, B::MlpPre, Role::MlpGate, Role::MlpGateBias),
        false => (0, B::MlpPre, Role::MlpIn, Role::MlpInBias),
    };
    let linear = gated.then_some((2, B::MlpPreLinear, Role::MlpIn, Role::MlpInBias));
    for (i, site, w, b) in [pre].into_iter().chain(linear) {
        let Some((from, spellings)) = block.feeds(w, B::Ln2Out, &MLP) else { continue };
        formulas::linear(spellings[i], block.rows(*from)?, block.rows(site)?, block.pair(w, b), weight, report)?;
    }
    let output = block.pair(Role::MlpOut, Role::MlpOutBias);
    let (post, out) = (block.rows(B::MlpPost)?, block.rows(B::MlpProj)?);
    formulas::linear("mlp.out = mlp.post W_out + b_out", post, out, output, weight, report)?;
    let (Some(before), Some(out), Some(after)) = (before, block.rows(B::MlpOut)?, block.rows(B::ResidPost)?) else {
        return Ok(());
    };
    let sum = formulas::sum(before, out)?;
    match (parallel, block.rows(B::AttnOut)?) {
        (false, _) => report.compare("resid_post = resid_mid + mlp_out", after, &sum),
        (true, Some(attention)) => {
            let sum = formulas::sum(sum.view(), attention)?;
            report.compare("resid_post = resid_pre + attn_out + mlp_out", after, &sum)
        }
        (true, None) => Ok(()),
    }
}
