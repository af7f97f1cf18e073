//! Writing a graph with replaced tensors as a model folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use super::codes;
use super::container::Graph;
use super::initializer::{Initializer, Location};
use crate::base::{Error, Result, atomic};

/// The data file that holds what is new.
const EDITS: &str = "edits.data";
/// Tensors from this size on go to a data file.
const INLINE: u64 = 1024;
/// Tensors begin at multiples of this in a data file.
const ALIGNMENT: u64 = 64;

/// Writes `model.onnx` and the data files it needs into the new folder `target`, whole or not at all.
///
/// Each of `replaced` (inline tensors) takes the place of the initializer of its name. Data files that are still
/// referred to are copied under their own names; nothing is shared with the original.
///
/// # Errors
/// `export-exists` if something other than an empty folder is at `target`; `file-write` or `disk-full`, with nothing
/// left behind.
pub fn export(graph: &Graph, replaced: &[Initializer], target: &Path) -> Result<()> {
    let occupied = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => target.exists(),
    };
    if occupied {
        let text = format!("there is something at `{}` already", target.display());
        return Err(Error::new(&codes::EXPORT_EXISTS, text).help("name a folder that does not exist yet"));
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|e| atomic::write_error(parent, e))?;
    let beside = tempfile::Builder::new()
        .prefix(".engraft-export-")
        .tempdir_in(parent)
        .map_err(|e| atomic::write_error(parent, e))?;
    fill(graph, replaced, beside.path())?;
    if target.is_dir() {
        fs::remove_dir(target).map_err(|e| atomic::write_error(target, e))?;
    }
    let made = beside.keep();
    fs::rename(&made, target).map_err(|e| {
        let _ = fs::remove_dir_all(&made);
        atomic::write_error(target, e)
    })
}

fn fill(graph: &Graph, replaced: &[Initializer], folder: &Path) -> Result<()> {
    let mut out = graph.clone();
    let edits = folder.join(EDITS);
    let failed = |e| atomic::write_error(&edits, e);
    let mut file = None;
    let mut end = 0u64;
    for initializer in replaced {
        let bytes = graph.bytes(initializer)?;
        if (bytes.len() as u64) < INLINE {
            out.set_initializer(initializer.clone());
            continue;
        }
        let file = match &mut file {
            Some(file) => file,
            none => none.insert(fs::File::create(&edits).map_err(failed)?),
        };
        let padding = end.next_multiple_of(ALIGNMENT) - end;
        file.write_all(&vec![0; padding as usize]).and_then(|()| file.write_all(&bytes)).map_err(failed)?;
        let (offset, length) = (end + padding, bytes.len() as u64);
        end = offset + length;
        let (name, dims) = (initializer.name(), initializer.dims());
        out.set_initializer(Initializer::external(name, initializer.dtype(), &dims, EDITS, offset, length));
    }
    if let Some(file) = file {
        file.sync_all().map_err(failed)?;
    }
    let sources: BTreeMap<&str, &Path> = graph.external_paths().collect();
    let mut copied = BTreeMap::new();
    for initializer in out.initializers() {
        let Location::External { file, .. } = initializer.location()? else { continue };
        if file == EDITS && replaced.iter().any(|r| r.name() == initializer.name()) {
            continue;
        }
        let Some(from) = sources.get(file.as_str()) else { continue };
        if copied.insert(file.clone(), ()).is_none() {
            let to = folder.join(&file);
            if let Some(inside) = to.parent() {
                fs::create_dir_all(inside).map_err(|e| atomic::write_error(inside, e))?;
            }
            fs::copy(from, &to).map_err(|e| atomic::write_error(&to, e))?;
        }
    }
    out.save(&folder.join("model.onnx"))
}
