//! GRACE's parameters, with the defaults of the reference implementations (Thartvigsen/GRACE, and EasyEdit for the
//! positions that are replaced).

use engraft_plugin_api::{BlockSite, MethodError, ParamKind, ParamSpec, ParamValue, Params, Site};

use crate::splice::Replace;

/// Activations of a block that hold one vector a token, in the order of the computation.
const VECTORS: [BlockSite; 12] = [
    BlockSite::ResidPre,
    BlockSite::Ln1Out,
    BlockSite::AttnProj,
    BlockSite::AttnOut,
    BlockSite::ResidMid,
    BlockSite::Ln2Out,
    BlockSite::MlpPre,
    BlockSite::MlpPreLinear,
    BlockSite::MlpPost,
    BlockSite::MlpProj,
    BlockSite::MlpOut,
    BlockSite::ResidPost,
];

/// What a value begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueInit {
    /// Uniform over [0, 1), component by component.
    Cold,
    /// The activation that it takes the place of.
    Warm,
}

impl ValueInit {
    const ALL: [ValueInit; 2] = [Self::Cold, Self::Warm];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

/// The parameters, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct GraceParams {
    /// Where keys are read.
    pub key: Site,
    /// Where values are written.
    pub value: Site,
    /// Which positions a value replaces.
    pub replace: Replace,
    /// ε: the deferral radius of a new key.
    pub epsilon: f32,
    /// Updates of a value.
    pub n_iter: usize,
    /// Adam's step size.
    pub lr: f64,
    /// What a value begins as.
    pub value_init: ValueInit,
    /// The search ends once its loss is below this, in nats.
    pub early_stop_loss: f64,
    /// Leaves a request alone that the model answers already.
    pub only_errors: bool,
}

impl GraceParams {
    /// The declarations.
    pub fn specs() -> Vec<ParamSpec> {
        let number = |min, max| ParamKind::Number { min, max };
        let choice = |words: &[&str]| ParamKind::Choice(words.iter().map(|w| (*w).to_owned()).collect());
        let word = |w: &str| ParamValue::Text(w.into());
        let sites = choice(&VECTORS.map(BlockSite::name));
        let new = ParamSpec::new;
        vec![
            ParamSpec::required("layer", ParamKind::Layer, "the layer that the codebook is put into"),
            new(
                "key",
                sites.clone(),
                word(BlockSite::MlpPost.name()),
                "the activation whose nearest key is looked for, at the last token of the prompt",
            ),
            new(
                "value",
                sites,
                word(BlockSite::MlpProj.name()),
                "the activation that a value replaces; it is computed after the key",
            ),
            new(
                "replace",
                choice(&Replace::ALL.map(Replace::name)),
                word(Replace::Last.name()),
                "at which tokens: the prompt's `last` one, the whole `prompt`, the last one and those of the `answer`, or `all`",
            ),
            new(
                "epsilon",
                number(1e-6, 1e6),
                ParamValue::Number(1.0),
                "the radius of a new key, in units of the key's activation",
            ),
            new(
                "n_iter",
                ParamKind::Integer { min: 1, max: 100_000 },
                ParamValue::Integer(100),
                "updates of a value at most",
            ),
            new("lr", number(0.0, 1e3), ParamValue::Number(1.0), "Adam's step size in the search for a value"),
            new(
                "value_init",
                choice(&ValueInit::ALL.map(ValueInit::name)),
                word(ValueInit::Cold.name()),
                "what a value begins as: uniform numbers from 0 to 1 (`cold`) or the activation itself (`warm`)",
            ),
            new(
                "early_stop_loss",
                number(0.0, 1e3),
                ParamValue::Number(0.0),
                "the search for a value ends once its loss is below this, in nats a token; 0 makes all updates",
            ),
            new(
                "only_errors",
                ParamKind::Flag,
                ParamValue::Flag(true),
                "whether a request is left alone whose target the model already gives, token by token",
            ),
        ]
    }

    /// Reads checked parameters.
    ///
    /// # Errors
    /// `grace-sites` if the value is not computed after the key; else as the accessors of [`Params`].
    pub fn read(params: &Params) -> Result<Self, MethodError> {
        let layer = params.index("layer")?;
        let site = |key| chosen(params, key, &VECTORS, BlockSite::name);
        let (key, value) = (site("key")?, site("value")?);
        let rank = |site| VECTORS.iter().position(|&s| s == site);
        if rank(key) >= rank(value) {
            let (key, value) = (key.name(), value.name());
            let text = format!("the key is `{key}`, the value `{value}`, which is not computed after it");
            return Err(MethodError::new("grace-sites", text)
                .help("a codebook reads the input of a part of the model and replaces its output, like `mlp.post` and `mlp.out`"));
        }
        Ok(Self {
            key: Site::Block(layer, key),
            value: Site::Block(layer, value),
            replace: chosen(params, "replace", &Replace::ALL, Replace::name)?,
            epsilon: params.number("epsilon")? as f32,
            n_iter: params.index("n_iter")?,
            lr: params.number("lr")?,
            value_init: chosen(params, "value_init", &ValueInit::ALL, ValueInit::name)?,
            early_stop_loss: params.number("early_stop_loss")?,
            only_errors: params.flag("only_errors")?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_computed_after_its_key_is_refused() {
        let read = |key: &str, value: &str| {
            let text = |word: &str| ParamValue::Text(word.into());
            let given = [
                ("layer".to_owned(), ParamValue::Integer(1)),
                ("key".into(), text(key)),
                ("value".into(), text(value)),
            ];
            GraceParams::read(&Params::resolve(&given.into(), &GraceParams::specs())?)
        };
        let params = read("ln2.out", "mlp.pre").expect("fits");
        assert_eq!(
            (params.key.to_string(), params.value.to_string()),
            ("blocks.1.ln2.out".into(), "blocks.1.mlp.pre".into())
        );
        for (key, value) in [("mlp.out", "mlp.post"), ("resid_post", "resid_post")] {
            assert_eq!(read(key, value).map_err(|e| e.code), Err("grace-sites".into()));
        }
    }
}
