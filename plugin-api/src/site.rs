//! Sites: the named activations of a decoder, in the vocabulary of TransformerLens without its `hook_` prefix.
//!
//! The set is closed and every name has one spelling. A site that a graph does not have is *absent with a reason*
//! (the host's anatomy says which); it is never approximated by another.

use std::fmt;
use std::str::FromStr;

use crate::error::MethodError;

/// A named activation of the forward pass. Layers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// `embed`: what enters the first block. `[batch, pos, d_model]`
    Embed,
    /// `blocks.L.*`: an activation of block `L`.
    Block(usize, BlockSite),
    /// `ln_final.out`: the output of the last norm. `[batch, pos, d_model]`
    LnFinal,
    /// `logits`. `[batch, pos, vocab]`
    Logits,
}

/// An activation inside one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockSite {
    /// `resid_pre`: the residual stream before the block. `[batch, pos, d_model]`
    ResidPre,
    /// `ln1.out`: the output of the norm before attention. `[batch, pos, d_model]`
    Ln1Out,
    /// `attn.q`: queries before rotary and q-norm. `[batch, pos, head, d_head]`
    Q,
    /// `attn.k`: keys before rotary and k-norm. `[batch, pos, kv_head, d_head]`
    K,
    /// `attn.v`: values. `[batch, pos, kv_head, d_head]`
    V,
    /// `attn.pattern`: attention weights. `[batch, head, query, key]`
    Pattern,
    /// `attn.z`: the mixed values, the input of `W_O`. `[batch, pos, head, d_head]`
    Z,
    /// `attn.out`: the attention projection's own output with its bias. `[batch, pos, d_model]`
    AttnProj,
    /// `attn_out`: what attention adds to the residual stream. `[batch, pos, d_model]`
    AttnOut,
    /// `resid_mid`: the residual stream between attention and MLP. `[batch, pos, d_model]`
    ResidMid,
    /// `ln2.out`: the output of the norm before the MLP. `[batch, pos, d_model]`
    Ln2Out,
    /// `mlp.pre`: the input of the activation function (gated: the output of `W_gate`). `[batch, pos, d_mlp]`
    MlpPre,
    /// `mlp.pre_linear`: the linear branch of a gated MLP (the output of `W_in`). `[batch, pos, d_mlp]`
    MlpPreLinear,
    /// `mlp.post`: the input of `W_out`, the *key* of locate-then-edit methods. `[batch, pos, d_mlp]`
    MlpPost,
    /// `mlp.out`: `post · W_out + b_out`, the *value* of locate-then-edit methods. `[batch, pos, d_model]`
    MlpProj,
    /// `mlp_out`: what the MLP adds to the residual stream. `[batch, pos, d_model]`
    MlpOut,
    /// `resid_post`: the residual stream after the block. `[batch, pos, d_model]`
    ResidPost,
}

impl BlockSite {
    /// Every activation of a block, in the order of the computation.
    pub const ALL: [BlockSite; 17] = [
        Self::ResidPre,
        Self::Ln1Out,
        Self::Q,
        Self::K,
        Self::V,
        Self::Pattern,
        Self::Z,
        Self::AttnProj,
        Self::AttnOut,
        Self::ResidMid,
        Self::Ln2Out,
        Self::MlpPre,
        Self::MlpPreLinear,
        Self::MlpPost,
        Self::MlpProj,
        Self::MlpOut,
        Self::ResidPost,
    ];

    /// The spelling after `blocks.L.`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResidPre => "resid_pre",
            Self::Ln1Out => "ln1.out",
            Self::Q => "attn.q",
            Self::K => "attn.k",
            Self::V => "attn.v",
            Self::Pattern => "attn.pattern",
            Self::Z => "attn.z",
            Self::AttnProj => "attn.out",
            Self::AttnOut => "attn_out",
            Self::ResidMid => "resid_mid",
            Self::Ln2Out => "ln2.out",
            Self::MlpPre => "mlp.pre",
            Self::MlpPreLinear => "mlp.pre_linear",
            Self::MlpPost => "mlp.post",
            Self::MlpProj => "mlp.out",
            Self::MlpOut => "mlp_out",
            Self::ResidPost => "resid_post",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => f.write_str("embed"),
            Self::LnFinal => f.write_str("ln_final.out"),
            Self::Logits => f.write_str("logits"),
            Self::Block(layer, site) => write!(f, "blocks.{layer}.{}", site.name()),
        }
    }
}

impl FromStr for Site {
    type Err = MethodError;

    /// Parses the one spelling of a site.
    ///
    /// # Errors
    /// `site-unknown` for anything else.
    fn from_str(text: &str) -> Result<Self, MethodError> {
        let unknown = || {
            MethodError::new("site-unknown", format!("`{text}` is not the name of a site"))
                .help("sites are spelled like `blocks.3.mlp.post`, `ln_final.out` or `logits`")
        };
        match text {
            "embed" => return Ok(Self::Embed),
            "ln_final.out" => return Ok(Self::LnFinal),
            "logits" => return Ok(Self::Logits),
            _ => {}
        }
        let (layer, name) = text.strip_prefix("blocks.").and_then(|t| t.split_once('.')).ok_or_else(unknown)?;
        let layer = layer.parse().map_err(|_| unknown())?;
        BlockSite::ALL.into_iter().find(|s| s.name() == name).map(|s| Self::Block(layer, s)).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_round_trips() {
        let mut sites = vec![Site::Embed, Site::LnFinal, Site::Logits];
        sites.extend(BlockSite::ALL.into_iter().map(|s| Site::Block(11, s)));
        for site in sites {
            assert_eq!(site.to_string().parse::<Site>(), Ok(site));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "blocks.mlp.post", "blocks.1.mlp", "blocks.-1.mlp.post", "hook_embed"] {
            assert_eq!(text.parse::<Site>().map_err(|e| e.code), Err("site-unknown".to_owned()), "{text}");
        }
    }
}
