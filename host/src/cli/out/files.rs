//! Places that a result is to be written to, checked before any work begins.

use std::path::Path;

use super::codes;
use crate::base::atomic::{self, There};
use crate::base::codes::FOLDER_NOT_WRITABLE;
use crate::base::{Error, Result};

/// Refuses a place where a new file cannot be put: in a folder that is not there or not writable, or where something
/// is already, unless that may be replaced. An empty file, as `mktemp` makes, is nothing; a FIFO or a character device
/// is written into. No folder is made.
pub(in crate::cli) fn new_file(path: &Path, replace: bool) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let text = format!("`{}` cannot be written: there is no folder `{}`", path.display(), folder.display());
        return Err(Error::new(&FOLDER_NOT_WRITABLE, text).help("make the folder first, or choose another"));
    }
    let refuse = |what: &str| Error::new(&codes::OUTPUT_EXISTS, format!("`{}` {what}", path.display()));
    match atomic::there(path) {
        There::Folder => return Err(refuse("is a folder, expected the name of a file to write")),
        There::Other => return Err(refuse("is a socket or a block device, expected the name of a file to write")),
        There::File if !replace => {
            return Err(refuse("exists and is not overwritten").help("choose another name, or add `--force`"));
        }
        There::Nothing | There::File | There::Stream => {}
    }
    atomic::check_place(path)
}
