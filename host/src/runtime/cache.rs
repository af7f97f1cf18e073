//! Programs by content: the same graph over the same folder with the same options is compiled once and shared.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::environment::Runtime;
use super::program::{Program, ProgramOptions};
use crate::base::{Hash, Hasher, Result};

/// Keeps the programs used last. Whoever got one keeps it as long as needed, whatever the cache forgets.
pub struct ProgramCache {
    runtime: Runtime,
    capacity: usize,
    /// The program used last stands last.
    slots: Mutex<Vec<(Hash, Arc<Slot>)>>,
}

/// The lock is held while the program is compiled, so that others who want it wait and the rest of the cache does not.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<Program>>>);

impl ProgramCache {
    /// A cache of at most `capacity` programs, at least one.
    pub fn new(runtime: Runtime, capacity: usize) -> Self {
        Self { runtime, capacity: capacity.max(1), slots: Mutex::default() }
    }

    /// The runtime that compiles.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The program of a graph, compiled if it is not here. Files of external data are taken to be immutable: only
    /// their folder counts for the identity.
    ///
    /// # Errors
    /// As [`Program::compile`]; a failure is not kept.
    pub fn get_or_compile(&self, model: &[u8], folder: &Path, options: &ProgramOptions) -> Result<Arc<Program>> {
        let key = key(model, folder, options);
        let slot = self.slot(key);
        let mut program = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*program {
            return Ok(program.clone());
        }
        match Program::compile(&self.runtime, model, folder, options) {
            Ok(compiled) => Ok(program.insert(Arc::new(compiled)).clone()),
            Err(error) => {
                self.slots().retain(|(_, other)| !Arc::ptr_eq(other, &slot));
                Err(error)
            }
        }
    }

    /// Forgets every program; those in use live on with their users.
    pub fn clear(&self) {
        self.slots().clear();
    }

    /// The number of programs kept or being compiled.
    pub fn len(&self) -> usize {
        self.slots().len()
    }

    /// True if no program is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slot(&self, key: Hash) -> Arc<Slot> {
        let mut slots = self.slots();
        let entry = match slots.iter().position(|(other, _)| *other == key) {
            Some(at) => slots.remove(at),
            None => (key, Arc::default()),
        };
        let slot = entry.1.clone();
        slots.push(entry);
        let surplus = slots.len().saturating_sub(self.capacity);
        slots.drain(..surplus);
        slot
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<(Hash, Arc<Slot>)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ProgramCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramCache").field("capacity", &self.capacity).field("len", &self.len()).finish()
    }
}

fn key(model: &[u8], folder: &Path, options: &ProgramOptions) -> Hash {
    let ProgramOptions { device, optimize, prepack, threads, intercepts, sessions, session_bytes } = options;
    let mut hasher = Hasher::new();
    hasher.part(model).part(folder.as_os_str().as_encoded_bytes()).part(device.to_string());
    hasher.part([*optimize, *prepack, *intercepts].map(u8::from)).part(threads.unwrap_or(0).to_le_bytes());
    hasher.part(sessions.to_le_bytes()).part(session_bytes.to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::environment::for_tests;
    use crate::runtime::tiny;

    #[test]
    fn equal_content_is_one_program_and_the_oldest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::affine(folder.path());
        let cache = ProgramCache::new(for_tests(), 2);
        let get = |options: &ProgramOptions| cache.get_or_compile(&model, folder.path(), options).unwrap();
        let plain = ProgramOptions::default();
        let bare = ProgramOptions { optimize: false, ..plain.clone() };
        let packed = ProgramOptions { prepack: true, ..plain.clone() };
        let first = get(&plain);
        let second = get(&bare);
        assert!(Arc::ptr_eq(&first, &get(&plain)) && !Arc::ptr_eq(&first, &second));
        get(&packed);
        assert_eq!(cache.len(), 2);
        assert!(Arc::ptr_eq(&first, &get(&plain)));
        assert!(!Arc::ptr_eq(&second, &get(&bare)));
        assert!(cache.get_or_compile(b"broken", folder.path(), &plain).is_err());
        assert!(Arc::strong_count(&second) == 1 && !second.outputs().is_empty());
        cache.clear();
        assert!(cache.is_empty());
    }

    #[test]
    fn concurrent_callers_compile_once() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::affine(folder.path());
        let cache = ProgramCache::new(for_tests(), 2);
        let get = || cache.get_or_compile(&model, folder.path(), &ProgramOptions::default()).unwrap();
        let programs: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(get)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(programs.iter().all(|program| Arc::ptr_eq(program, &programs[0])));
    }
}
