//! Networks of a method's own (encoders, classifiers, small language models, editor networks), which the host runs and
//! differentiates: no plugin links a tensor library for them.

use super::{ModelAccess, Tokens};
use crate::error::MethodError;
use crate::tensor::Tensor;

/// An opened network, as the host names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub String);

/// What a network is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSource {
    /// The graph.
    pub graph: ModuleGraph,
    /// Weights in place of the graph's own, by name, each in its shape: what was learnt.
    pub weights: Vec<(String, Tensor)>,
}

/// Where the graph of a network comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ModuleGraph {
    /// The bytes of an ONNX model with all its weights in it.
    Bytes(Vec<u8>),
    /// The path of an .onnx file, whose external data and `tokenizer.json` lie beside it; a relative one begins at the
    /// folder of the model that is edited.
    Path(String),
}

/// With respect to what a network is differentiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleVariable {
    /// An input of floats, by name.
    Input(String),
    /// A weight (an initializer), by name.
    Weight(String),
}

/// What is asked of a network: what a [`Module`] asks for its caller.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModuleCall {
    /// Whether the method has opened a network under this key, on this model.
    Find {
        /// The method's own name for the network.
        key: String,
    },
    /// Opens a network under a key, unless one is there: the first one stays.
    Open {
        /// The method's own name for the network.
        key: String,
        /// The network.
        source: ModuleSource,
    },
    /// A forward pass.
    Run {
        /// The network.
        module: ModuleId,
        /// Values for its inputs.
        feeds: Vec<(String, Tensor)>,
        /// The outputs asked for.
        fetch: Vec<String>,
    },
    /// A forward pass, and the gradient of Σ ⟨seed, output⟩.
    Gradient {
        /// The network.
        module: ModuleId,
        /// Values for its inputs.
        feeds: Vec<(String, Tensor)>,
        /// The outputs asked for.
        fetch: Vec<String>,
        /// The gradient of the loss with respect to outputs, by name, each in the output's shape.
        seeds: Vec<(String, Tensor)>,
        /// The variables.
        wrt: Vec<ModuleVariable>,
    },
    /// Reads weights.
    Weights {
        /// The network.
        module: ModuleId,
        /// Which; none for all, in the order of their names.
        names: Vec<String>,
    },
    /// Replaces weights, all of them in one step: a pass sees all or none of them.
    Set {
        /// The network.
        module: ModuleId,
        /// The new values, each in the shape that it had.
        weights: Vec<(String, Tensor)>,
    },
    /// Splits a text with the tokenizer that lies beside the network.
    Tokenize {
        /// The network.
        module: ModuleId,
        /// The text.
        text: String,
    },
}

/// What a network answered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModuleReply {
    /// Of `Find` and `Open`: the network, if there is one.
    Module(Option<ModuleId>),
    /// Of `Run` and `Gradient`: the outputs asked for, then the gradients, in the order of the request.
    Values {
        /// The outputs.
        outputs: Vec<Tensor>,
        /// The gradients; none after `Run`.
        gradients: Vec<Tensor>,
    },
    /// Of `Weights` and `Set`: the weights asked for, by name.
    Weights(Vec<(String, Tensor)>),
    /// Of `Tokenize`.
    Tokens(Tokens),
}

/// A network that the host has opened for a method.
///
/// It stays open as long as the model; `Module::open` in a later call finds it again by its key, so that a method keeps
/// nothing. The key is of the plugin, whatever its parameters and artefact: what differs in its weights differs in its
/// key. Losses are the method's own arithmetic on the outputs: it hands their gradient back as `seeds`.
pub struct Module<'a> {
    access: &'a dyn ModelAccess,
    id: ModuleId,
}

impl<'a> Module<'a> {
    /// The network of a key; `source` is asked for once for a model.
    ///
    /// # Errors
    /// `abi-op` if the host runs no networks of methods; what is wrong with the network; what `source` returns.
    pub fn open(
        access: &'a dyn ModelAccess,
        key: &str,
        source: impl FnOnce() -> Result<ModuleSource, MethodError>,
    ) -> Result<Self, MethodError> {
        let key = key.to_owned();
        let found = module_of(access.module(&ModuleCall::Find { key: key.clone() })?)?;
        let id = match found {
            Some(id) => id,
            None => module_of(access.module(&ModuleCall::Open { key, source: source()? })?)?.ok_or_else(unexpected)?,
        };
        Ok(Self { access, id })
    }

    /// The network's name, for [`Route::Delegate`](crate::Route::Delegate).
    pub fn id(&self) -> &ModuleId {
        &self.id
    }

    /// A forward pass; the outputs in the order of `fetch`.
    ///
    /// # Errors
    /// If a feed does not fit an input, an output is not there, or the runtime fails.
    pub fn run(&self, feeds: Vec<(String, Tensor)>, fetch: &[&str]) -> Result<Vec<Tensor>, MethodError> {
        let call = ModuleCall::Run { module: self.id.clone(), feeds, fetch: names(fetch) };
        match self.access.module(&call)? {
            ModuleReply::Values { outputs, .. } if outputs.len() == fetch.len() => Ok(outputs),
            _ => Err(unexpected()),
        }
    }

    /// The outputs in the order of `fetch`, and the gradients of Σ ⟨seed, output⟩ in the order of `wrt`.
    ///
    /// # Errors
    /// As [`run`](Self::run), and if an operator on the way has no gradient.
    pub fn gradient(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetch: &[&str],
        seeds: Vec<(String, Tensor)>,
        wrt: Vec<ModuleVariable>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>), MethodError> {
        let variables = wrt.len();
        let call = ModuleCall::Gradient { module: self.id.clone(), feeds, fetch: names(fetch), seeds, wrt };
        match self.access.module(&call)? {
            ModuleReply::Values { outputs, gradients }
                if (outputs.len(), gradients.len()) == (fetch.len(), variables) =>
            {
                Ok((outputs, gradients))
            }
            _ => Err(unexpected()),
        }
    }

    /// Weights by name; all of them, in the order of their names, if none are named.
    ///
    /// # Errors
    /// If there is no such weight.
    pub fn weights(&self, wanted: &[&str]) -> Result<Vec<(String, Tensor)>, MethodError> {
        match self.access.module(&ModuleCall::Weights { module: self.id.clone(), names: names(wanted) })? {
            ModuleReply::Weights(weights) => Ok(weights),
            _ => Err(unexpected()),
        }
    }

    /// Replaces weights.
    ///
    /// # Errors
    /// If there is no such weight, or it has another shape.
    pub fn set(&self, weights: Vec<(String, Tensor)>) -> Result<(), MethodError> {
        self.access.module(&ModuleCall::Set { module: self.id.clone(), weights }).map(drop)
    }

    /// A text as the tokens of the network's own tokenizer.
    ///
    /// # Errors
    /// If none lies beside it, or it cannot encode the text.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        match self.access.module(&ModuleCall::Tokenize { module: self.id.clone(), text: text.to_owned() })? {
            ModuleReply::Tokens(tokens) => Ok(tokens),
            _ => Err(unexpected()),
        }
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn module_of(reply: ModuleReply) -> Result<Option<ModuleId>, MethodError> {
    match reply {
        ModuleReply::Module(id) => Ok(id),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> MethodError {
    MethodError::new("module-reply", "the host answered a call of a network with something else")
}
