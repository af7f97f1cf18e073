//! A patch: the committed set of changes of one edit, bound to its base model.

use std::fmt;
use std::str::FromStr;

use engraft_plugin_api::{Change, Data, Delta, EditRequest, Increment, Params, Site, Splice, Tensor};
use serde::{Deserialize, Serialize};

use super::codes;
use super::slots::slot_key;
use crate::base::{Error, Hash, Hasher, Result};

/// The name of a patch: the first 16 hexadecimal digits of its content's hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PatchId(String);

impl fmt::Display for PatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PatchId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(Error::new(&codes::PATCH_UNKNOWN, format!("`{text}` is not the name of a patch")))
        }
    }
}

/// The committed set of changes of one edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The hash of the base model it was computed on.
    pub base: Hash,
    /// The method that made it.
    pub method: String,
    /// The version of the method's plugin.
    pub version: String,
    /// The parameters it was made with.
    pub params: Params,
    /// The hash of the artefact that the method was created with, where it learnt something before.
    pub artefact: Option<Hash>,
    /// What was asked for.
    pub requests: Vec<EditRequest>,
    /// What is changed.
    pub changes: Vec<Change>,
}

impl Patch {
    /// What it changes, in words, one phrase for each change.
    pub fn contents(&self) -> Vec<String> {
        self.changes.iter().map(words).collect()
    }

    /// True if both were made by one method: of the same name, with the same parameters and artefact.
    pub fn is_of_the_maker_of(&self, other: &Self) -> bool {
        (&self.method, &self.params, &self.artefact) == (&other.method, &other.params, &other.artefact)
    }

    /// The name, from the content.
    pub fn id(&self) -> PatchId {
        let mut hasher = Hasher::new();
        hasher.part(self.base.bytes()).part(&self.method).part(&self.version);
        for (name, value) in &self.params.0 {
            hasher.part(name).part(value.to_string());
        }
        if let Some(artefact) = &self.artefact {
            hasher.part("artefact").part(artefact.bytes());
        }
        for request in &self.requests {
            hasher.part(&request.id).part(&request.prompt).part(request.subject.as_deref().unwrap_or(""));
            hasher.part(&request.target.new).part(request.target.old.as_deref().unwrap_or(""));
        }
        for change in &self.changes {
            match change {
                Change::Weight { weight, delta } => {
                    hasher.part(weight.to_string());
                    if let Delta::Rows { rows, .. } = delta {
                        hasher.part(format!("{rows:?}"));
                    }
                }
                Change::Slots(slots) => {
                    hasher.part(format!("slots {:?}", slot_key(slots)));
                }
                Change::Splice(splice) => {
                    let Splice { graph, reads, writes, tables, whole_rows, order } = splice;
                    hasher.part(format!("splice {writes} {order} {whole_rows} {reads:?}")).part(graph);
                    for table in tables {
                        hasher.part(format!("{:?}", table.fold)).part(&table.name);
                        hash_tensor(&table.value, &mut hasher);
                    }
                    continue;
                }
                Change::State(bytes) => {
                    hasher.part("state").part(bytes);
                }
                Change::Statistic(part) => {
                    hasher.part(format!("statistic {:?}", part.fold)).part(&part.name);
                    hash_tensor(&part.value, &mut hasher);
                }
                _ => {
                    hasher.part(format!("{change:?}"));
                }
            }
            for tensor in change.tensors() {
                hash_tensor(tensor, &mut hasher);
            }
        }
        PatchId(hasher.finish().to_string()[..16].to_owned())
    }
}

fn words(change: &Change) -> String {
    let extents = |tensor: &Tensor| tensor.shape().iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
    let sites = |sites: &[Site]| sites.iter().map(|site| format!("`{site}`")).collect::<Vec<_>>().join(", ");
    match change {
        Change::Weight { weight, delta: Delta::LowRank { right, .. } } => {
            format!("a delta of rank {} to `{weight}`", right.shape().first().copied().unwrap_or(0))
        }
        Change::Weight { weight, delta: Delta::Dense(_) } => format!("a dense delta to `{weight}`"),
        Change::Weight { weight, delta: Delta::Rows { rows, .. } } => format!("{} rows of `{weight}`", rows.len()),
        Change::Slots(slots) => format!("{} slots beside the MLP of block {}", slots.count(), slots.layer),
        Change::Splice(splice) => {
            let table = |table: &Increment| format!("`{}` {}", table.name, extents(&table.value));
            let tables: Vec<String> = splice.tables.iter().map(table).collect();
            let tables = if tables.is_empty() { String::new() } else { format!(" with {}", tables.join(", ")) };
            format!("a splice at `{}`, order {}{tables}", splice.writes, splice.order)
        }
        Change::Intercept { sites: at, .. } => format!("an interception at {}", sites(at)),
        Change::Route => "routing".to_owned(),
        Change::State(bytes) => format!("a state of {} bytes", bytes.len()),
        Change::Statistic(part) => format!("a part of the statistic `{}`, {}", part.name, extents(&part.value)),
        _ => "a change of a kind that is not known".to_owned(),
    }
}

fn hash_tensor(tensor: &Tensor, hasher: &mut Hasher) {
    hasher.part(format!("{:?}", tensor.shape()));
    hasher.part(match tensor.data() {
        Data::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        Data::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    });
}
