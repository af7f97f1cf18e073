//! Patches as files: safetensors, with everything else as one JSON text in its metadata, so that equal patches are
//! equal bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engraft_plugin_api::{Change, Delta, EditRequest, ParamValue, Params, Target, Tensor, WeightRef};
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

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum MetaChange {
    Weight {
        weight: String,
        delta: String,
        rows: Option<Vec<usize>>,
    },
    Intercept {
        intercept: Vec<String>,
        whole_rows: bool,
    },
    /// The length, in bytes; they lie among the tensors.
    State {
        state: usize,
    },
}

impl Patch {
    /// Writes the patch, whole or not at all.
    ///
    /// # Errors
    /// `file-write` or `disk-full`.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
        let mut changes = Vec::new();
        for (i, change) in self.changes.iter().enumerate() {
            let (weight, delta) = match change {
                Change::Weight { weight, delta } => (weight, delta),
                Change::Intercept { sites, whole_rows } => {
                    let intercept = sites.iter().map(ToString::to_string).collect();
                    changes.push(MetaChange::Intercept { intercept, whole_rows: *whole_rows });
                    continue;
                }
                Change::State(bytes) => {
                    changes.push(MetaChange::State { state: bytes.len() });
                    tensors.insert(format!("{i}.state"), (Dtype::U8, vec![bytes.len()], bytes.clone()));
                    continue;
                }
                other => return Err(damaged(path, &format!("it holds a change that no file can: {other:?}"))),
            };
            let (kind, rows) = match delta {
                Delta::LowRank { .. } => ("low-rank", None),
                Delta::Dense(_) => ("dense", None),
                Delta::Rows { rows, .. } => ("rows", Some(rows.clone())),
            };
            changes.push(MetaChange::Weight { weight: weight.to_string(), delta: kind.into(), rows });
            for (j, tensor) in delta.tensors().into_iter().enumerate() {
                let values = tensor.as_f32().map_err(|e| damaged(path, &e.to_string()))?;
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                tensors.insert(format!("{i}.{j}"), (Dtype::F32, tensor.shape().to_vec(), bytes));
            }
        }
        let meta = Meta {
            format: FORMAT,
            id: self.id().to_string(),
            base: self.base,
            method: self.method.clone(),
            version: self.version.clone(),
            params: self.params.0.iter().map(|(k, v)| (k.clone(), to_json(v))).collect(),
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
            .map(|(name, (kind, shape, bytes))| {
                TensorView::new(*kind, shape.clone(), bytes).map(|v| (name.as_str(), v))
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
        let tensor = |i: usize, j: usize| -> Result<Tensor> {
            let view =
                tensors.tensor(&format!("{i}.{j}")).map_err(|e| damaged(path, "a tensor is missing").because(e))?;
            if view.dtype() != Dtype::F32 {
                return Err(damaged(path, &format!("the tensor `{i}.{j}` is not of float32")));
            }
            let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Tensor::f32(view.shape(), values).map_err(|e| damaged(path, &e.to_string()))
        };
        let mut changes = Vec::new();
        for (i, change) in meta.changes.into_iter().enumerate() {
            let (weight, delta, rows) = match change {
                MetaChange::Weight { weight, delta, rows } => (weight, delta, rows),
                MetaChange::Intercept { intercept, whole_rows } => {
                    let sites = intercept.iter().map(|site| site.parse()).collect::<Result<_, _>>();
                    let sites = sites.map_err(|e| damaged(path, "a site is misspelt").because(e))?;
                    changes.push(Change::Intercept { sites, whole_rows });
                    continue;
                }
                MetaChange::State { state } => {
                    let view = tensors.tensor(&format!("{i}.state"));
                    let view = view.map_err(|e| damaged(path, "a state is missing").because(e))?;
                    if view.dtype() != Dtype::U8 || view.data().len() != state {
                        return Err(damaged(path, &format!("the state `{i}.state` is not of {state} bytes")));
                    }
                    changes.push(Change::State(view.data().to_vec()));
                    continue;
                }
            };
            let weight: WeightRef = weight.parse().map_err(|e| damaged(path, "a weight is misspelt").because(e))?;
            let delta = match (delta.as_str(), rows) {
                ("low-rank", None) => Delta::LowRank { left: tensor(i, 0)?, right: tensor(i, 1)? },
                ("dense", None) => Delta::Dense(tensor(i, 0)?),
                ("rows", Some(rows)) => Delta::Rows { rows, values: tensor(i, 0)? },
                (other, _) => return Err(damaged(path, &format!("a delta of kind `{other}` is not known"))),
            };
            changes.push(Change::Weight { weight, delta });
        }
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
    use engraft_plugin_api::{Role, Site};

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
                ("v_lr".into(), ParamValue::Number(0.5)),
                ("lengths".into(), ParamValue::List(vec![ParamValue::Integer(5)])),
            ])),
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
                Change::State(vec![1, 2, 255]),
                Change::Intercept { sites: vec![Site::Embed, Site::LnFinal], whole_rows: true },
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
