//! What a method asks of its own networks, and what it is answered.

use crate::abi::record::{FfiRecord, FfiTensor};
use crate::abi::records::{FromRecord, IntoRecord, ToRecord};
use crate::access::{ModuleCall, ModuleGraph, ModuleId, ModuleReply, ModuleSource, ModuleVariable, Tokens};
use crate::error::MethodError;
use crate::tensor::Tensor;

type Named = (String, Tensor);

fn lent<'a>(kind: &str, tensors: &'a [Named]) -> FfiRecord<'a> {
    let mut record = FfiRecord::new(kind);
    record.tensors.extend(tensors.iter().map(|(name, tensor)| FfiTensor::lent(name, tensor)));
    record
}

fn given(kind: &str, tensors: impl IntoIterator<Item = Named>) -> FfiRecord<'static> {
    let mut record = FfiRecord::new(kind);
    record.tensors.extend(tensors.into_iter().map(|(name, tensor)| FfiTensor::given(&name, tensor)));
    record
}

fn unnamed(tensors: Vec<Tensor>) -> impl Iterator<Item = Named> {
    tensors.into_iter().map(|tensor| ("value".to_owned(), tensor))
}

fn named_from(record: FfiRecord<'_>) -> Result<Vec<Named>, MethodError> {
    record.tensors.into_iter().map(|tensor| Ok((tensor.name.to_string(), tensor.into_tensor()?))).collect()
}

fn tensors_from(record: FfiRecord<'_>) -> Result<Vec<Tensor>, MethodError> {
    record.tensors.into_iter().map(FfiTensor::into_tensor).collect()
}

fn names_to<'a>(record: FfiRecord<'a>, kind: &str, names: &[String]) -> FfiRecord<'a> {
    record.with_list(kind, names.iter().map(|name| FfiRecord::new("name").with_text("text", name)))
}

fn names_from(record: &mut FfiRecord<'_>, kind: &str) -> Result<Vec<String>, MethodError> {
    record.take_list(kind, |name| name.text("text").map(str::to_owned))
}

impl ToRecord for ModuleCall {
    fn to_record(&self) -> FfiRecord<'_> {
        let of = |kind: &str, module: &ModuleId| FfiRecord::new(kind).with_text("module", &module.0);
        match self {
            Self::Find { key } => FfiRecord::new("find").with_text("key", key),
            Self::Open { key, source } => {
                let graph = match &source.graph {
                    ModuleGraph::Bytes(bytes) => FfiRecord::new("bytes").with_tensor(FfiTensor::bytes("graph", bytes)),
                    ModuleGraph::Path(path) => FfiRecord::new("path").with_text("path", path),
                };
                FfiRecord::new("open")
                    .with_text("key", key)
                    .with_child(FfiRecord::new("source").with_child(graph))
                    .with_child(lent("weights", &source.weights))
            }
            Self::Run { module, feeds, fetch } => {
                names_to(of("run", module).with_child(lent("feeds", feeds)), "fetch", fetch)
            }
            Self::Gradient { module, feeds, fetch, seeds, wrt } => {
                let variable = |variable: &ModuleVariable| match variable {
                    ModuleVariable::Input(name) => FfiRecord::new("input").with_text("name", name),
                    ModuleVariable::Weight(name) => FfiRecord::new("weight").with_text("name", name),
                };
                let record = of("gradient", module).with_child(lent("feeds", feeds)).with_child(lent("seeds", seeds));
                names_to(record, "fetch", fetch).with_list("wrt", wrt.iter().map(variable))
            }
            Self::Weights { module, names } => names_to(of("weights", module), "names", names),
            Self::Set { module, weights } => of("set", module).with_child(lent("weights", weights)),
            Self::Tokenize { module, text } => of("tokenize", module).with_text("text", text),
        }
    }
}

impl FromRecord for ModuleCall {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let module = |record: &FfiRecord<'_>| record.text("module").map(|id| ModuleId(id.to_owned()));
        Ok(match record.kind.as_str() {
            "find" => Self::Find { key: record.text("key")?.to_owned() },
            "open" => {
                let key = record.text("key")?.to_owned();
                let weights = named_from(record.take_child("weights")?)?;
                let mut graph = record.take_child("source")?.take_only()?;
                let graph = match graph.kind.as_str() {
                    "bytes" => ModuleGraph::Bytes(graph.take_bytes("graph")?),
                    "path" => ModuleGraph::Path(graph.text("path")?.to_owned()),
                    _ => return Err(graph.wrong("is not a source of a network that is known here")),
                };
                let source = ModuleSource { graph, weights };
                Self::Open { key, source }
            }
            "run" => Self::Run {
                module: module(&record)?,
                feeds: named_from(record.take_child("feeds")?)?,
                fetch: names_from(&mut record, "fetch")?,
            },
            "gradient" => Self::Gradient {
                module: module(&record)?,
                feeds: named_from(record.take_child("feeds")?)?,
                fetch: names_from(&mut record, "fetch")?,
                seeds: named_from(record.take_child("seeds")?)?,
                wrt: record.take_list("wrt", |variable| {
                    let name = variable.text("name")?.to_owned();
                    match variable.kind.as_str() {
                        "input" => Ok(ModuleVariable::Input(name)),
                        "weight" => Ok(ModuleVariable::Weight(name)),
                        _ => Err(variable.wrong("is not a variable that is known here")),
                    }
                })?,
            },
            "weights" => Self::Weights { module: module(&record)?, names: names_from(&mut record, "names")? },
            "set" => Self::Set { module: module(&record)?, weights: named_from(record.take_child("weights")?)? },
            "tokenize" => Self::Tokenize { module: module(&record)?, text: record.text("text")?.to_owned() },
            // As a call that is not known: growth is in data.
            other => {
                let text = format!("this host does not know the call `{other}` of networks");
                return Err(MethodError::new(MethodError::UNKNOWN_CALL, text));
            }
        })
    }
}

impl IntoRecord for ModuleReply {
    fn into_record(self) -> FfiRecord<'static> {
        match self {
            Self::Module(id) => FfiRecord::new("module").with_text_if("module", id.as_ref().map(|id| id.0.as_str())),
            Self::Values { outputs, gradients } => FfiRecord::new("values")
                .with_child(given("outputs", unnamed(outputs)))
                .with_child(given("gradients", unnamed(gradients))),
            Self::Weights(weights) => given("weights", weights),
            Self::Tokens(tokens) => tokens.into_record(),
        }
    }
}

impl FromRecord for ModuleReply {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(match record.kind.as_str() {
            "module" => Self::Module(record.text_if("module")?.map(ModuleId)),
            "values" => Self::Values {
                outputs: tensors_from(record.take_child("outputs")?)?,
                gradients: tensors_from(record.take_child("gradients")?)?,
            },
            "weights" => Self::Weights(named_from(record)?),
            "tokens" => Self::Tokens(Tokens::from_record(record)?),
            _ => return Err(record.wrong("is not an answer of a network that is known here")),
        })
    }
}
