//! The lines of a journal: what happened to a model, in order, and which patches that leaves active.
//!
//! It can be read while another process holds the journal, and looks at no patch. Whatever is asked of it costs at most
//! as much as there are active patches, however long the history is.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codes;
use super::journal::FILE;
use super::patch::PatchId;
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
    /// When it was made, in seconds since the beginning of 1970 in UTC, as the machine's clock had it. Information and
    /// no more: it is part of no hash, nothing is decided by it, and older journals do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
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

/// What happened to one model, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: Vec<Entry>,
    active: Actives,
    /// Of each active patch, the number of the entry that committed it.
    commits: BTreeMap<PatchId, u64>,
    /// The last state that was recorded for a list of active patches.
    states: BTreeMap<u128, Hash>,
}

/// The active patches in the order of their commits: the numbers of those entries, and the identifiers' digits.
#[derive(Clone, Debug, Default)]
struct Actives {
    links: Vec<(u64, u64)>,
    /// What stands for the list of identifiers: the sum of a hash for each of them with the one before it. Who follows
    /// whom is the whole list, and a patch is put in or taken out of it by its neighbours alone.
    list: u128,
}

/// The hash of two neighbours; nothing stands before the first.
fn pair(before: Option<u64>, id: u64) -> u128 {
    let before = before.map(|id| id.to_le_bytes());
    let hash = Hash::of_parts([before.as_ref().map_or(&[][..], |id| id), &id.to_le_bytes()]);
    hash.bytes()[..16].iter().fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}

impl Actives {
    fn push(&mut self, number: u64, id: u64) {
        self.list = self.list.wrapping_add(pair(self.links.last().map(|(_, id)| *id), id));
        self.links.push((number, id));
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.links.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    fn remove(&mut self, at: usize) {
        let (_, id) = self.links.remove(at);
        let before = at.checked_sub(1).map(|at| self.links[at].1);
        self.list = self.list.wrapping_sub(pair(before, id));
        if let Some((_, after)) = self.links.get(at) {
            self.list = self.list.wrapping_sub(pair(Some(id), *after)).wrapping_add(pair(before, *after));
        }
    }
}

impl History {
    /// The history of a folder's journal, whoever holds that. A torn last line is passed over.
    ///
    /// # Errors
    /// `journal-missing`, `journal-damaged`, or `file-read`.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::check_there(folder)?;
        let path = folder.join(FILE);
        Self::parse(&path, &atomic::read_bytes(&path)?)
    }

    /// That a folder holds a journal.
    ///
    /// # Errors
    /// `journal-missing`
    pub fn check_there(folder: &Path) -> Result<()> {
        if folder.join(FILE).is_file() {
            return Ok(());
        }
        let text = format!("there is no journal in `{}`: expected a file `{FILE}` there", folder.display());
        Err(Error::new(&codes::JOURNAL_MISSING, text))
    }

    /// Whole lines.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut out = Self::default();
        for (i, line) in bytes[..whole(bytes)].split(|&b| b == b'\n').filter(|l| !l.is_empty()).enumerate() {
            let damaged = |why: String| {
                Error::new(&codes::JOURNAL_DAMAGED, format!("line {} of `{}` {why}", i + 1, path.display()))
            };
            let entry: Entry =
                serde_json::from_slice(line).map_err(|e| damaged("is not an entry".into()).because(e))?;
            out.check(&entry).map_err(damaged)?;
            out.push(entry);
        }
        Ok(out)
    }

    /// Why an entry cannot be the next one.
    fn check(&self, entry: &Entry) -> Result<(), String> {
        let (number, active) = (self.next_number(), self.commits.contains_key(&entry.patch));
        if entry.number != number {
            return Err(format!("has the number {}, expected {number}", entry.number));
        }
        if let Some(base) = self.base().filter(|base| *base != entry.base) {
            return Err(format!("is of the base model {}, those before it of {base}", entry.base));
        }
        match entry.action {
            Action::Commit if active => Err(format!("commits {}, which is active", entry.patch)),
            Action::Rollback if !active => Err(format!("rolls back {}, which is not active", entry.patch)),
            _ => Ok(()),
        }
    }

    /// Takes up an entry that can be the next one.
    pub(super) fn push(&mut self, entry: Entry) {
        match entry.action {
            Action::Commit => {
                self.active.push(entry.number, entry.patch.bits());
                self.commits.insert(entry.patch.clone(), entry.number);
            }
            Action::Rollback => {
                if let Some(at) = self.position(&entry.patch) {
                    self.active.remove(at);
                    self.commits.remove(&entry.patch);
                }
            }
        }
        self.states.insert(self.active.list, entry.state);
        self.entries.push(entry);
    }

    /// What the next entry is numbered with.
    pub(super) fn next_number(&self) -> u64 {
        self.entries.len() as u64 + 1
    }

    /// Everything that happened, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The hash of the base model that it is of; none while nothing happened.
    pub fn base(&self) -> Option<Hash> {
        self.entries.first().map(|entry| entry.base)
    }

    /// The hash of the sum of the active patches; none while nothing happened.
    pub fn state(&self) -> Option<Hash> {
        self.entries.last().map(|entry| entry.state)
    }

    /// The entries that committed the active patches, in their order.
    pub fn active(&self) -> impl Iterator<Item = &Entry> {
        self.active.links.iter().map(|(number, _)| &self.entries[*number as usize - 1])
    }

    /// The place of a patch among the active ones.
    pub(super) fn position(&self, id: &PatchId) -> Option<usize> {
        self.active.position(*self.commits.get(id)?)
    }

    /// The active patch whose identifier begins so.
    ///
    /// # Errors
    /// `patch-unknown`, saying so if it was rolled back; `patch-ambiguous`.
    pub fn find_active(&self, prefix: &str) -> Result<PatchId> {
        PatchId::meant(prefix, self.commits.keys()).map_err(|error| match self.find(prefix) {
            Ok(id) if *error.code() == codes::PATCH_UNKNOWN => {
                let last = self.entries.iter().rfind(|entry| entry.patch == id).map_or(0, |entry| entry.number);
                Error::new(&codes::PATCH_UNKNOWN, format!("the patch {id} is rolled back already, by entry {last}"))
            }
            _ => error,
        })
    }

    /// The patch, active or rolled back, whose identifier begins so.
    ///
    /// # Errors
    /// `patch-unknown` or `patch-ambiguous`.
    pub fn find(&self, prefix: &str) -> Result<PatchId> {
        PatchId::meant(prefix, self.entries.iter().map(|entry| &entry.patch))
    }

    /// The states that were recorded, the last time, for what is left when active patches are taken out one after the
    /// other: one for each of them, in that order.
    ///
    /// # Errors
    /// `patch-unknown` if one is not active, or named twice.
    pub fn states_without(&self, ids: &[PatchId]) -> Result<Vec<Option<Hash>>> {
        let mut left = self.active.clone();
        let mut states = Vec::with_capacity(ids.len());
        for id in ids {
            let at = self.commits.get(id).and_then(|number| left.position(*number)).ok_or_else(|| {
                Error::new(&codes::PATCH_UNKNOWN, format!("there is no active patch {id}"))
                    .help("`engraft patches list` shows the active ones of a journal")
            })?;
            left.remove(at);
            states.push(self.states.get(&left.list).copied());
        }
        Ok(states)
    }
}

/// How many bytes are whole lines.
pub(super) fn whole(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> PatchId {
        format!("{n:016x}").parse().unwrap()
    }

    /// A history of commits (`n`) and rollbacks (`-n`); every state is that of its entry's number.
    fn history(steps: &[i64]) -> History {
        let mut out = History::default();
        for step in steps {
            let action = if *step < 0 { Action::Rollback } else { Action::Commit };
            let (number, patch) = (out.next_number(), id(step.unsigned_abs()));
            let (base, state) = (Hash::of(b"base"), Hash::of(&number.to_le_bytes()));
            let entry = Entry { number, time: None, action, patch, base, state, rounding: Vec::new() };
            out.check(&entry).unwrap();
            out.push(entry);
        }
        out
    }

    fn left(history: &History) -> Vec<String> {
        history.active().map(|entry| entry.patch.to_string()[14..].to_owned()).collect()
    }

    #[test]
    fn the_state_of_a_list_is_the_one_that_was_recorded_last_for_it() {
        let all = history(&[1, 2, 3, -1, 1]);
        assert_eq!(left(&all), ["02", "03", "01"]);
        let without = |ids: &[u64]| {
            let states = all.states_without(&ids.iter().map(|&n| id(n)).collect::<Vec<_>>());
            let number = |state: Option<Hash>| (1..9u64).find(|n| state == Some(Hash::of(&n.to_le_bytes())));
            states.map(|states| states.into_iter().map(number).collect::<Vec<_>>()).map_err(|e| e.code().id)
        };
        // [2, 3] after the fourth entry, never [3, 1] nor [3] nor nothing.
        assert_eq!(without(&[1]), Ok(vec![Some(4)]));
        assert_eq!(without(&[2, 1, 3]), Ok(vec![None, None, None]));
        // The other order is another list: [1, 2] was, [2, 1] was not.
        assert_eq!(without(&[3]), Ok(vec![None]));
        assert_eq!(history(&[1, 2, 3]).states_without(&[id(3)]).unwrap(), [Some(Hash::of(&2u64.to_le_bytes()))]);
        assert_eq!(without(&[1, 1]), Err("patch-unknown"));
        assert_eq!(without(&[9]), Err("patch-unknown"));
        // Once it was, the newest state counts: here that of the unedited model.
        let empty = history(&[1, -1, 2, -2, 3]).states_without(&[id(3)]).unwrap();
        assert_eq!(empty, [Some(Hash::of(&4u64.to_le_bytes()))]);
    }

    #[test]
    fn a_patch_is_found_by_the_beginning_of_its_name() {
        let all = history(&[0x1a, 0x1b, 0x22, -0x22]);
        let code = |prefix: &str| all.find_active(prefix).unwrap_err();
        assert_eq!(all.find_active(&format!("{:015x}A", 1)).unwrap(), id(0x1a));
        let error = code("000");
        assert_eq!(error.code().id, "patch-ambiguous");
        assert!([0x1a, 0x1b].iter().all(|&n| error.message().contains(&id(n).to_string())), "{error}");
        let error = code(&id(0x22).to_string());
        assert_eq!(error.code().id, "patch-unknown");
        assert!(error.message().contains("rolled back already, by entry 4"), "{error}");
        assert_eq!(all.find(&id(0x22).to_string()).unwrap(), id(0x22));
        for wrong in ["", "x", "1", &format!("{}0", id(0x1a))] {
            assert_eq!(code(wrong).code().id, "patch-unknown", "{wrong}");
        }
    }

    #[test]
    fn entries_that_contradict_each_other_are_refused_by_their_line() {
        let text = |change: &dyn Fn(&mut [Entry])| {
            let mut entries = history(&[1, 2, -1]).entries;
            change(&mut entries);
            entries.iter().map(|e| serde_json::to_string(e).unwrap() + "\n").collect::<String>()
        };
        let parse = |text: &str| History::parse(Path::new("j"), text.as_bytes());
        assert_eq!(parse(&text(&|_| {})).unwrap().entries().len(), 3);
        type Case<'c> = (&'c dyn Fn(&mut [Entry]), &'c str);
        let cases: [Case<'_>; 4] = [
            (&|e| e[1].number = 3, "line 2 of `j` has the number 3, expected 2"),
            (&|e| e[1].base = Hash::of(b"x"), "line 2 of `j` is of the base model"),
            (&|e| e[1].patch = id(1), "line 2 of `j` commits 0000000000000001, which is active"),
            (&|e| e[2].patch = id(9), "line 3 of `j` rolls back 0000000000000009, which is not active"),
        ];
        for (change, words) in cases {
            let error = parse(&text(change)).unwrap_err();
            assert_eq!(error.code().id, "journal-damaged");
            assert!(error.message().starts_with(words), "{error}");
        }
        // Journals that were written before entries told their times.
        assert!(!text(&|_| {}).contains("time"));
        assert!(text(&|e| e[0].time = Some(7)).contains("\"time\":7"));
    }
}
