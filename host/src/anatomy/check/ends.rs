//! The identities at the ends: what the tables make, the last norm, and the logits.

use engraft_plugin_api::{BlockSite, Site, Tensor, WeightRef};

use super::{Activations, Report, Weights, formulas};
use crate::anatomy::codes;
use crate::anatomy::parts::{Anatomy, Shaping};
use crate::base::{Error, Result};

pub(super) fn check(
    anatomy: &Anatomy,
    tokens: &Tensor,
    positions: &Tensor,
    at: &Activations,
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    let facts = anatomy.embedding;
    let table = weight.matrix(WeightRef::Embedding)?.filter(|_| facts.plain);
    if let (Some(embed), Some(table)) = (at.rows(Site::Embed)?, table) {
        let mut sum = formulas::pick(&table, tokens, "W_E")?;
        sum *= facts.scale;
        let scaled = facts.scale != 1.0;
        let identity = match weight.matrix(WeightRef::Positions)? {
            Some(table) => {
                sum += &formulas::pick(&table, &shifted(positions, facts.offset)?, "W_pos")?;
                match scaled {
                    true => "embed = scale W_E[ids] + W_pos[pos]",
                    false => "embed = W_E[ids] + W_pos[pos]",
                }
            }
            None if scaled => "embed = scale W_E[ids]",
            None => "embed = W_E[ids]",
        };
        report.compare(identity, embed, &sum)?;
    }
    let last = anatomy.layers.checked_sub(1).map(|l| Site::Block(l, BlockSite::ResidPost));
    let last = last.map(|site| at.rows(site)).transpose()?.flatten();
    formulas::norm(
        "ln_final.out = norm(resid_post)",
        anatomy.norms.get(&Site::LnFinal),
        last,
        at.rows(Site::LnFinal)?,
        [WeightRef::LnFinalScale, WeightRef::LnFinalShift],
        weight,
        report,
    )?;
    let (Some(from), Some(to)) = (at.rows(Site::LnFinal)?, at.rows(Site::Logits)?) else { return Ok(()) };
    let names = [WeightRef::Unembedding, WeightRef::UnembeddingBias];
    let Some(mut made) = formulas::product(from, names, weight)? else { return Ok(()) };
    for step in &anatomy.shaping {
        match *step {
            Shaping::Scale(factor) => made *= factor,
            Shaping::Tanh => made.mapv_inplace(f32::tanh),
        }
    }
    let identity = match (&anatomy.shaping[..], anatomy.shaping.contains(&Shaping::Tanh)) {
        ([], _) => "logits = ln_final.out W_U + b_U",
        (_, false) => "logits = scale (ln_final.out W_U + b_U)",
        (_, true) => "logits = cap tanh((ln_final.out W_U + b_U) / cap)",
    };
    report.compare(identity, to, &made)
}

/// Positions as row numbers.
fn shifted(positions: &Tensor, offset: i64) -> Result<Tensor> {
    let numbers = positions.as_i64().map_err(super::shape)?.iter().map(|p| p + offset).collect();
    Tensor::i64(positions.shape(), numbers)
        .map_err(|e| Error::new(&codes::CHECK_SHAPE, "the positions have no shape").because(e))
}
