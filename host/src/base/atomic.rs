//! The one way this library writes a file: beside its place under another name, flushed to the disk, then renamed.
//! Whoever reads the path sees the old file or the new one, whole, whatever happens in between. Links stay: it is the
//! file behind them that is replaced. A FIFO or a character device is never replaced: what is written goes into it.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::{Error, Result, codes};

/// What an unfinished file's name begins with.
const UNFINISHED: &str = ".engraft-unfinished-";

/// What is at a path, behind links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// Nothing, or an empty file, as `mktemp` makes.
    Nothing,
    /// A file with something in it.
    File,
    /// A folder.
    Folder,
    /// A FIFO or a character device, such as a pipe of the shell or `/dev/null`: what is written goes into it.
    Stream,
    /// A socket or a block device: nothing is written to it.
    Other,
}

/// What is at a path.
pub fn there(path: &Path) -> There {
    match fs::metadata(path) {
        Err(_) => There::Nothing,
        Ok(found) if found.is_file() && found.len() == 0 => There::Nothing,
        Ok(found) if found.is_file() => There::File,
        Ok(found) if found.is_dir() => There::Folder,
        #[cfg(unix)]
        Ok(found) => {
            use std::os::unix::fs::FileTypeExt;
            let kind = found.file_type();
            if kind.is_fifo() || kind.is_char_device() { There::Stream } else { There::Other }
        }
        #[cfg(not(unix))]
        Ok(_) => There::Other,
    }
}

/// Writes a file whole or not at all: `write` fills it, and only then does it take its place. Into a FIFO or a
/// character device it is written as it comes.
///
/// # Errors
/// `disk-full` or `file-write`, and whatever `write` returns; in each case the old file is intact and nothing is left
/// beside it.
pub fn write_atomic<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    replace(path, |e| write_error(path, e), write)
}

/// The mechanism, for any type of error.
pub(super) fn replace<T, E>(
    path: &Path,
    fail: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    match there(path) {
        There::Stream => return pour(path, fail, write),
        There::Other => return Err(fail(io::Error::new(ErrorKind::InvalidInput, "it is a socket or a block device"))),
        There::Nothing | There::File | There::Folder => {}
    }
    let real = behind_links(path);
    let path = real.as_path();
    let folder = folder_of(path);
    let temp = create_in(folder).map_err(&fail)?;
    let mut buffer = BufWriter::with_capacity(1 << 16, temp.as_file().try_clone().map_err(&fail)?);
    let value = write(&mut buffer)?;
    let file = buffer.into_inner().map_err(|e| fail(e.into_error()))?;
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(old.permissions()).map_err(&fail)?;
    }
    file.sync_all().map_err(&fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    // The rename is durable once the folder is; a file system that cannot flush a folder has nothing better to offer.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(value)
}

/// Writes into what cannot be replaced.
fn pour<T, E>(
    path: &Path,
    fail: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let into = File::options().write(true).open(path).map_err(&fail)?;
    let mut buffer = BufWriter::with_capacity(1 << 16, into);
    let value = write(&mut buffer)?;
    buffer.flush().map_err(fail)?;
    Ok(value)
}

/// The file that a path leads to. A link that leads nowhere is itself what is replaced.
fn behind_links(path: &Path) -> PathBuf {
    let linked = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    linked.then(|| fs::canonicalize(path).ok()).flatten().unwrap_or_else(|| path.to_owned())
}

/// Proves that a file can be written at a path, whose folder is there, before it is.
///
/// # Errors
/// `folder-not-writable`, with the reason.
pub fn check_place(path: &Path) -> Result<()> {
    match there(path) {
        There::Stream => Ok(()),
        _ => check_writable(folder_of(&behind_links(path))),
    }
}

/// Writes bytes with [`write_atomic`].
///
/// # Errors
/// As [`write_atomic`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |out| out.write_all(bytes).map_err(|e| write_error(path, e)))
}

/// Makes a folder, with those above it, and proves that files can be written in it.
///
/// # Errors
/// `folder-not-writable`, with the reason.
pub fn check_writable(folder: &Path) -> Result<()> {
    let probe = || {
        fs::create_dir_all(folder)?;
        create_in(folder)?.as_file_mut().write_all(b"engraft")
    };
    probe().map_err(|e: io::Error| {
        Error::new(&codes::FOLDER_NOT_WRITABLE, format!("cannot write to the folder {}", folder.display()))
            .help("choose another folder, or change its permissions")
            .because(e)
    })
}

/// The coded error of a failed write: `disk-full` where that is the reason, else `file-write`.
pub fn write_error(path: &Path, source: io::Error) -> Error {
    let (code, what) = match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (&codes::DISK_FULL, "the disk is full: "),
        _ => (&codes::FILE_WRITE, ""),
    };
    Error::new(code, format!("{what}cannot write {}", path.display())).because(source)
}

/// The coded error of a failed read: `file-missing` where there is no file, else `file-read`.
pub fn read_error(path: &Path, source: io::Error) -> Error {
    if source.kind() == ErrorKind::NotFound {
        return Error::new(&codes::FILE_MISSING, format!("there is no file {}", path.display())).because(source);
    }
    Error::new(&codes::FILE_READ, format!("cannot read {}", path.display())).because(source)
}

/// Reads a whole file.
///
/// # Errors
/// `file-missing` or `file-read`.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| read_error(path, e))
}

/// A text without the byte order mark that some editors begin one with.
pub fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Opens a file for reading.
///
/// # Errors
/// `file-missing` or `file-read`.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| read_error(path, e))
}

fn create_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The usual permissions of a new file: the process's mask still applies.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Removes the unfinished files that a killed process left in a folder, and returns their paths, sorted.
///
/// # Errors
/// `file-read` if the folder cannot be listed.
pub fn remove_unfinished(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| read_error(folder, e))? {
        let entry = entry.map_err(|e| read_error(folder, e))?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) && fs::remove_file(entry.path()).is_ok() {
            removed.push(entry.path());
        }
    }
    removed.sort();
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |out| {
            out.write_all(&[0; 1 << 20]).unwrap();
            Err::<(), _>(write_error(&path, io::Error::from(ErrorKind::StorageFull)))
        });
        assert_eq!(failed.unwrap_err().code().id, "disk-full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["file"]);
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("file"), folder.path().join("plain"));
        fs::write(&plain, b"").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        write_bytes(&path, b"").unwrap();
        assert_eq!(mode(&path), mode(&plain));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write_bytes(&path, b"again").unwrap();
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn folders_are_checked_before_work_begins() {
        let folder = tempfile::tempdir().unwrap();
        check_writable(&folder.path().join("a/b")).unwrap();
        assert!(names(&folder.path().join("a/b")).is_empty());
        fs::write(folder.path().join("file"), b"").unwrap();
        let error = check_writable(&folder.path().join("file")).unwrap_err();
        assert_eq!(error.code().id, "folder-not-writable");
        let error = write_bytes(&folder.path().join("absent/file"), b"").unwrap_err();
        assert_eq!(error.code().id, "file-write");
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_replaced_is_written_into_or_refused_and_links_stay() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        use std::os::unix::net::UnixListener;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let kind = |name: &str| fs::symlink_metadata(at(name)).unwrap().file_type();
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink(at("fifo"), at("link")).unwrap();
        for name in ["fifo", "link"] {
            assert_eq!(there(&at(name)), There::Stream);
            let fifo = at("fifo");
            let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
            check_place(&at(name)).unwrap();
            write_bytes(&at(name), b"poured").unwrap();
            assert_eq!(reader.join().unwrap(), b"poured");
            assert!(kind("fifo").is_fifo() && kind("link").is_symlink());
        }
        assert_eq!(there(Path::new("/dev/null")), There::Stream);
        write_bytes(Path::new("/dev/null"), b"gone").unwrap();
        assert_eq!(there(Path::new("/dev/null")), There::Stream);

        let _listener = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(there(&at("socket")), There::Other);
        assert_eq!(write_bytes(&at("socket"), b"").unwrap_err().code().id, "file-write");
        assert!(kind("socket").is_socket());

        fs::create_dir(at("far")).unwrap();
        fs::write(at("far/file"), b"old").unwrap();
        symlink("far/file", at("near")).unwrap();
        write_bytes(&at("near"), b"new").unwrap();
        assert!(kind("near").is_symlink());
        assert_eq!((fs::read(at("far/file")).unwrap(), names(&at("far"))), (b"new".to_vec(), vec!["file".to_owned()]));
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("{UNFINISHED}x")), b"").unwrap();
        fs::write(folder.path().join("kept"), b"").unwrap();
        assert_eq!(remove_unfinished(folder.path()).unwrap().len(), 1);
        assert_eq!(names(folder.path()), ["kept"]);
    }
}
