//! The folder of a run. `cases.jsonl` only grows, by whole lines; every other file is written whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::codes;
use super::settings::Settings;
use crate::base::{Error, Result, atomic, clock};
use crate::report::{CaseLine, Manifest};

pub(super) const RESOLVED: &str = "resolved.toml";
pub(super) const MANIFEST: &str = "manifest.json";
const CASES: &str = "cases.jsonl";

/// The folder of a run, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    cases: File,
}

impl Folder {
    /// Makes sure that folders of runs can be made in `out`, and leaves nothing behind but `out` itself.
    ///
    /// # Errors
    /// `run-folder`
    pub fn check(out: &Path) -> Result<()> {
        let probe = || -> io::Result<()> {
            fs::create_dir_all(out)?;
            let folder = tempfile::Builder::new().prefix(".engraft-").tempdir_in(out)?;
            fs::write(folder.path().join(CASES), b"\n")?;
            folder.close()
        };
        probe().map_err(|e| refuse(out, e))
    }

    /// Makes a new folder in `settings.out`, named for the experiment and the time.
    ///
    /// # Errors
    /// `run-folder`
    pub fn create(settings: &Settings, manifest: &Manifest, now: SystemTime) -> Result<Self> {
        let path = make(&settings.out, &settings.name, now)?;
        let cases = OpenOptions::new().read(true).append(true).create_new(true).open(path.join(CASES));
        let cases = cases.map_err(|e| refuse(&path.join(CASES), e))?;
        let folder = Self { path, cases };
        hold(&folder.cases, &folder.path, CASES)?;
        folder.write(RESOLVED, settings.to_toml()?.as_bytes())?;
        folder.write_json(MANIFEST, manifest)?;
        Ok(folder)
    }

    /// Opens the folder of an interrupted run and reads its lines; a torn last line is dropped from the file.
    ///
    /// # Errors
    /// `resume-missing`, `resume-differs` if its settings are others, `resume-damaged`, `run-busy`, `run-folder`.
    pub fn reopen(path: &Path, settings: &Settings) -> Result<(Self, Vec<CaseLine>)> {
        let before = Settings::load(&path.join(RESOLVED), &[]).map_err(|e| missing(path, RESOLVED, e))?;
        let (before, now) = (before.run_text()?, settings.run_text()?);
        if before != now {
            return Err(differs(path, &first_difference(&before, &now)));
        }
        let file = path.join(CASES);
        if !file.is_file() {
            return Err(missing(path, CASES, io::Error::from(io::ErrorKind::NotFound)));
        }
        let cases = OpenOptions::new().read(true).append(true).open(&file).map_err(|e| refuse(&file, e))?;
        let mut folder = Self { path: path.to_owned(), cases };
        hold(&folder.cases, &folder.path, CASES)?;
        let lines = folder.read_cases()?;
        Ok((folder, lines))
    }

    /// Compares the manifest of an interrupted run with what it would be now.
    ///
    /// # Errors
    /// `resume-differs` if the model, the data, the device, the runtime or a library is another one; `resume-missing`.
    pub fn verify(&self, now: &Manifest) -> Result<Manifest> {
        let file = self.path.join(MANIFEST);
        let bytes = fs::read(&file).map_err(|e| missing(&self.path, MANIFEST, e))?;
        let before: Manifest = serde_json::from_slice(&bytes).map_err(|e| missing(&self.path, MANIFEST, e))?;
        for ((what, old), (_, new)) in identity(&before).into_iter().zip(identity(now)) {
            if old != new {
                return Err(differs(&self.path, &format!("{what} was {old}, now it is {new}")));
            }
        }
        Ok(before)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the line of a case; it is in the hands of the operating system when this returns.
    ///
    /// # Errors
    /// `run-folder`; the file then ends with a torn line, which a resumed run drops.
    pub fn append(&mut self, line: &CaseLine) -> Result<()> {
        let file = self.path.join(CASES);
        let mut text = serde_json::to_string(line).map_err(|e| refuse(&file, e.into()))?;
        text.push('\n');
        self.cases.write_all(text.as_bytes()).and_then(|()| self.cases.flush()).map_err(|e| refuse(&file, e))
    }

    /// Writes a file whole.
    ///
    /// # Errors
    /// `run-folder`
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        atomic::write_bytes(&path, bytes)
    }

    /// Writes a file whole, as indented JSON.
    ///
    /// # Errors
    /// `run-folder`
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value).map_err(|e| refuse(&self.path.join(name), e.into()))?;
        text.push('\n');
        self.write(name, text.as_bytes())
    }

    fn read_cases(&mut self) -> Result<Vec<CaseLine>> {
        let file = self.path.join(CASES);
        let mut bytes = Vec::new();
        self.cases
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.cases.read_to_end(&mut bytes))
            .map_err(|e| refuse(&file, e))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            self.cases.set_len(whole as u64).map_err(|e| refuse(&file, e))?;
        }
        let mut lines = Vec::new();
        for (index, line) in bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
            lines.push(serde_json::from_slice(line).map_err(|e| {
                let message = format!("`{}`, line {}: not the line of a case", file.display(), index + 1);
                Error::new(&codes::RESUME_DAMAGED, message).because(e)
            })?);
        }
        Ok(lines)
    }
}

/// What numbers depend on besides the settings, and cannot be told from them.
fn identity(manifest: &Manifest) -> Vec<(String, &str)> {
    let Manifest { model, data, methods, .. } = manifest;
    let mut out = vec![
        ("the model's hash".to_owned(), model.hash.as_str()),
        ("the data's hash".to_owned(), &data.hash),
        ("the device".to_owned(), &model.device),
        ("the runtime".to_owned(), &model.runtime),
    ];
    for method in methods {
        let label = &method.label;
        out.push((format!("the hash of the plugin of `{label}`"), method.hash.as_str()));
        let artefact = method.artefact.as_ref().map_or("none", |artefact| &artefact.hash);
        out.push((format!("the hash of the artefact of `{label}`"), artefact));
    }
    out
}

/// A name in which every character is one that a file's name may have.
pub(super) fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    name.trim_start_matches('.').to_owned()
}

/// Makes a new folder in `out`, named for an experiment and the time.
///
/// # Errors
/// `run-folder`
pub(super) fn make(out: &Path, name: &str, now: SystemTime) -> Result<PathBuf> {
    let stem = format!("{}-{}", plain(name), clock::compact(now));
    let make = || -> io::Result<PathBuf> {
        fs::create_dir_all(out)?;
        let mut number = 1;
        loop {
            let name = if number == 1 { stem.clone() } else { format!("{stem}-{number}") };
            let path = out.join(name);
            match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                other => return other.map(|()| path),
            }
        }
    };
    make().map_err(|e| refuse(out, e))
}

/// Holds a folder for this process by a lock on a file that grows in it.
///
/// # Errors
/// `run-busy`, `run-folder`
pub(super) fn hold(file: &File, folder: &Path, name: &str) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another process is writing to `{}`", folder.display());
            Err(Error::new(&codes::RUN_BUSY, message))
        }
        // Some network file systems have no locks: the run goes on without one.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(e)) => Err(refuse(&folder.join(name), e)),
    }
}

/// The first line in which two texts differ, in words.
pub(super) fn first_difference(before: &str, now: &str) -> String {
    let strip = |text: &str| text.lines().filter(|l| !l.starts_with("out = ")).map(str::to_owned).collect::<Vec<_>>();
    let (before, now) = (strip(before), strip(now));
    let at = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
    let line = |lines: &[String]| lines.get(at).map_or_else(|| "nothing".to_owned(), |l| format!("`{l}`"));
    format!("it ran with {}, now there is {}", line(&before), line(&now))
}

pub(super) fn refuse(path: &Path, error: io::Error) -> Error {
    Error::new(&codes::RUN_FOLDER, format!("cannot write to `{}`", path.display())).because(error)
}

pub(super) fn missing(path: &Path, name: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let message = format!("`{}` is not the folder of a run: `{name}` cannot be read", path.display());
    Error::new(&codes::RESUME_MISSING, message).because(error)
}

pub(super) fn differs(path: &Path, what: &str) -> Error {
    Error::new(&codes::RESUME_DIFFERS, format!("`{}` cannot be continued: {what}", path.display()))
}
