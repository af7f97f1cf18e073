//! The libraries of a process, by the names of their methods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codes;
use super::discover::SearchPath;
use super::load::{Identified, Library};
use super::pin::Pin;
use crate::base::{Error, Result};

/// Loaded libraries by the names of their methods.
#[derive(Debug, Default)]
pub struct Registry {
    search: SearchPath,
    loaded: BTreeMap<String, Arc<Library>>,
}

impl Registry {
    /// A registry that has loaded nothing.
    pub fn new(search: SearchPath) -> Self {
        Self { search, loaded: BTreeMap::new() }
    }

    /// Where it looks.
    pub fn search(&self) -> &SearchPath {
        &self.search
    }

    /// Loads the plugin that a configuration names: a name on the search path, or a path (relative ones below `base`).
    /// The same bytes again are the same library; they must be those of one of the pins, if there are any.
    ///
    /// # Errors
    /// Those of [`Library::load`], and `plugin-duplicate` for a second file with a method of the same name.
    pub fn load(&mut self, plugin: &str, base: &Path, pins: &[Pin]) -> Result<Arc<Library>> {
        let path = self.search.find(plugin, base)?;
        self.load_file(&path, pins)
    }

    /// Loads every plugin file on the search path, for a list of what there is; each comes with what became of it.
    pub fn scan(&mut self) -> Vec<(PathBuf, Result<Arc<Library>>)> {
        let files = self.search.candidates();
        files
            .into_iter()
            .map(|path| {
                let outcome = self.load_file(&path, &[]);
                (path, outcome)
            })
            .collect()
    }

    /// The loaded libraries, sorted by the names of their methods.
    pub fn loaded(&self) -> impl Iterator<Item = &Arc<Library>> {
        self.loaded.values()
    }

    fn load_file(&mut self, path: &Path, pins: &[Pin]) -> Result<Arc<Library>> {
        let file = Identified::of(path, pins)?;
        if let Some(library) = self.loaded.values().find(|library| library.hash() == file.hash) {
            return Ok(library.clone());
        }
        let path = &file.path;
        if self.loaded.values().any(|library| library.path() == path) {
            let message = format!("{} changed on disk after it was loaded", path.display());
            return Err(Error::new(&codes::DUPLICATE, message).help("start again to use the new one"));
        }
        let library = Library::load_identified(file)?;
        let name = library.descriptor().name.clone();
        if let Some(first) = self.loaded.get(&name) {
            let message = format!(
                "the method `{name}` of {} is already that of {}",
                library.path().display(),
                first.path().display()
            );
            return Err(Error::new(&codes::DUPLICATE, message).help("keep one of the two files"));
        }
        let library = Arc::new(library);
        self.loaded.insert(name, library.clone());
        Ok(library)
    }
}
