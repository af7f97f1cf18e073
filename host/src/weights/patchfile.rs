//! Patches as files: safetensors, with everything else as one JSON text in its metadata, so that equal patches are
//! equal bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engraft_plugin_api::{
    Activation, Change, Data, Delta, EditRequest, Fold, Increment, ParamValue, Params, Site, SlotGate, Slots, Splice,
    Target, Tensor, WeightRef,
};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use super::codes;
use super::patch::Patch;
use crate::base::{Error, Hash, Result, atomic};

/// The key of the metadata.
const KEY: &str = "engraft";
/// The version of this format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    id: String,
    base: Hash,
    method: String,
    version: String,
    params: BTreeMap<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artefact: Option<Hash>,
    requests: Vec<MetaRequest>,
    changes: Vec<MetaChange>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaRequest {
    id: String,
    prompt: String,
    subject: Option<String>,
    target_new: String,
    target_old: Option<String>,
}

/// A change without its tensors, told apart by the field that names its kind.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum MetaChange {
    Weight(MetaWeight),
    Slots(MetaSlots),
    Statistic(MetaStatistic),
    State(MetaState),
    Intercept(MetaIntercept),
    Splice(MetaSplice),
    Route(MetaRoute),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaWeight {
    weight: String,
    delta: String,
    rows: Option<Vec<usize>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaSlots {
    /// The block.
    slots: usize,
    activation: String,
    gated: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaStatistic {
    /// Its name.
    statistic: String,
    fold: String,
}

impl MetaStatistic {
    fn of(part: &Increment) -> Self {
        let fold = match part.fold {
            Fold::Sum => "sum",
            Fold::Stack => "stack",
        };
        Self { statistic: part.name.clone(), fold: fold.into() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaState {
    /// The number of bytes.
    state: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaIntercept {
    /// The sites.
    intercept: Vec<String>,
    whole_rows: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaSplice {
    /// The site that is written.
    splice: String,
    reads: Vec<String>,
    tables: Vec<MetaStatistic>,
    whole_rows: bool,
    order: i32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaRoute {
    /// True.
    route: bool,
}

/// A tensor of the file: element type, shape, bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

fn stored(tensor: &Tensor) -> Stored {
    let (dtype, bytes) = match tensor.data() {
        Data::F32(values) => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Data::I64(values) => (Dtype::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    (dtype, tensor.shape().to_vec(), bytes)
}

/// A change without its tensors, and those.
///
/// # Errors
/// `change-unsupported` for kinds that are not stored.
fn taken_apart(change: &Change) -> Result<(MetaChange, Vec<Stored>)> {
    let mut tensors: Vec<Stored> = change.tensors().into_iter().map(stored).collect();
    let meta = match change {
        Change::Weight { weight, delta } => {
            let (kind, rows) = match delta {
                Delta::LowRank { .. } => ("low-rank", None),
                Delta::Dense(_) => ("dense", None),
                Delta::Rows { rows, .. } => ("rows", Some(rows.clone())),
            };
            MetaChange::Weight(MetaWeight { weight: weight.to_string(), delta: kind.into(), rows })
        }
        Change::Slots(slots) => {
            let activation = match slots.activation {
                Activation::Model => "model",
                Activation::Relu => "relu",
            };
            let gated = slots.gate.is_some();
            MetaChange::Slots(MetaSlots { slots: slots.layer, activation: activation.into(), gated })
        }
        Change::Statistic(part) => {
            tensors.push(stored(&part.value));
            MetaChange::Statistic(MetaStatistic::of(part))
        }
        Change::Splice(splice) => {
            // The graph, then all tables, those of integers too.
            tensors = vec![(Dtype::U8, vec![splice.graph.len()], splice.graph.clone())];
            tensors.extend(splice.tables.iter().map(|table| stored(&table.value)));
            MetaChange::Splice(MetaSplice {
                splice: splice.writes.to_string(),
                reads: splice.reads.iter().map(ToString::to_string).collect(),
                tables: splice.tables.iter().map(MetaStatistic::of).collect(),
                whole_rows: splice.whole_rows,
                order: splice.order,
            })
        }
        Change::State(bytes) => {
            tensors.push((Dtype::U8, vec![bytes.len()], bytes.clone()));
            MetaChange::State(MetaState { state: bytes.len() })
        }
        Change::Intercept { sites, whole_rows } => {
            let intercept = sites.iter().map(ToString::to_string).collect();
            MetaChange::Intercept(MetaIntercept { intercept, whole_rows: *whole_rows })
        }
        Change::Route => MetaChange::Route(MetaRoute { route: true }),
        _ => return Err(Error::new(&codes::CHANGE_UNSUPPORTED, "a change of a kind that is not kept in files")),
    };
    Ok((meta, tensors))
}

/// The file that a patch is read from.
struct Reader<'f> {
    path: &'f Path,
    tensors: SafeTensors<'f>,
}

impl Reader<'_> {
    fn view(&self, change: usize, number: usize) -> Result<TensorView<'_>> {
        let found = self.tensors.tensor(&format!("{change}.{number}"));
        found.map_err(|e| damaged(self.path, "a tensor is missing").because(e))
    }

    fn tensor(&self, change: usize, number: usize) -> Result<Tensor> {
        let view = self.view(change, number)?;
        let made = match view.dtype() {
            Dtype::F32 => {
                let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                Tensor::f32(view.shape(), values)
            }
            Dtype::I64 => {
                let values = view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
                Tensor::i64(view.shape(), values)
            }
            _ => {
                let text = format!("the tensor `{change}.{number}` is of neither float32 nor int64");
                return Err(damaged(self.path, &text));
            }
        };
        made.map_err(|e| damaged(self.path, &e.to_string()))
    }

    fn floats(&self, change: usize, number: usize) -> Result<Tensor> {
        let tensor = self.tensor(change, number)?;
        match tensor.as_f32() {
            Ok(_) => Ok(tensor),
            Err(_) => Err(damaged(self.path, &format!("the tensor `{change}.{number}` is not of float32"))),
        }
    }

    fn raw(&self, change: usize, number: usize) -> Result<Vec<u8>> {
        let view = self.view(change, number)?;
        match view.dtype() {
            Dtype::U8 => Ok(view.data().to_vec()),
            _ => Err(damaged(self.path, &format!("the tensor `{change}.{number}` is not of bytes"))),
        }
    }

    fn part(&self, change: usize, number: usize, meta: MetaStatistic) -> Result<Increment> {
        let fold = match meta.fold.as_str() {
            "sum" => Fold::Sum,
            "stack" => Fold::Stack,
            other => return Err(self.unknown("a fold", other)),
        };
        Ok(Increment { name: meta.statistic, fold, value: self.tensor(change, number)? })
    }

    fn site(&self, text: &str) -> Result<Site> {
        text.parse().map_err(|e| damaged(self.path, "a site is misspelt").because(e))
    }

    fn sites(&self, texts: &[String]) -> Result<Vec<Site>> {
        texts.iter().map(|text| self.site(text)).collect()
    }

    fn unknown(&self, what: &str, found: &str) -> Error {
        damaged(self.path, &format!("{what} of kind `{found}` is not known"))
    }

    fn change(&self, i: usize, meta: MetaChange) -> Result<Change> {
        Ok(match meta {
            MetaChange::Weight(meta) => {
                let weight: WeightRef =
                    meta.weight.parse().map_err(|e| damaged(self.path, "a weight is misspelt").because(e))?;
                let delta = match (meta.delta.as_str(), meta.rows) {
                    ("low-rank", None) => Delta::LowRank { left: self.floats(i, 0)?, right: self.floats(i, 1)? },
                    ("dense", None) => Delta::Dense(self.floats(i, 0)?),
                    ("rows", Some(rows)) => Delta::Rows { rows, values: self.floats(i, 0)? },
                    (other, _) => return Err(self.unknown("a delta", other)),
                };
                Change::Weight { weight, delta }
            }
            MetaChange::Slots(meta) => {
                let activation = match meta.activation.as_str() {
                    "model" => Activation::Model,
                    "relu" => Activation::Relu,
                    other => return Err(self.unknown("an activation function", other)),
                };
                let (keys, bias, values) = (self.floats(i, 0)?, self.floats(i, 1)?, self.floats(i, 2)?);
                let gate =
                    || -> Result<SlotGate> { Ok(SlotGate { keys: self.floats(i, 3)?, bias: self.floats(i, 4)? }) };
                let gate = meta.gated.then(gate).transpose()?;
                Change::Slots(Slots { layer: meta.slots, keys, bias, values, gate, activation })
            }
            MetaChange::Statistic(meta) => Change::Statistic(self.part(i, 0, meta)?),
            MetaChange::State(meta) => {
                let state = self.raw(i, 0)?;
                if state.len() != meta.state {
                    return Err(damaged(self.path, &format!("its state is not {} bytes", meta.state)));
                }
                Change::State(state)
            }
            MetaChange::Route(MetaRoute { route: true }) => Change::Route,
            MetaChange::Route(_) => return Err(self.unknown("a route", "false")),
            MetaChange::Intercept(meta) => {
                Change::Intercept { sites: self.sites(&meta.intercept)?, whole_rows: meta.whole_rows }
            }
            MetaChange::Splice(meta) => {
                let table = |(n, table)| self.part(i, n + 1, table);
                Change::Splice(Splice {
                    graph: self.raw(i, 0)?,
                    reads: self.sites(&meta.reads)?,
                    writes: self.site(&meta.splice)?,
                    tables: meta.tables.into_iter().enumerate().map(table).collect::<Result<_>>()?,
                    whole_rows: meta.whole_rows,
                    order: meta.order,
                })
            }
        })
    }
}

impl Patch {
    /// Writes the patch, whole or not at all.
    ///
    /// # Errors
    /// `file-write` or `disk-full`; `change-unsupported` for kinds of changes that are not kept.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
        let mut changes = Vec::new();
        for (i, change) in self.changes.iter().enumerate() {
            let (meta, own) = taken_apart(change)?;
            changes.push(meta);
            tensors.extend(own.into_iter().enumerate().map(|(j, tensor)| (format!("{i}.{j}"), tensor)));
        }
        let meta = Meta {
            format: FORMAT,
            id: self.id().to_string(),
            base: self.base,
            method: self.method.clone(),
            version: self.version.clone(),
            params: self.params.0.iter().map(|(k, v)| (k.clone(), to_json(v))).collect(),
            artefact: self.artefact,
            requests: self
                .requests
                .iter()
                .map(|r| MetaRequest {
                    id: r.id.clone(),
                    prompt: r.prompt.clone(),
                    subject: r.subject.clone(),
                    target_new: r.target.new.clone(),
                    target_old: r.target.old.clone(),
                })
                .collect(),
            changes,
        };
        let text = serde_json::to_string(&meta).map_err(|e| damaged(path, "it cannot be described").because(e))?;
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                TensorView::new(*dtype, shape.clone(), bytes).map(|v| (name.as_str(), v))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| damaged(path, "its tensors do not fit their shapes").because(e))?;
        let bytes = serialize(views, Some(HashMap::from([(KEY.to_owned(), text)])))
            .map_err(|e| damaged(path, "it cannot be written as safetensors").because(e))?;
        atomic::write_bytes(path, &bytes)
    }

    /// Reads a patch. Whether it fits a model is checked when it is committed.
    ///
    /// # Errors
    /// `file-read` or `patch-file`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = atomic::read_bytes(path)?;
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|e| damaged(path, "it is not safetensors").because(e))?;
        let text = header.metadata().as_ref().and_then(|m| m.get(KEY));
        let text = text.ok_or_else(|| damaged(path, "it has no entry `engraft` in its metadata"))?;
        let meta: Meta =
            serde_json::from_str(text).map_err(|e| damaged(path, "its description does not parse").because(e))?;
        if meta.format != FORMAT {
            return Err(damaged(path, &format!("it has format {}, expected {FORMAT}", meta.format)));
        }
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| damaged(path, "its tensors are cut off").because(e))?;
        let reader = Reader { path, tensors };
        let changes = meta.changes.into_iter().enumerate().map(|(i, change)| reader.change(i, change));
        let changes = changes.collect::<Result<Vec<_>>>()?;
        let requests = meta.requests.into_iter().map(|r| EditRequest {
            id: r.id,
            prompt: r.prompt,
            subject: r.subject,
            target: Target { new: r.target_new, old: r.target_old },
        });
        let params = meta
            .params
            .into_iter()
            .map(|(k, v)| from_json(&v).map(|v| (k, v)))
            .collect::<Option<BTreeMap<_, _>>>()
            .ok_or_else(|| damaged(path, "a parameter has no value"))?;
        let patch = Self {
            base: meta.base,
            method: meta.method,
            version: meta.version,
            params: Params(params),
            artefact: meta.artefact,
            requests: requests.collect(),
            changes,
        };
        if patch.id().to_string() != meta.id {
            return Err(damaged(path, "its content does not have the hash that it says"));
        }
        Ok(patch)
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(&codes::PATCH_FILE, format!("`{}` is not a patch: {why}", path.display()))
}

fn to_json(value: &ParamValue) -> serde_json::Value {
    match value {
        ParamValue::Flag(v) => (*v).into(),
        ParamValue::Integer(v) => (*v).into(),
        ParamValue::Number(v) => (*v).into(),
        ParamValue::Text(v) => v.clone().into(),
        ParamValue::List(v) => v.iter().map(to_json).collect(),
    }
}

fn from_json(value: &serde_json::Value) -> Option<ParamValue> {
    Some(match value {
        serde_json::Value::Bool(v) => ParamValue::Flag(*v),
        serde_json::Value::Number(v) => match v.as_i64() {
            Some(i) => ParamValue::Integer(i),
            None => ParamValue::Number(v.as_f64()?),
        },
        serde_json::Value::String(v) => ParamValue::Text(v.clone()),
        serde_json::Value::Array(v) => ParamValue::List(v.iter().map(from_json).collect::<Option<_>>()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::{BlockSite, Role};

    use super::*;

    fn patch() -> Patch {
        let left = Tensor::f32([2, 1], vec![1.0, -2.0]).unwrap();
        let right = Tensor::f32([1, 3], vec![0.5, 0.25, 1e-9]).unwrap();
        Patch {
            base: Hash::of(b"model"),
            method: "rome".into(),
            version: "0.1.0".into(),
            params: Params(BTreeMap::from([
                ("layer".into(), ParamValue::Integer(1)),
                // One of the numbers that a quick way of reading decimals gets wrong in the last bit.
                ("v_lr".into(), ParamValue::Number(0.972_727_272_727_272_7)),
                ("lengths".into(), ParamValue::List(vec![ParamValue::Integer(5)])),
            ])),
            artefact: Some(Hash::of(b"learnt")),
            requests: vec![EditRequest {
                id: "7".into(),
                prompt: "{} is".into(),
                subject: Some("Ada".into()),
                target: Target { new: "x".into(), old: None },
            }],
            changes: vec![
                Change::Weight { weight: WeightRef::Block(0, Role::MlpOut), delta: Delta::LowRank { left, right } },
                Change::Weight {
                    weight: WeightRef::Embedding,
                    delta: Delta::Rows { rows: vec![4], values: Tensor::zeros([1, 3]) },
                },
                Change::Slots(crate::weights::waves(0, 2, 3, true, 1.0)),
                Change::Slots(Slots { activation: Activation::Relu, ..crate::weights::waves(1, 2, 1, false, 2.0) }),
                Change::State(vec![0, 255, 7]),
                Change::Route,
                Change::Intercept { sites: vec![Site::Embed, Site::LnFinal], whole_rows: true },
                Change::Statistic(Increment {
                    name: "keys".into(),
                    fold: Fold::Stack,
                    value: Tensor::i64([2], vec![-1, 1 << 40]).unwrap(),
                }),
                Change::Splice(Splice {
                    graph: vec![8, 0, 255],
                    reads: vec![Site::Embed, Site::Block(0, BlockSite::MlpOut)],
                    writes: Site::Block(0, BlockSite::MlpOut),
                    tables: vec![
                        Increment {
                            name: "labels".into(),
                            fold: Fold::Stack,
                            value: Tensor::i64([1], vec![-7]).unwrap(),
                        },
                        Increment { name: "memory".into(), fold: Fold::Sum, value: Tensor::zeros([2, 3]) },
                    ],
                    whole_rows: true,
                    order: -3,
                }),
            ],
        }
    }

    #[test]
    fn a_patch_survives_its_file_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
        patch().save(&a).unwrap();
        let read = Patch::load(&a).unwrap();
        assert_eq!(read, patch());
        read.save(&b).unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn a_whole_number_of_a_real_parameter_keeps_the_name_of_the_patch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut patch = patch();
        patch.params.0.insert("clamp".into(), ParamValue::Number(4.0));
        patch.save(&path).unwrap();
        assert_eq!(Patch::load(&path).unwrap().id(), patch.id());
    }

    #[test]
    fn the_name_of_a_patch_covers_every_change() {
        let whole = patch();
        let mut names = vec![whole.id()];
        for i in 0..whole.changes.len() {
            let mut less = whole.clone();
            less.changes.remove(i);
            names.push(less.id());
        }
        let mut other = whole.clone();
        let Some(Change::State(bytes)) = other.changes.iter_mut().find(|c| matches!(c, Change::State(_))) else {
            panic!()
        };
        bytes[1] = 0;
        names.push(other.id());
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n);
    }

    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        patch().save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut turned = whole.clone();
        *turned.last_mut().unwrap() ^= 1;
        for bytes in [&b""[..], b"text", &whole[..whole.len() - 3], &turned] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Patch::load(&path).unwrap_err().code().id, "patch-file");
        }
    }
}
