//! External data files: found inside the model's folder, checked, and memory-mapped once.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;

use crate::base::{Error, Result};
use crate::graph::codes;
use crate::graph::initializer::{Initializer, Location};

/// The mapped external files of a model, by the name that the model gives them.
#[derive(Debug)]
pub struct ExternalFiles {
    files: BTreeMap<String, (PathBuf, Mmap)>,
}

impl ExternalFiles {
    /// No files.
    pub fn none() -> Self {
        Self { files: BTreeMap::new() }
    }

    /// Maps every file that `initializers` name, and checks that each tensor lies inside its file.
    ///
    /// `model` is the path of the .onnx file: files are looked for in its folder, and links are followed as far as
    /// the folder that `model` itself resolves to.
    ///
    /// # Errors
    /// `data-missing`, `data-outside` or `data-truncated`, naming the tensor.
    pub fn open<'a>(model: &Path, initializers: impl Iterator<Item = &'a Initializer>) -> Result<Self> {
        let folder = model.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        let real = model.canonicalize().ok().and_then(|m| m.parent().map(Path::to_path_buf));
        Self::open_in(folder, real, initializers)
    }

    /// As [`ExternalFiles::open`], for files in a folder and, behind links, in the folder `beyond`.
    ///
    /// # Errors
    /// As [`ExternalFiles::open`].
    pub(in crate::graph) fn open_in<'a>(
        folder: &Path,
        beyond: Option<PathBuf>,
        initializers: impl Iterator<Item = &'a Initializer>,
    ) -> Result<Self> {
        let allowed: Vec<PathBuf> = folder.canonicalize().ok().into_iter().chain(beyond).collect();
        let mut out = Self::none();
        for initializer in initializers {
            let Location::External { file, offset, length } = initializer.location()? else { continue };
            if !out.files.contains_key(&file) {
                let path = resolve(folder, &allowed, &file, initializer.name())?;
                let mapped = map(&path, initializer.name())?;
                out.files.insert(file.clone(), (path, mapped));
            }
            let found = out.files.get(&file).map_or(0, |(_, m)| m.len() as u64);
            if offset.checked_add(length).is_none_or(|end| end > found) {
                let text = format!(
                    "the tensor `{}` needs bytes {offset} to {} of `{file}`, which has {found}",
                    initializer.name(),
                    u128::from(offset) + u128::from(length)
                );
                return Err(Error::new(&codes::DATA_TRUNCATED, text));
            }
        }
        Ok(out)
    }

    /// The bytes of a range.
    pub fn bytes(&self, file: &str, offset: u64, length: u64) -> Option<&[u8]> {
        let (_, mapped) = self.files.get(file)?;
        let start = usize::try_from(offset).ok()?;
        mapped.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }

    /// The files by name, with the paths they resolve to.
    pub fn paths(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files.iter().map(|(name, (path, _))| (name.as_str(), path.as_path()))
    }

    /// The total size of the files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|(_, m)| m.len() as u64).sum()
    }
}

/// The path of an external file, checked to lie in the model's folder.
fn resolve(folder: &Path, allowed: &[PathBuf], file: &str, tensor: &str) -> Result<PathBuf> {
    let outside = |why: &str| {
        Error::new(&codes::DATA_OUTSIDE, format!("the tensor `{tensor}` names the data file `{file}`, {why}"))
            .help("external data must lie in the folder of the .onnx file")
    };
    let relative = Path::new(file);
    for part in relative.components() {
        match part {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return Err(outside("which leads out of the model's folder")),
            Component::RootDir | Component::Prefix(_) => return Err(outside("which is an absolute path")),
        }
    }
    let path = folder.join(relative);
    let missing = |e: std::io::Error| {
        let text = format!("the tensor `{tensor}` needs the data file `{}`", path.display());
        Error::new(&codes::DATA_MISSING, text).because(e)
    };
    let real = path.canonicalize().map_err(missing)?;
    if !allowed.iter().any(|a| real.starts_with(a)) {
        return Err(outside(&format!("which resolves to `{}`", real.display())));
    }
    Ok(real)
}

fn map(path: &Path, tensor: &str) -> Result<Mmap> {
    let fail = |e: std::io::Error| {
        let text = format!("the data file `{}` of the tensor `{tensor}` cannot be read", path.display());
        Error::new(&codes::DATA_MISSING, text).because(e)
    };
    // To open a FIFO is to wait for who writes to it.
    if !path.metadata().map_err(fail)?.is_file() {
        let text = format!("the data file `{}` of the tensor `{tensor}` is not a file", path.display());
        return Err(Error::new(&codes::DATA_MISSING, text).help("put the data file itself there, or a link to it"));
    }
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the mapping is read-only. A file that another process shrinks while it is mapped would end this
    // process with a bus error; model files are not rewritten in place (this crate writes by rename).
    unsafe { Mmap::map(&file) }.map_err(fail)
}
