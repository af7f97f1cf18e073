//! A patch: the committed set of changes of one edit, bound to its base model.

use std::fmt;
use std::str::FromStr;

use engraft_plugin_api::{Change, Delta, EditRequest, Params};
use serde::{Deserialize, Serialize};

use super::codes;
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
    /// What was asked for.
    pub requests: Vec<EditRequest>,
    /// What is changed.
    pub changes: Vec<Change>,
}

impl Patch {
    /// The name, from the content.
    pub fn id(&self) -> PatchId {
        let mut hasher = Hasher::new();
        hasher.part(self.base.bytes()).part(&self.method).part(&self.version);
        for (name, value) in &self.params.0 {
            hasher.part(name).part(value.to_string());
        }
        for request in &self.requests {
            hasher.part(&request.id).part(&request.prompt).part(request.subject.as_deref().unwrap_or(""));
            hasher.part(&request.target.new).part(request.target.old.as_deref().unwrap_or(""));
        }
        for change in &self.changes {
            let (weight, delta) = match change {
                Change::Weight { weight, delta } => (weight, delta),
                Change::State(bytes) => {
                    hasher.part("state").part(bytes);
                    continue;
                }
                _ => {
                    hasher.part(format!("{change:?}"));
                    continue;
                }
            };
            hasher.part(weight.to_string());
            if let Delta::Rows { rows, .. } = delta {
                hasher.part(format!("{rows:?}"));
            }
            for tensor in delta.tensors() {
                hasher.part(format!("{:?}", tensor.shape()));
                let values = tensor.as_f32().unwrap_or(&[]);
                hasher.part(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        PatchId(hasher.finish().to_string()[..16].to_owned())
    }
}
