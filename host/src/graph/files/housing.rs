//! Tensors laid out in one external data file: sorted by name, each at a multiple of 64 bytes, written as a stream.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::base::{Hash, Hasher, Result, atomic};
use crate::graph::container::Graph;
use crate::graph::initializer::{Initializer, Location};

/// Where tensors begin in a data file: enough for every vector unit, and a whole cache line.
const ALIGNMENT: u64 = 64;

/// A data file to be written.
pub(super) struct Housing<'g> {
    graph: &'g Graph,
    places: Vec<(&'g Initializer, u64)>,
    total: u64,
}

impl<'g> Housing<'g> {
    /// The tensors of `graph` for which `choose` is true.
    ///
    /// # Errors
    /// If a tensor has no size.
    pub(super) fn of(graph: &'g Graph, choose: impl Fn(&Initializer) -> bool) -> Result<Self> {
        let mut out = Self { graph, places: Vec::new(), total: 0 };
        for initializer in graph.initializers().filter(|i| choose(i)) {
            let begin = out.total.next_multiple_of(ALIGNMENT);
            out.total = begin + initializer.byte_len()?;
            out.places.push((initializer, begin));
        }
        Ok(out)
    }

    /// True if no tensor was chosen.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The size of the file in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The hash of names, types, shapes and values.
    ///
    /// # Errors
    /// If values are not there.
    pub(super) fn hash(&self) -> Result<Hash> {
        let mut hasher = Hasher::new();
        for (initializer, _) in &self.places {
            hasher.part(initializer.name()).part(initializer.dtype().0.to_le_bytes());
            hasher.part(format!("{:?}", initializer.dims())).part(self.graph.bytes(initializer)?);
        }
        Ok(hasher.finish())
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// `disk-full`, `file-write`, or values that are not there.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        atomic::write_atomic(path, |out| {
            let mut at = 0;
            for (initializer, begin) in &self.places {
                let bytes = self.graph.bytes(initializer)?;
                let gap = vec![0; (begin - at) as usize];
                out.write_all(&gap).and_then(|()| out.write_all(&bytes)).map_err(|e| atomic::write_error(path, e))?;
                at = begin + bytes.len() as u64;
            }
            Ok(())
        })
    }

    /// The tensors as ranges of the file, under the name that the model is to give it.
    ///
    /// # Errors
    /// If a tensor has no size.
    pub(super) fn external(&self, file: &str) -> Result<Vec<Initializer>> {
        let moved = |(i, begin): &(&Initializer, u64)| Ok(i.moved(file, *begin, i.byte_len()?));
        self.places.iter().map(moved).collect()
    }
}

impl Graph {
    /// The graph with its weights in one external file in `folder`, named by its content; that folder is then where
    /// external data is relative to. Inline tensors of fewer than `threshold` bytes stay inline. Sessions over
    /// external files share the pages; inline tensors are copied by each.
    ///
    /// A graph with no inline tensor that large, and no data behind links that lead out of its folder, is returned as
    /// it is. Where there are only such links, all to one other folder (a download cache), the graph refers to the
    /// files there and nothing is written. A file that is there already is used again.
    ///
    /// # Errors
    /// `disk-full`, `file-write`, `folder-not-writable`, or values that are not there.
    pub fn rehouse(&self, folder: &Path, threshold: u64) -> Result<Self> {
        let inline = |i: &Initializer| i.location().is_ok_and(|l| l == Location::Inline);
        let big = |i: &Initializer| i.byte_len().is_ok_and(|n| n >= threshold);
        if !self.initializers().any(|i| inline(i) && big(i)) {
            let own = if self.folder().as_os_str().is_empty() { Path::new(".") } else { self.folder() };
            let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
            if self.external_paths().all(|(_, real)| real.starts_with(&own)) {
                return Ok(self.clone());
            }
            if let Some((home, names)) = self.home() {
                let mut out = self.clone();
                for initializer in self.initializers() {
                    if let Location::External { file, offset, length } = initializer.location()?
                        && let Some(name) = names.get(file.as_str())
                    {
                        out.set_initializer(initializer.moved(name, offset, length));
                    }
                }
                out.reopen(home)?;
                return Ok(out);
            }
        }
        let housing = Housing::of(self, |i| !inline(i) || big(i))?;
        let name = format!("weights-{}.data", housing.hash()?);
        let path = folder.join(&name);
        if std::fs::metadata(&path).map_or(true, |m| m.len() != housing.total()) {
            atomic::check_writable(folder)?;
            housing.write(&path)?;
        }
        let mut out = self.clone();
        for initializer in housing.external(&name)? {
            out.set_initializer(initializer);
        }
        out.reopen(folder)?;
        Ok(out)
    }

    /// The one folder that all external files lie in, behind links, and their names there by those that the graph
    /// gives them; `None` if there are several folders.
    fn home(&self) -> Option<(&Path, BTreeMap<&str, &str>)> {
        let mut names = BTreeMap::new();
        let mut home = None;
        for (name, real) in self.external_paths() {
            names.insert(name, real.file_name()?.to_str()?);
            let parent = real.parent()?;
            if *home.get_or_insert(parent) != parent {
                return None;
            }
        }
        Some((home?, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::zoo;

    #[test]
    fn inline_weights_move_to_one_file_and_keep_their_values() {
        let cache = tempfile::tempdir().unwrap();
        let base = Graph::load(&zoo("torchscript-nomask")).unwrap();
        assert_eq!(base.external_paths().count(), 0);
        let moved = base.rehouse(cache.path(), 256).unwrap();
        assert_eq!(moved.external_paths().count(), 1);
        for (before, after) in base.initializers().zip(moved.initializers()) {
            assert_eq!(base.bytes(before).unwrap(), moved.bytes(after).unwrap(), "{}", before.name());
            match after.location().unwrap() {
                Location::Inline => assert!(after.byte_len().unwrap() < 256),
                Location::External { offset, .. } => assert_eq!(offset % 64, 0),
            }
        }
        assert!(moved.to_bytes().unwrap().len() + 50_000 < base.to_bytes().unwrap().len());
        // The same weights are the same file, written once.
        let (_, path) = moved.external_paths().next().unwrap();
        let written = std::fs::metadata(path).unwrap().modified().unwrap();
        base.rehouse(cache.path(), 256).unwrap();
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(path).unwrap().modified().unwrap(), written);
        // Nothing to move: the folder stays.
        let external = Graph::load(&zoo("dynamo-mask")).unwrap();
        assert_eq!(external.rehouse(cache.path(), 1 << 12).unwrap().folder(), external.folder());
    }

    #[cfg(unix)]
    #[test]
    fn files_behind_the_links_of_a_download_cache_are_used_where_they_are() {
        let cache = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/1"));
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        let base = Graph::load(&zoo("dynamo-mask")).unwrap();
        for (name, blob) in [("model.onnx", "aa"), ("model.onnx.data", "bb")] {
            std::fs::copy(base.folder().join(name), blobs.join(blob)).unwrap();
            std::os::unix::fs::symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
        }
        let linked = Graph::load(&snapshot).unwrap();
        let home = cache.path().join("home");
        let moved = linked.rehouse(&home, 1 << 20).unwrap();
        assert_eq!(moved.folder(), blobs.canonicalize().unwrap());
        assert_eq!(moved.external_paths().map(|(name, _)| name).collect::<Vec<_>>(), ["bb"]);
        assert!(!home.exists());
        // With big inline tensors beside them, all go to one file.
        let both = linked.rehouse(&home, 64).unwrap();
        assert_eq!((both.folder(), both.external_paths().count()), (home.as_path(), 1));
        for graph in [moved, both] {
            for (before, after) in base.initializers().zip(graph.initializers()) {
                assert_eq!(base.bytes(before).unwrap(), graph.bytes(after).unwrap(), "{}", before.name());
            }
        }
    }
}
