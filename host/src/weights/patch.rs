//! A patch: the committed set of changes of one edit, bound to its base model.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use engraft_plugin_api::{Change, Data, Delta, EditRequest, Params, Splice, Tensor};
use serde::{Deserialize, Serialize};

use super::codes;
use super::slots::slot_key;
use crate::base::{Error, Hash, Hasher, Result};

/// The name of a patch: the first 16 hexadecimal digits of its content's hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PatchId(String);

impl PatchId {
    /// The digits as a number.
    pub(super) fn bits(&self) -> u64 {
        self.0.bytes().fold(0, |bits, c| bits << 4 | u64::from(char::from(c).to_digit(16).unwrap_or(0)))
    }

    /// The one of some names that begins so; a name may stand among them several times.
    ///
    /// # Errors
    /// `patch-unknown` if there is none, `patch-ambiguous` if there are several.
    pub fn meant<'n>(prefix: &str, among: impl IntoIterator<Item = &'n Self>) -> Result<Self> {
        let low = prefix.to_ascii_lowercase();
        if low.is_empty() || low.len() > 16 || !low.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::new(&codes::PATCH_UNKNOWN, format!("`{prefix}` is not the name of a patch"))
                .help("patches are named by 16 hexadecimal digits, or as many of the first as are needed"));
        }
        let found: BTreeSet<&Self> = among.into_iter().filter(|id| id.0.starts_with(&low)).collect();
        let mut found = found.into_iter();
        match (found.next(), found.next(), found.count()) {
            (Some(one), None, _) => Ok(one.clone()),
            (Some(one), Some(two), more) => {
                let more = if more == 0 { String::new() } else { format!(" and of {more} more") };
                let text = format!("`{prefix}` is the beginning of the patch {one}, and of {two}{more}");
                Err(Error::new(&codes::PATCH_AMBIGUOUS, text).help("give more digits"))
            }
            _ => Err(Error::new(&codes::PATCH_UNKNOWN, format!("there is no patch {prefix}"))
                .help("`engraft patches list` shows those of a journal")),
        }
    }
}

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

fn hash_tensor(tensor: &Tensor, hasher: &mut Hasher) {
    hasher.part(format!("{:?}", tensor.shape()));
    hasher.part(match tensor.data() {
        Data::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        Data::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    });
}
