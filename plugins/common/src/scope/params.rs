//! What a scope is told: where it reads, and how it learns.

use engraft_plugin_api::{MethodError, ModelFacts, ParamKind, ParamSpec, ParamValue, Params};

/// The parameters of a scope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScopeParams {
    /// The block behind which prompts are read; negative ones count from the last, which is −1.
    pub layer: i64,
    /// The rank of what is learnt beside one weight for each channel.
    pub rank: usize,
    /// How many steps are made at most.
    pub steps: u64,
    /// The learning rate of Adam; ten times of it for stretch and shift.
    pub lr: f64,
    /// How strongly the metric is drawn to the plain one (decoupled).
    pub decay: f64,
    /// How many edits are told apart in one step, with all their prompts.
    pub batch: usize,
    /// Steps between two looks at the validation records and two checkpoints.
    pub every: u64,
    /// Ends the training so many steps after the best validation loss.
    pub patience: u64,
}

impl Default for ScopeParams {
    fn default() -> Self {
        Self { layer: -1, rank: 16, steps: 200, lr: 3e-3, decay: 1.0, batch: 64, every: 10, patience: 60 }
    }
}

impl ScopeParams {
    /// The declarations; `prefix` stands before each name.
    pub fn specs(prefix: &str) -> Vec<ParamSpec> {
        let default = Self::default();
        let spec = |name: &str, kind, value, help| ParamSpec::new(&format!("{prefix}{name}"), kind, value, help);
        let count = |name: &str, max: i64, value: u64, help| {
            spec(name, ParamKind::Integer { min: 1, max }, ParamValue::Integer(value as i64), help)
        };
        vec![
            spec(
                "layer",
                ParamKind::Integer { min: -4096, max: 4095 },
                ParamValue::Integer(default.layer),
                "the block behind which prompts are read, from 0; negative ones count from the last, which is -1",
            ),
            count("rank", 4096, default.rank as u64, "the rank of what is learnt beside a weight for each channel"),
            count("steps", 1_000_000, default.steps, "how many steps are made at most"),
            spec(
                "lr",
                ParamKind::Number { min: 0.0, max: 1.0 },
                ParamValue::Number(default.lr),
                "the learning rate of Adam",
            ),
            spec(
                "decay",
                ParamKind::Number { min: 0.0, max: 1000.0 },
                ParamValue::Number(default.decay),
                "how strongly the metric is drawn to the plain one (decoupled weight decay)",
            ),
            count("batch", 65_536, default.batch as u64, "how many edits are told apart in one step"),
            count("every", 1_000_000, default.every, "steps between two looks at the validation records"),
            count("patience", 1_000_000, default.patience, "steps after the best validation loss until the end"),
        ]
    }

    /// Reads checked values.
    ///
    /// # Errors
    /// `param-missing` or `param-type`.
    pub fn read(params: &Params, prefix: &str) -> Result<Self, MethodError> {
        let name = |name: &str| format!("{prefix}{name}");
        let layer = match params.0.get(&name("layer")) {
            Some(ParamValue::Integer(layer)) => *layer,
            _ => return Err(MethodError::new("param-type", format!("`{prefix}layer` is no whole number"))),
        };
        Ok(Self {
            layer,
            rank: params.index(&name("rank"))?,
            steps: params.index(&name("steps"))? as u64,
            lr: params.number(&name("lr"))?,
            decay: params.number(&name("decay"))?,
            batch: params.index(&name("batch"))?,
            every: params.index(&name("every"))? as u64,
            patience: params.index(&name("patience"))? as u64,
        })
    }

    /// The block behind which prompts are read, on a model.
    ///
    /// # Errors
    /// `scope-layer` if the model has no such block.
    pub fn block(&self, facts: &ModelFacts) -> Result<usize, MethodError> {
        let layers = facts.layers as i64;
        let layer = if self.layer < 0 { layers + self.layer } else { self.layer };
        usize::try_from(layer).ok().filter(|&layer| layer < facts.layers).ok_or_else(|| {
            let text = format!("a scope cannot read behind the block {}: the model has {layers}", self.layer);
            MethodError::new("scope-layer", text).help("blocks count from 0; -1 is the last one")
        })
    }
}
