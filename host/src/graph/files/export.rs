//! Writing a graph with replaced tensors as a model folder of its own: `model.onnx`, the data files that it still reads,
//! and one new data file that holds only what changed. It is written whole beside the target and appears by one rename.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::housing::Housing;
use crate::base::{Error, Result, atomic};
use crate::graph::codes;
use crate::graph::container::Graph;
use crate::graph::initializer::{Initializer, Location};

/// The data file that holds what is new.
const EDITS: &str = "edits.data";
/// New tensors of at least this many bytes go there; smaller ones stay in the .onnx file.
const SMALLEST: u64 = 1024;

impl Graph {
    /// The graph with other values, inline, for some initializers.
    ///
    /// # Errors
    /// `graph-patch-invalid` if there is no such initializer, or its type or shape differs, or the new values are not
    /// inline; `data-truncated` if they do not fill their shape.
    pub fn with_data(&self, replaced: &[Initializer]) -> Result<Self> {
        let mut out = self.clone();
        for new in replaced {
            let invalid = |why: String| {
                Error::new(&codes::PATCH_INVALID, format!("the tensor `{}` cannot be replaced: {why}", new.name()))
            };
            let old = self.initializer(new.name()).ok_or_else(|| invalid("the graph has none of that name".into()))?;
            if (old.dtype(), old.dims()) != (new.dtype(), new.dims()) {
                let show = |i: &Initializer| format!("{}{:?}", i.dtype().name(), i.dims());
                return Err(invalid(format!("it is {}, and the new one {}", show(old), show(new))));
            }
            if new.location()? != Location::Inline {
                return Err(invalid("the new values are not inline".into()));
            }
            new.inline_bytes()?;
            out.set_initializer(new.clone());
        }
        Ok(out)
    }
}

/// Writes `model.onnx` and the data files it needs into the new folder `target`, whole or not at all.
///
/// Each of `replaced` (inline tensors) takes the place of the initializer of its name. Data files that are still
/// read are copied under their own names; nothing is shared with the original, whose files are only read.
///
/// # Errors
/// `export-exists` if something other than an empty folder is at `target`; what [`Graph::with_data`] says of
/// `replaced`; `file-read`, `file-write`, `disk-full` or `model-write`, with nothing left behind.
pub fn export(graph: &Graph, replaced: &[Initializer], target: &Path) -> Result<()> {
    export_with(graph, replaced, &[], target)
}

/// A file beside the graph of an export, by its name in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beside {
    /// A copy of a file.
    Copy(PathBuf, PathBuf),
    /// A file of these bytes.
    Bytes(PathBuf, Vec<u8>),
}

/// As [`export`], with other files (a tokenizer, a configuration) in the folder.
///
/// # Errors
/// As [`export`].
pub fn export_with(graph: &Graph, replaced: &[Initializer], beside: &[Beside], target: &Path) -> Result<()> {
    let free = match fs::symlink_metadata(target) {
        Ok(_) => fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none()),
        Err(_) => true,
    };
    if !free {
        let text = format!("there is something at `{}` already", target.display());
        return Err(Error::new(&codes::EXPORT_EXISTS, text).help("name a folder that does not exist yet"));
    }
    let out = graph.with_data(replaced)?;
    let parent = target.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
    let failed = |e| atomic::write_error(target, e);
    fs::create_dir_all(parent).map_err(failed)?;
    let holder = tempfile::Builder::new().prefix(".engraft-unfinished-").tempdir_in(parent).map_err(failed)?;
    // A folder in the private one, so that it has the usual permissions.
    let folder = holder.path().join("model");
    fs::create_dir(&folder).map_err(failed)?;
    for file in beside {
        match file {
            Beside::Copy(name, from) => copy(from, &folder.join(name))?,
            Beside::Bytes(name, bytes) => atomic::write_bytes(&folder.join(name), bytes)?,
        }
    }
    fill(out, replaced, &folder)?;
    fs::rename(&folder, target).map_err(failed)?;
    // The rename is durable once the folder is; a file system that cannot flush a folder has nothing better to offer.
    let _ = File::open(parent).and_then(|parent| parent.sync_all());
    Ok(())
}

fn fill(mut graph: Graph, replaced: &[Initializer], folder: &Path) -> Result<()> {
    let read: BTreeSet<String> = graph.initializers().filter_map(external_file).collect();
    for (name, from) in graph.external_paths().filter(|(name, _)| read.contains(*name)) {
        copy(from, &folder.join(name))?;
    }
    let changed: BTreeSet<&str> = replaced.iter().map(Initializer::name).collect();
    let big = |i: &Initializer| i.byte_len().is_ok_and(|n| n >= SMALLEST);
    let housing = Housing::of(&graph, |i| changed.contains(i.name()) && big(i))?;
    if !housing.is_empty() {
        // The base may be an export, and have a file of that name.
        let mut name = EDITS.to_owned();
        while read.contains(&name) {
            name.insert_str(0, "more-");
        }
        housing.write(&folder.join(&name))?;
        let moved = housing.external(&name)?;
        moved.into_iter().for_each(|initializer| graph.set_initializer(initializer));
    }
    let model = folder.join("model.onnx");
    if model.exists() {
        let text = "the model keeps weights in a data file named `model.onnx`, which the graph needs for itself";
        return Err(Error::new(&codes::GRAPH_UNSUPPORTED, text).help("give the data file another name"));
    }
    atomic::write_bytes(&model, &graph.to_bytes()?)
}

fn external_file(initializer: &Initializer) -> Option<String> {
    match initializer.location() {
        Ok(Location::External { file, .. }) => Some(file),
        _ => None,
    }
}

/// A copy that shares no inode with the original: a program that rewrites the one in place does not touch the other.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|e| atomic::write_error(folder, e))?;
    }
    let mut source = atomic::open(from)?;
    atomic::write_atomic(to, |out| io::copy(&mut source, out).map_err(|e| atomic::write_error(to, e)))?;
    Ok(())
}
