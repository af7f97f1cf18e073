//! IKE's parameters, with the defaults of the authors' script.

use engraft_method_common::scope::ScopeParams;
use engraft_plugin_api::{MethodError, ParamKind, ParamSpec, ParamValue, Params};

use crate::prompt::Template;

/// What stands before the parameters of the scope's training.
const TRAINING: &str = "scope_";

/// Which requests a fact is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every request is shown the nearest fact.
    Always,
    /// Requests that a scope, learnt from activations, finds to ask for what a fact says.
    Learned,
}

impl Scope {
    const ALL: [Scope; 2] = [Self::Always, Self::Learned];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Learned => "learned",
        }
    }
}

/// The parameters, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct IkeParams {
    /// The block after which requests and facts are compared.
    pub layer: usize,
    /// Which requests a fact is shown to.
    pub scope: Scope,
    /// How a fact and a prompt stand together.
    pub template: Template,
    /// What stands between demonstrations.
    pub separator: String,
    /// How many demonstrations are shown with a fact.
    pub demonstrations: usize,
    /// The shares of demonstrations that copy, update and retain.
    pub ratio: [usize; 3],
    /// How many tokens of the context are kept free for the answer.
    pub room: usize,
    /// How the scope `Learned` is trained.
    pub training: ScopeParams,
}

impl IkeParams {
    /// The declarations.
    pub fn specs() -> Vec<ParamSpec> {
        let choice = |words: &[&str]| ParamKind::Choice(words.iter().map(|w| (*w).to_owned()).collect());
        let count = |max| ParamKind::Integer { min: 0, max };
        let text = |text: &str| ParamValue::Text(text.to_owned());
        let new = ParamSpec::new;
        let own = vec![
            ParamSpec::required("layer", ParamKind::Layer, "the block after which requests and facts are compared"),
            new(
                "scope",
                choice(&Scope::ALL.map(Scope::name)),
                text(Scope::Always.name()),
                "which requests are shown the nearest fact: `always` all, `learned` those that a \
                 scope which was trained finds to ask for a fact",
            ),
            new(
                "template",
                ParamKind::Text,
                text("New Fact: {fact}\nPrompt: {prompt}"),
                "how a fact and the prompt it is for stand together, with {fact} once or more and {prompt} at the end",
            ),
            new("separator", ParamKind::Text, text("\n\n"), "what stands between demonstrations"),
            new(
                "demonstrations",
                count(1000),
                ParamValue::Integer(0),
                "how many demonstrations from the training data are shown with a fact; 0 is the bare form",
            ),
            new(
                "ratio",
                ParamKind::List(Box::new(count(1000))),
                ParamValue::List([1, 3, 4].map(ParamValue::Integer).to_vec()),
                "the shares of demonstrations that copy the fact, say it in other words, and keep other facts",
            ),
            new(
                "room",
                count(1 << 20),
                ParamValue::Integer(32),
                "how many tokens of the context are left free: demonstrations that do not fit are left out",
            ),
        ];
        own.into_iter().chain(ScopeParams::specs(TRAINING)).collect()
    }

    /// Reads checked parameters.
    ///
    /// # Errors
    /// `ike-template` for a template without its two places, `ike-ratio` for shares that are none.
    pub fn read(params: &Params) -> Result<Self, MethodError> {
        let word = params.text("scope")?;
        let scope = Scope::ALL.into_iter().find(|scope| scope.name() == word).unwrap_or(Scope::Always);
        let shares = params.list("ratio")?;
        let shares: Vec<usize> = shares
            .iter()
            .filter_map(|share| if let ParamValue::Integer(n) = share { usize::try_from(*n).ok() } else { None })
            .collect();
        let ratio: [usize; 3] =
            shares.clone().try_into().ok().filter(|shares: &[usize; 3]| shares.iter().any(|n| *n > 0)).ok_or_else(
                || {
                    let text = format!("`ratio` is {shares:?}: expected three shares, one above 0 at least");
                    MethodError::new("ike-ratio", text).help("e.g. ratio = [1, 3, 4]")
                },
            )?;
        Ok(Self {
            layer: params.index("layer")?,
            scope,
            template: Template::parse(params.text("template")?)?,
            separator: params.text("separator")?.to_owned(),
            demonstrations: params.index("demonstrations")?,
            ratio,
            room: params.index("room")?,
            training: ScopeParams::read(params, TRAINING)?,
        })
    }
}
