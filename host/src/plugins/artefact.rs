//! What a method learnt, as a file: safetensors with the method's bytes, what they are bound to in the metadata, and
//! fingerprints of what was seen in training, so that an evaluation can tell what it shares with it.
//!
//! Nothing in it depends on the time or the machine: equal trainings give equal files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engraft_plugin_api::Artefact;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use super::codes;
use super::load::Library;
use crate::base::{Error, Hash, Result, atomic};

/// The key of the metadata.
const KEY: &str = "engraft-artefact";
/// The version of this format.
const FORMAT: u32 = 1;
/// The tensor that holds the method's bytes.
const BYTES: &str = "artefact";
/// What the tensors of fingerprints begin with.
const SEEN: &str = "seen.";

/// The identity of what a method learnt: its name, the hashes of model and data, and its bytes.
pub(super) fn artefact_hash(method: &str, artefact: &Artefact) -> Hash {
    Hash::of_parts([method.as_bytes(), artefact.base.as_bytes(), artefact.data.as_bytes(), &artefact.bytes])
}

/// What a method learnt, with where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactFile {
    /// The method's name.
    pub method: String,
    /// The version of the method's plugin.
    pub version: String,
    /// The parameters of the training, as TOML.
    pub params: String,
    /// The root of the training's random streams.
    pub seed: u64,
    /// What was learnt, with the hashes of model and data.
    pub artefact: Artefact,
    /// Fingerprints of what was seen in training, in named sets, sorted.
    pub seen: BTreeMap<String, Vec<i64>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    hash: Hash,
    base: String,
    data: String,
    method: String,
    version: String,
    params: String,
    seed: u64,
}

impl ArtefactFile {
    /// The identity of what was learnt, by which patches and reports name it.
    pub fn hash(&self) -> Hash {
        artefact_hash(&self.method, &self.artefact)
    }

    /// Checks that a library's method made it. Another version of the method may read it: that is for the method to say.
    ///
    /// # Errors
    /// `artefact-method`
    pub fn check(&self, library: &Library) -> Result<()> {
        let name = &library.descriptor().name;
        if self.method == *name {
            return Ok(());
        }
        let text = format!("the artefact was learnt by the method `{}`, it cannot be given to `{name}`", self.method);
        Err(Error::new(&codes::ARTEFACT_METHOD, text))
    }

    /// Checks that it was learnt on the model of this hash.
    ///
    /// # Errors
    /// `artefact-base`
    pub fn check_base(&self, model: &str) -> Result<()> {
        if self.artefact.base == model { Ok(()) } else { Err(other_base(&self.method, &self.artefact.base, model)) }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// `file-write` or `disk-full`.
    pub fn save(&self, path: &Path) -> Result<()> {
        let Artefact { base, data, bytes } = &self.artefact;
        let meta = Meta {
            format: FORMAT,
            hash: self.hash(),
            base: base.clone(),
            data: data.clone(),
            method: self.method.clone(),
            version: self.version.clone(),
            params: self.params.clone(),
            seed: self.seed,
        };
        let failed = |e: &dyn std::fmt::Display| damaged(path, &e.to_string());
        let text = serde_json::to_string(&meta).map_err(|e| failed(&e))?;
        let seen: Vec<(String, usize, Vec<u8>)> = self
            .seen
            .iter()
            .map(|(name, prints)| {
                let bytes = prints.iter().flat_map(|print| print.to_le_bytes()).collect();
                (format!("{SEEN}{name}"), prints.len(), bytes)
            })
            .collect();
        let mut views = vec![(BYTES, TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(|e| failed(&e))?)];
        for (name, count, bytes) in &seen {
            views.push((name, TensorView::new(Dtype::I64, vec![*count], bytes).map_err(|e| failed(&e))?));
        }
        let file = serialize(views, Some(HashMap::from([(KEY.to_owned(), text)]))).map_err(|e| failed(&e))?;
        atomic::write_bytes(path, &file)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `file-read`, or `artefact-file` if it is none or was changed.
    pub fn load(path: &Path) -> Result<Self> {
        let file = atomic::read_bytes(path)?;
        let (_, header) =
            SafeTensors::read_metadata(&file).map_err(|e| damaged(path, "it is not safetensors").because(e))?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let text = text.ok_or_else(|| damaged(path, &format!("it has no entry `{KEY}` in its metadata")))?;
        let meta: Meta =
            serde_json::from_str(text).map_err(|e| damaged(path, "its description does not parse").because(e))?;
        if meta.format != FORMAT {
            return Err(damaged(path, &format!("it has format {}, expected {FORMAT}", meta.format)));
        }
        let tensors = SafeTensors::deserialize(&file).map_err(|e| damaged(path, "it is cut off").because(e))?;
        let (mut bytes, mut seen) = (None, BTreeMap::new());
        for (name, view) in tensors.iter() {
            match (name.strip_prefix(SEEN), view.dtype()) {
                (None, Dtype::U8) if name == BYTES => bytes = Some(view.data().to_vec()),
                (Some(set), Dtype::I64) => {
                    let prints = view.data().as_chunks::<8>().0.iter().map(|&print| i64::from_le_bytes(print));
                    seen.insert(set.to_owned(), prints.collect());
                }
                _ => return Err(damaged(path, &format!("it holds a tensor `{name}` of the type {:?}", view.dtype()))),
            }
        }
        let bytes = bytes.ok_or_else(|| damaged(path, "the bytes of the method are missing"))?;
        let Meta { hash, base, data, method, version, params, seed, .. } = meta;
        let file = Self { method, version, params, seed, artefact: Artefact { base, data, bytes }, seen };
        if file.hash() != hash {
            return Err(damaged(path, "its content does not have the hash that it says"));
        }
        Ok(file)
    }
}

/// The error of an artefact that was learnt on the model `base` and is used on another.
pub(super) fn other_base(method: &str, base: &str, model: &str) -> Error {
    let text = format!("the artefact of `{method}` was trained on the model {base}, this is {model}");
    Error::new(&codes::ARTEFACT_BASE, text).help("train the method on this model")
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(&codes::ARTEFACT_FILE, format!("`{}` is not the artefact of a training: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artefact_survives_its_file_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.artefact");
        let file = ArtefactFile {
            method: "scope".into(),
            version: "1".into(),
            params: "lr = 0.1\n".into(),
            seed: u64::MAX,
            artefact: Artefact { base: "m".into(), data: "d".into(), bytes: vec![0, 255, 7] },
            seen: BTreeMap::from([("facts".into(), vec![i64::MIN, 3]), ("none".into(), vec![])]),
        };
        file.save(&path).unwrap();
        assert_eq!(ArtefactFile::load(&path).unwrap(), file);
        let bytes = std::fs::read(&path).unwrap();
        let mut turned = bytes.clone();
        // The last bytes of the file are those of a tensor; the method's are found by their content.
        let at = bytes.windows(3).rposition(|w| w == [0, 255, 7]).unwrap();
        turned[at] ^= 1;
        for wrong in [&bytes[..bytes.len() - 1], &bytes[..9], b"", &turned] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(ArtefactFile::load(&path).unwrap_err().code().id, "artefact-file");
        }
        assert_eq!(ArtefactFile::load(folder.path()).unwrap_err().code().id, "file-read");
        assert_eq!(file.check_base("other").unwrap_err().code().id, "artefact-base");
        assert_ne!(file.hash(), ArtefactFile { method: "other".into(), ..file }.hash());
    }
}
