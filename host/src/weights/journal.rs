//! The journal: which patches were committed and rolled back, in order, and what the model is after each.
//!
//! In memory for a run; in a folder for a service, where it holds `journal.jsonl` (whole lines, a torn last one is
//! dropped) and a file for every patch, and opens as the model was left.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codes;
use super::patch::{Patch, PatchId};
use super::rounding::Rounding;
use crate::base::{Error, Hash, Result, atomic};

/// What was done with a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It became part of the model.
    Commit,
    /// It was taken out again.
    Rollback,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counts from 1.
    pub number: u64,
    /// What was done.
    pub action: Action,
    /// With which patch.
    pub patch: PatchId,
    /// The hash of the base model.
    pub base: Hash,
    /// The hash of the sum of the patches that are active after it.
    pub state: Hash,
    /// Of a commit: what rounding takes from its deltas, for weights that are kept in fewer bits than float32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounding: Vec<Rounding>,
}

/// The record of what happened to one model.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Vec<Entry>,
    active: Vec<(PatchId, Arc<Patch>)>,
    folder: Option<(PathBuf, File)>,
}

const FILE: &str = "journal.jsonl";

impl Journal {
    /// A journal that ends with the process.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens or begins the journal of a folder, for one process at a time.
    ///
    /// # Errors
    /// `journal-damaged`, or `file-read`/`file-write` if the folder is not readable or another process holds it.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| atomic::write_error(folder, e))?;
        let path = folder.join(FILE);
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| atomic::write_error(&path, e))?;
        file.try_lock().map_err(|e| {
            Error::new(&crate::base::codes::FILE_WRITE, format!("another process holds `{}`", path.display()))
                .because(e)
        })?;
        let bytes = atomic::read_bytes(&path)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(|e| atomic::write_error(&path, e))?;
        }
        let mut out = Self { folder: Some((folder.to_path_buf(), file)), ..Self::default() };
        for (i, line) in bytes[..whole].split(|&b| b == b'\n').filter(|l| !l.is_empty()).enumerate() {
            let damaged = |why: String| {
                Error::new(&codes::JOURNAL_DAMAGED, format!("line {} of `{}` {why}", i + 1, path.display()))
            };
            let entry: Entry =
                serde_json::from_slice(line).map_err(|e| damaged("is not an entry".into()).because(e))?;
            match entry.action {
                Action::Commit => {
                    let patch = Patch::load(&patch_path(folder, &entry.patch))?;
                    if patch.id() != entry.patch {
                        return Err(damaged(format!("names the patch {}, its file holds another", entry.patch)));
                    }
                    out.active.push((entry.patch.clone(), Arc::new(patch)));
                }
                Action::Rollback => {
                    let position = out.active.iter().position(|(id, _)| *id == entry.patch);
                    let position =
                        position.ok_or_else(|| damaged(format!("rolls back {}, which is not active", entry.patch)))?;
                    out.active.remove(position);
                }
            }
            out.entries.push(entry);
        }
        Ok(out)
    }

    /// Everything that happened, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The patches that are part of the model, in the order of their commits.
    pub fn active(&self) -> &[(PatchId, Arc<Patch>)] {
        &self.active
    }

    /// An active patch by name.
    pub fn get(&self, id: &PatchId) -> Option<&Arc<Patch>> {
        self.active.iter().find(|(i, _)| i == id).map(|(_, p)| p)
    }

    /// Records a commit. `state` is the hash of the sum with it, `rounding` what narrow weights lose of its deltas.
    ///
    /// # Errors
    /// `patch-applied`, or `file-write`/`disk-full`; nothing is recorded then.
    pub fn commit(&mut self, patch: Arc<Patch>, state: Hash, rounding: Vec<Rounding>) -> Result<PatchId> {
        let id = patch.id();
        if self.get(&id).is_some() {
            return Err(Error::new(&codes::PATCH_APPLIED, format!("the patch {id} is active already")));
        }
        if let Some((folder, _)) = &self.folder {
            patch.save(&patch_path(folder, &id))?;
        }
        self.append(Action::Commit, &id, patch.base, state, rounding)?;
        self.active.push((id.clone(), patch));
        Ok(id)
    }

    /// Records a rollback. `state` is the hash of the sum without it.
    ///
    /// # Errors
    /// `patch-unknown`, or `file-write`/`disk-full`; nothing is recorded then.
    pub fn rollback(&mut self, id: &PatchId, state: Hash) -> Result<()> {
        let position = self.active.iter().position(|(i, _)| i == id).ok_or_else(|| {
            Error::new(&codes::PATCH_UNKNOWN, format!("there is no active patch {id}"))
                .help("`patches` lists the active ones")
        })?;
        let base = self.active[position].1.base;
        self.append(Action::Rollback, id, base, state, Vec::new())?;
        self.active.remove(position);
        Ok(())
    }

    fn append(
        &mut self,
        action: Action,
        patch: &PatchId,
        base: Hash,
        state: Hash,
        rounding: Vec<Rounding>,
    ) -> Result<()> {
        let number = self.entries.len() as u64 + 1;
        let entry = Entry { number, action, patch: patch.clone(), base, state, rounding };
        if let Some((folder, file)) = &mut self.folder {
            let mut line = serde_json::to_vec(&entry).unwrap_or_default();
            line.push(b'\n');
            let write = file.write_all(&line).and_then(|()| file.sync_data());
            write.map_err(|e| atomic::write_error(&folder.join(FILE), e))?;
        }
        self.entries.push(entry);
        Ok(())
    }
}

fn patch_path(folder: &Path, id: &PatchId) -> PathBuf {
    folder.join(format!("{id}.safetensors"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engraft_plugin_api::Params;

    use super::*;

    fn patch(name: &str) -> Arc<Patch> {
        Arc::new(Patch {
            base: Hash::of(b"base"),
            method: name.into(),
            version: "1".into(),
            params: Params(BTreeMap::new()),
            artefact: None,
            requests: Vec::new(),
            changes: Vec::new(),
        })
    }

    #[test]
    fn a_journal_opens_as_it_was_left_and_drops_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let state = Hash::of(b"state");
        let (a, b);
        {
            let mut journal = Journal::open(folder.path()).unwrap();
            a = journal.commit(patch("a"), state, Vec::new()).unwrap();
            b = journal.commit(patch("b"), state, Vec::new()).unwrap();
            journal.rollback(&a, state).unwrap();
            assert_eq!(journal.rollback(&a, state).unwrap_err().code().id, "patch-unknown");
            assert_eq!(journal.commit(patch("b"), state, Vec::new()).unwrap_err().code().id, "patch-applied");
        }
        let path = folder.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"number\":4,\"act");
        std::fs::write(&path, text).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.entries().len(), 3);
        assert_eq!(journal.active().iter().map(|(id, _)| id).collect::<Vec<_>>(), [&b]);
    }

    #[test]
    fn a_foreign_line_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "hello\n").unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap_err().code().id, "journal-damaged");
    }
}
