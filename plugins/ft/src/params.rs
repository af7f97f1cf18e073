//! The parameters of fine-tuning, with the defaults of the reference implementation (kmeng01/memit, `hparams/FT`).

use engraft_plugin_api::{MethodError, ParamKind, ParamSpec, ParamValue, Params, Role, WeightRef};

use crate::objective::Objective;

/// The matrices that may be trained.
const ROLES: [Role; 7] = [Role::MlpOut, Role::MlpIn, Role::MlpGate, Role::Query, Role::Key, Role::Value, Role::Output];

/// The parameters, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct FtParams {
    /// What the loss reads.
    pub objective: Objective,
    /// What is trained, each weight once, by layer.
    pub weights: Vec<WeightRef>,
    /// Every entry of a weight stays within this of its value before the edit; 0 does not constrain.
    pub norm_constraint: f32,
    /// Adam's step size.
    pub lr: f64,
    /// Passes over the requests at most.
    pub steps: usize,
    /// Training ends once a pass's mean loss is below this, in nats; a batch below it takes no step.
    pub early_stop_loss: f64,
    /// L2 decay, added to the gradient as in torch's Adam.
    pub weight_decay: f32,
    /// Requests a step.
    pub batch_size: usize,
}

impl FtParams {
    /// The declarations.
    pub fn specs() -> Vec<ParamSpec> {
        let number = || ParamKind::Number { min: 0.0, max: 1e3 };
        let count = |max| ParamKind::Integer { min: 1, max };
        let choice = |words: &[&str]| ParamKind::Choice(words.iter().map(|w| (*w).to_owned()).collect());
        let new = ParamSpec::new;
        vec![
            ParamSpec::required(
                "layers",
                ParamKind::List(Box::new(ParamKind::Layer)),
                "the layers in which a weight is trained",
            ),
            new(
                "weight",
                choice(&ROLES.map(Role::name)),
                ParamValue::Text(Role::MlpOut.name().into()),
                "which weight of each layer is trained",
            ),
            new(
                "objective",
                choice(&Objective::ALL.map(Objective::name)),
                ParamValue::Text(Objective::PromptLast.name().into()),
                "`prompt_last` reads every target token after the prompt (FT, FT-L), `target_new` each after those \
                 before it (FT-M)",
            ),
            new(
                "norm_constraint",
                number(),
                ParamValue::Number(0.0),
                "every entry stays within this of its value before the edit (FT-L); 0 does not constrain (FT)",
            ),
            new("lr", number(), ParamValue::Number(5e-4), "Adam's step size"),
            new("steps", count(100_000), ParamValue::Integer(25), "passes over the requests at most"),
            new(
                "early_stop_loss",
                number(),
                ParamValue::Number(1e-2),
                "training ends once the mean loss of a pass is below this, in nats",
            ),
            new("weight_decay", number(), ParamValue::Number(0.0), "L2 decay of the trained weights in Adam"),
            new("batch_size", count(100_000), ParamValue::Integer(64), "requests a step"),
        ]
    }

    /// Reads checked parameters.
    ///
    /// # Errors
    /// `param-range` if no layer is listed or one twice; else as the accessors of [`Params`].
    pub fn read(params: &Params) -> Result<Self, MethodError> {
        let (role, objective) = (params.text("weight")?, params.text("objective")?);
        let refused = |key: &str, word: &str| {
            MethodError::new("param-range", format!("the parameter `{key}` does not take `{word}`"))
        };
        let role = ROLES.into_iter().find(|r| r.name() == role).ok_or_else(|| refused("weight", role))?;
        let objective = Objective::ALL.into_iter().find(|o| o.name() == objective);
        let mut weights = Vec::new();
        for value in params.list("layers")? {
            match value {
                ParamValue::Integer(layer) if *layer >= 0 => weights.push(WeightRef::Block(*layer as usize, role)),
                other => return Err(refused("layers", &other.to_string())),
            }
        }
        weights.sort();
        if weights.is_empty() || weights.windows(2).any(|w| w[0] == w[1]) {
            let message = "the parameter `layers` takes at least one layer, each at most once";
            return Err(MethodError::new("param-range", message));
        }
        Ok(Self {
            objective: objective.ok_or_else(|| refused("objective", params.text("objective").unwrap_or_default()))?,
            weights,
            norm_constraint: params.number("norm_constraint")? as f32,
            lr: params.number("lr")?,
            steps: params.index("steps")?,
            early_stop_loss: params.number("early_stop_loss")?,
            weight_decay: params.number("weight_decay")? as f32,
            batch_size: params.index("batch_size")?,
        })
    }
}
