//! The journal: which patches were committed and rolled back, in order, and what the model is after each.
//!
//! In memory for a run; in a folder for a service, where it holds `journal.jsonl` (whole lines, a torn last one is
//! dropped) and a file for every patch, and opens as the model was left.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::codes;
use super::history::{Action, Entry, History, whole};
use super::patch::{Patch, PatchId};
use super::rounding::Rounding;
use crate::base::{Error, Hash, Result, atomic, codes as base_codes};

/// The file of the lines.
pub(super) const FILE: &str = "journal.jsonl";

/// The record of what happened to one model, with the patches that are active.
#[derive(Debug, Default)]
pub struct Journal {
    history: History,
    active: Vec<(PatchId, Arc<Patch>)>,
    kept: Option<Kept>,
}

/// Where a journal is kept.
#[derive(Debug)]
struct Kept {
    folder: PathBuf,
    file: File,
    /// How many bytes of the file are whole lines.
    length: u64,
}

impl Journal {
    /// A journal that ends with the process.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens or begins the journal of a folder, for one process at a time. Only active patches are read: files of those
    /// that were rolled back are no longer needed.
    ///
    /// # Errors
    /// `journal-busy` if another process, or another part of this one, holds it; `journal-damaged`, naming the line, or
    /// the file of a patch that is missing or damaged; `file-read`, `file-write` or `disk-full`.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| atomic::write_error(folder, e))?;
        let path = folder.join(FILE);
        let failed = |e| atomic::write_error(&path, e);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another process holds the journal `{}`", path.display());
                let help =
                    "use the model of that process, or end it; `engraft patches list` reads a journal that is held";
                return Err(Error::new(&codes::JOURNAL_BUSY, text).help(help));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let bytes = atomic::read_bytes(&path)?;
        let length = whole(&bytes);
        let history = History::parse(&path, &bytes)?;
        if length < bytes.len() {
            file.set_len(length as u64).map_err(failed)?;
        }
        let load = |entry: &Entry| Ok((entry.patch.clone(), Arc::new(patch_of(folder, &entry.patch)?)));
        let active = history.active().map(load).collect::<Result<_>>()?;
        Ok(Self { history, active, kept: Some(Kept { folder: folder.to_path_buf(), file, length: length as u64 }) })
    }

    /// Everything that happened.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The folder that it is kept in, if it is.
    pub fn folder(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| kept.folder.as_path())
    }

    /// The patches that are part of the model, in the order of their commits.
    pub fn active(&self) -> &[(PatchId, Arc<Patch>)] {
        &self.active
    }

    /// An active patch by name.
    pub fn get(&self, id: &PatchId) -> Option<&Arc<Patch>> {
        self.history.position(id).map(|at| &self.active[at].1)
    }

    /// That a patch can be committed.
    ///
    /// # Errors
    /// `patch-applied` if it is active; `patch-base` if earlier entries are of another base model.
    pub fn check_new(&self, patch: &Patch) -> Result<()> {
        let id = patch.id();
        if self.get(&id).is_some() {
            return Err(Error::new(&codes::PATCH_APPLIED, format!("the patch {id} is active already")));
        }
        if let Some(base) = self.history.base().filter(|base| *base != patch.base) {
            let text = format!("the patch {id} is of the base model {}, the journal of {base}", patch.base);
            return Err(Error::new(&codes::PATCH_BASE, text));
        }
        Ok(())
    }

    /// Records a commit. `state` is the hash of the sum with it, `rounding` what narrow weights lose of its deltas.
    ///
    /// # Errors
    /// As [`Journal::check_new`]; `file-write` or `disk-full`. Nothing is recorded then.
    pub fn commit(&mut self, patch: Arc<Patch>, state: Hash, rounding: Vec<Rounding>) -> Result<PatchId> {
        self.check_new(&patch)?;
        let id = patch.id();
        if let Some(kept) = &self.kept {
            patch.save(&patch_path(&kept.folder, &id))?;
        }
        self.append([(Action::Commit, id.clone(), patch.base, state, rounding)])?;
        self.active.push((id.clone(), patch));
        Ok(id)
    }

    /// Records rollbacks, one after the other, all or none. Beside each patch stands the hash of the sum without it and
    /// those before it.
    ///
    /// # Errors
    /// `patch-unknown` if one is not active, or named twice; `file-write` or `disk-full`. Nothing is recorded then.
    pub fn rollback(&mut self, done: &[(PatchId, Hash)]) -> Result<()> {
        let ids: Vec<PatchId> = done.iter().map(|(id, _)| id.clone()).collect();
        self.history.states_without(&ids)?;
        let base = self.history.base().unwrap_or_else(|| Hash::of(b""));
        let lines = done.iter().map(|(id, state)| (Action::Rollback, id.clone(), base, *state, Vec::new()));
        let mut places: Vec<usize> = ids.iter().filter_map(|id| self.history.position(id)).collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        self.append(lines)?;
        for place in places {
            self.active.remove(place);
        }
        Ok(())
    }

    fn append(&mut self, lines: impl IntoIterator<Item = (Action, PatchId, Hash, Hash, Vec<Rounding>)>) -> Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        let numbered = (self.history.next_number()..).zip(lines);
        let entries: Vec<Entry> = numbered
            .map(|(number, (action, patch, base, state, rounding))| Entry {
                number,
                time,
                action,
                patch,
                base,
                state,
                rounding,
            })
            .collect();
        if let Some(kept) = &mut self.kept {
            kept.append(&entries)?;
        }
        entries.into_iter().for_each(|entry| self.history.push(entry));
        Ok(())
    }
}

impl Kept {
    /// Adds lines, all or none.
    fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let path = self.folder.join(FILE);
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, entry).map_err(|e| {
                Error::new(&base_codes::FILE_WRITE, format!("cannot write {}", path.display())).because(e)
            })?;
            lines.push(b'\n');
        }
        let write = |file: &mut File| {
            // Nothing stands behind the whole lines, unless a write failed and what it left could not be cut off.
            file.set_len(self.length)?;
            file.write_all(&lines)?;
            file.sync_data()
        };
        if let Err(e) = write(&mut self.file) {
            let _ = self.file.set_len(self.length);
            return Err(atomic::write_error(&path, e));
        }
        self.length += lines.len() as u64;
        Ok(())
    }
}

/// The file of a patch in the folder of a journal.
pub fn patch_path(folder: &Path, id: &PatchId) -> PathBuf {
    folder.join(format!("{id}.safetensors"))
}

/// A patch of the journal of a folder, active or rolled back.
///
/// # Errors
/// `journal-damaged`, naming the file: it is missing or damaged, or holds another patch.
pub fn patch_of(folder: &Path, id: &PatchId) -> Result<Patch> {
    let path = patch_path(folder, id);
    let refuse = |what: &str| {
        let text = format!("the journal's patch {id} cannot be taken up: `{}` {what}", path.display());
        Error::new(&codes::JOURNAL_DAMAGED, text).help("restore the file from a copy of the folder, or of the patch")
    };
    if !path.is_file() {
        return Err(refuse("is missing"));
    }
    let patch = Patch::load(&path).map_err(|e| refuse("is damaged").because(e))?;
    if patch.id() == *id { Ok(patch) } else { Err(refuse("holds another patch")) }
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
            journal.rollback(&[(a.clone(), state)]).unwrap();
            assert_eq!(journal.rollback(&[(a.clone(), state)]).unwrap_err().code().id, "patch-unknown");
            assert_eq!(journal.commit(patch("b"), state, Vec::new()).unwrap_err().code().id, "patch-applied");
        }
        let path = folder.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"number\":4,\"act");
        std::fs::write(&path, text).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.history().entries().len(), 3);
        assert_eq!(journal.active().iter().map(|(id, _)| id).collect::<Vec<_>>(), [&b]);
    }

    #[test]
    fn entries_tell_when_they_were_made_and_those_that_do_not_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = Hash::of(b"state");
        let id = Journal::open(folder.path()).unwrap().commit(patch("a"), state, Vec::new()).unwrap();
        let time = Journal::open(folder.path()).unwrap().history().entries()[0].time.unwrap();
        assert!(time > 1_700_000_000);
        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let old = text.replace(&format!("\"time\":{time},"), "");
        assert!(old.len() < text.len());
        std::fs::write(&path, old).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!((journal.history().entries()[0].time, journal.get(&id).is_some()), (None, true));
    }

    #[test]
    fn a_journal_is_held_by_one_and_its_files_are_those_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let state = Hash::of(b"state");
        let mut journal = Journal::open(folder.path()).unwrap();
        let [a, b, gone] = ["a", "b", "gone"].map(|name| journal.commit(patch(name), state, Vec::new()).unwrap());
        journal.rollback(&[(gone.clone(), state)]).unwrap();
        let other = Arc::new(Patch { base: Hash::of(b"other"), ..(*patch("c")).clone() });
        assert_eq!(journal.commit(other, state, Vec::new()).unwrap_err().code().id, "patch-base");
        let error = Journal::open(folder.path()).unwrap_err();
        assert_eq!(error.code().id, "journal-busy");
        assert!(error.message().contains(FILE), "{error}");
        assert_eq!(History::read(folder.path()).unwrap().entries(), journal.history().entries());
        drop(journal);

        let file = |id: &PatchId| patch_path(folder.path(), id);
        std::fs::remove_file(file(&gone)).unwrap();
        Journal::open(folder.path()).unwrap();
        let damage = |words: &str| {
            let error = Journal::open(folder.path()).unwrap_err();
            assert_eq!(error.code().id, "journal-damaged");
            assert!(error.message().contains(&format!("{a}.safetensors` {words}")), "{error}");
        };
        let whole = std::fs::read(file(&a)).unwrap();
        std::fs::write(file(&a), &whole[..whole.len() - 1]).unwrap();
        damage("is damaged");
        std::fs::copy(file(&b), file(&a)).unwrap();
        damage("holds another patch");
        std::fs::remove_file(file(&a)).unwrap();
        damage("is missing");
        std::fs::write(file(&a), whole).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap().active().len(), 2);
    }

    #[test]
    fn a_foreign_line_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "hello\n").unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap_err().code().id, "journal-damaged");
    }
}
