//! Weights by role. **Orientation, said once: a linear weight is `W[in, out]` and y = xW + b.** How a file stores it
//! is the host's business; a method sees this orientation only.

use std::fmt;
use std::str::FromStr;

use crate::error::MethodError;

/// A parameter of the model by its role. Layers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightRef {
    /// `W_E`: token embedding. `[vocab, d_model]`
    Embedding,
    /// `W_pos`: learned position embedding. `[context, d_model]`
    Positions,
    /// `W_U`: unembedding. `[d_model, vocab]`
    Unembedding,
    /// `b_U`: bias of the unembedding. `[vocab]`
    UnembeddingBias,
    /// `ln_final.w`: scale of the last norm. `[d_model]`
    LnFinalScale,
    /// `ln_final.b`: shift of the last norm. `[d_model]`
    LnFinalShift,
    /// `blocks.L.*`: a parameter of block `L`.
    Block(usize, Role),
}

/// The role of a parameter inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each role is spelled by `Role::name`, the paper's own symbol")]
pub enum Role {
    Ln1Scale,
    Ln1Shift,
    Query,
    Key,
    Value,
    Output,
    QueryBias,
    KeyBias,
    ValueBias,
    OutputBias,
    QueryNorm,
    KeyNorm,
    Ln1Post,
    Ln2Scale,
    Ln2Shift,
    MlpIn,
    MlpGate,
    MlpOut,
    MlpInBias,
    MlpGateBias,
    MlpOutBias,
    Ln2Post,
}

impl Role {
    /// Every role, in the order of the computation.
    pub const ALL: [Role; 22] = [
        Self::Ln1Scale,
        Self::Ln1Shift,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::QueryBias,
        Self::KeyBias,
        Self::ValueBias,
        Self::OutputBias,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::Ln1Post,
        Self::Ln2Scale,
        Self::Ln2Shift,
        Self::MlpIn,
        Self::MlpGate,
        Self::MlpOut,
        Self::MlpInBias,
        Self::MlpGateBias,
        Self::MlpOutBias,
        Self::Ln2Post,
    ];

    /// The spelling after `blocks.L.`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ln1Scale => "ln1.w",
            Self::Ln1Shift => "ln1.b",
            Self::Query => "attn.W_Q",
            Self::Key => "attn.W_K",
            Self::Value => "attn.W_V",
            Self::Output => "attn.W_O",
            Self::QueryBias => "attn.b_Q",
            Self::KeyBias => "attn.b_K",
            Self::ValueBias => "attn.b_V",
            Self::OutputBias => "attn.b_O",
            Self::QueryNorm => "attn.q_norm.w",
            Self::KeyNorm => "attn.k_norm.w",
            Self::Ln1Post => "ln1_post.w",
            Self::Ln2Scale => "ln2.w",
            Self::Ln2Shift => "ln2.b",
            Self::MlpIn => "mlp.W_in",
            Self::MlpGate => "mlp.W_gate",
            Self::MlpOut => "mlp.W_out",
            Self::MlpInBias => "mlp.b_in",
            Self::MlpGateBias => "mlp.b_gate",
            Self::MlpOutBias => "mlp.b_out",
            Self::Ln2Post => "ln2_post.w",
        }
    }
}

impl fmt::Display for WeightRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("W_E"),
            Self::Positions => f.write_str("W_pos"),
            Self::Unembedding => f.write_str("W_U"),
            Self::UnembeddingBias => f.write_str("b_U"),
            Self::LnFinalScale => f.write_str("ln_final.w"),
            Self::LnFinalShift => f.write_str("ln_final.b"),
            Self::Block(layer, role) => write!(f, "blocks.{layer}.{}", role.name()),
        }
    }
}

impl FromStr for WeightRef {
    type Err = MethodError;

    /// Parses the one spelling of a weight.
    ///
    /// # Errors
    /// `weight-unknown` for anything else.
    fn from_str(text: &str) -> Result<Self, MethodError> {
        let unknown = || {
            MethodError::new("weight-unknown", format!("`{text}` is not the name of a weight"))
                .help("weights are spelled like `blocks.3.mlp.W_out`, `W_E` or `ln_final.w`")
        };
        let ends = [
            Self::Embedding,
            Self::Positions,
            Self::Unembedding,
            Self::UnembeddingBias,
            Self::LnFinalScale,
            Self::LnFinalShift,
        ];
        if let Some(found) = ends.into_iter().find(|w| w.to_string() == text) {
            return Ok(found);
        }
        let (layer, name) = text.strip_prefix("blocks.").and_then(|t| t.split_once('.')).ok_or_else(unknown)?;
        let layer = layer.parse().map_err(|_| unknown())?;
        Role::ALL.into_iter().find(|r| r.name() == name).map(|r| Self::Block(layer, r)).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_round_trips() {
        for role in Role::ALL {
            let weight = WeightRef::Block(3, role);
            assert_eq!(weight.to_string().parse::<WeightRef>(), Ok(weight));
        }
        assert_eq!("W_U".parse::<WeightRef>(), Ok(WeightRef::Unembedding));
        assert_eq!("W_X".parse::<WeightRef>().map_err(|e| e.code), Err("weight-unknown".to_owned()));
    }
}
