//! Places that a result is to be written to, checked before any work begins.

use std::path::Path;

use super::codes;
use crate::base::codes::FOLDER_NOT_WRITABLE;
use crate::base::{Error, Result, atomic};

/// Refuses a place where a new file cannot be put: in a folder that is not there or not writable, or where something
/// is already, unless that may be replaced. An empty file, as `mktemp` makes, is nothing. No folder is made.
pub(in crate::cli) fn new_file(path: &Path, replace: bool) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let text = format!("`{}` cannot be written: there is no folder `{}`", path.display(), folder.display());
        return Err(Error::new(&FOLDER_NOT_WRITABLE, text).help("make the folder first, or choose another"));
    }
    match path.metadata() {
        Ok(there) if there.is_dir() => {
            let text = format!("`{}` is a folder, expected the name of a file to write", path.display());
            return Err(Error::new(&codes::OUTPUT_EXISTS, text));
        }
        Ok(there) if there.is_file() && there.len() > 0 && !replace => {
            let text = format!("`{}` exists and is not overwritten", path.display());
            return Err(Error::new(&codes::OUTPUT_EXISTS, text).help("choose another name, or add `--force`"));
        }
        _ => {}
    }
    atomic::check_writable(folder)
}
