//! ROME's parameters, with the defaults of the reference implementation (kmeng01/rome, `hparams/ROME/gpt2-xl.json`).

use engraft_method_common::{FactToken, Prefixes, ValueSearch};
use engraft_plugin_api::{MethodError, ParamKind, ParamSpec, ParamValue, Params};

/// Which prompts the key and the layer's present value are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    /// k* is the mean over the templates, the present key and value are the bare prompt's (ROME).
    Rome,
    /// All three are means over the templates (R-ROME).
    RRome,
    /// All three are the bare prompt's (R-ROME's alternative).
    RRomePrompt,
}

impl KeyPolicy {
    const ALL: [KeyPolicy; 3] = [Self::Rome, Self::RRome, Self::RRomePrompt];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rome => "rome",
            Self::RRome => "r_rome",
            Self::RRomePrompt => "r_rome_prompt",
        }
    }
}

/// The metric in which old keys are disturbed least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covariance {
    /// C = I
    None,
    /// C = E[k kᵀ] over the experiment's corpus
    SecondMoment,
}

impl Covariance {
    const ALL: [Covariance; 2] = [Self::SecondMoment, Self::None];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SecondMoment => "second_moment",
        }
    }
}

/// The parameters, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct RomeParams {
    /// The layer whose `W_out` is changed.
    pub layer: usize,
    /// At which token the subject is represented.
    pub fact_token: FactToken,
    /// Where keys come from.
    pub key_policy: KeyPolicy,
    /// The metric.
    pub covariance: Covariance,
    /// Added to the diagonal of C, in units of its mean diagonal.
    pub covariance_damping: f64,
    /// The search for the target value.
    pub search: ValueSearch,
    /// The context prefixes.
    pub prefixes: Prefixes,
}

impl RomeParams {
    /// The declarations.
    pub fn specs() -> Vec<ParamSpec> {
        let number = |max| ParamKind::Number { min: 0.0, max };
        let count = |min, max| ParamKind::Integer { min, max };
        let word = |w: &str| ParamValue::Text(w.into());
        let choice = |words: &[&str]| ParamKind::Choice(words.iter().map(|w| (*w).to_owned()).collect());
        let new = ParamSpec::new;
        vec![
            ParamSpec::required("layer", ParamKind::Layer, "the layer whose MLP output matrix is changed"),
            new(
                "fact_token",
                choice(&FactToken::ALL.map(FactToken::name)),
                word("subject_last"),
                "the token that represents the subject; `last` is the prompt's last one",
            ),
            new(
                "key_policy",
                choice(&KeyPolicy::ALL.map(KeyPolicy::name)),
                word("rome"),
                "whether keys are means over the templates or the bare prompt's: `rome` mixes them, the others do not",
            ),
            new(
                "covariance",
                choice(&Covariance::ALL.map(Covariance::name)),
                word("second_moment"),
                "how old keys are protected: by their second moment over the corpus, or not at all",
            ),
            new(
                "covariance_damping",
                number(1e3),
                ParamValue::Number(0.0),
                "added to the diagonal of the second moment, as a multiple of its mean diagonal",
            ),
            new(
                "v_num_grad_steps",
                count(1, 10_000),
                ParamValue::Integer(20),
                "iterations of the value search; the last one only measures",
            ),
            new("v_lr", number(1e3), ParamValue::Number(0.5), "Adam's step size in the value search"),
            new(
                "v_weight_decay",
                number(1e3),
                ParamValue::Number(0.5),
                "factor of |delta| / |v0|^2 in the value search's loss",
            ),
            new("clamp_norm_factor", number(1e3), ParamValue::Number(4.0), "delta is kept within this many times |v0|"),
            new(
                "kl_factor",
                number(1e3),
                ParamValue::Number(0.0625),
                "factor of the divergence after `{subject} is a`; 0 leaves that row out",
            ),
            new(
                "early_stop_loss",
                number(1e3),
                ParamValue::Number(5e-2),
                "the value search ends once its loss is below this, in nats",
            ),
            new(
                "prefixes",
                choice(&["generated", "fixed", "none"]),
                word("generated"),
                "the contexts in which the edit is asked for besides the bare prompt",
            ),
            new(
                "prefix_list",
                ParamKind::List(Box::new(ParamKind::Text)),
                ParamValue::List(Vec::new()),
                "the `fixed` prefixes, each with one `{}`; empty takes those that ship with the model",
            ),
            new("prefix_count", count(1, 1000), ParamValue::Integer(10), "`generated` prefixes of each length"),
            new(
                "prefix_lengths",
                ParamKind::List(Box::new(count(1, 1000))),
                ParamValue::List(vec![ParamValue::Integer(5), ParamValue::Integer(10)]),
                "lengths of the `generated` prefixes, in tokens",
            ),
        ]
    }

    /// Reads checked parameters.
    ///
    /// # Errors
    /// `param-range` if a prefix has not exactly one `{}`; else as the accessors of [`Params`].
    pub fn read(params: &Params) -> Result<Self, MethodError> {
        Ok(Self {
            layer: params.index("layer")?,
            fact_token: chosen(params, "fact_token", &FactToken::ALL, FactToken::name)?,
            key_policy: chosen(params, "key_policy", &KeyPolicy::ALL, KeyPolicy::name)?,
            covariance: chosen(params, "covariance", &Covariance::ALL, Covariance::name)?,
            covariance_damping: params.number("covariance_damping")?,
            search: ValueSearch {
                steps: params.index("v_num_grad_steps")?,
                lr: params.number("v_lr")?,
                weight_decay: params.number("v_weight_decay")?,
                clamp_norm_factor: params.number("clamp_norm_factor")?,
                kl_factor: params.number("kl_factor")?,
                early_stop_loss: params.number("early_stop_loss")?,
            },
            prefixes: prefixes(params)?,
        })
    }
}

fn chosen<T: Copy>(params: &Params, key: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, MethodError> {
    let word = params.text(key)?;
    all.iter()
        .copied()
        .find(|&v| name(v) == word)
        .ok_or_else(|| MethodError::new("param-range", format!("the parameter `{key}` does not take `{word}`")))
}

fn prefixes(params: &Params) -> Result<Prefixes, MethodError> {
    Ok(match params.text("prefixes")? {
        "none" => Prefixes::None,
        "fixed" => {
            let mut templates = Vec::new();
            for value in params.list("prefix_list")? {
                match value {
                    ParamValue::Text(text) if text.matches("{}").count() == 1 => templates.push(text.clone()),
                    other => {
                        let message = format!("a prefix of `prefix_list` holds `{{}}` exactly once, found {other}");
                        return Err(MethodError::new("param-range", message));
                    }
                }
            }
            Prefixes::Fixed(templates)
        }
        _ => {
            let lengths = params.list("prefix_lengths")?.iter().map(|value| match value {
                ParamValue::Integer(length) => Ok(usize::try_from(*length).unwrap_or(0)),
                other => {
                    Err(MethodError::new("param-type", format!("a prefix length is a whole number, found {other}")))
                }
            });
            let lengths = lengths.collect::<Result<_, _>>()?;
            Prefixes::Generated { count: params.index("prefix_count")?, lengths }
        }
    })
}
