//! The folder of a training: figures by whole lines, checkpoints and artefacts as whole files.
//!
//! A checkpoint is bound to its training by a hash over settings, model, data and plugin. Figures of steps after the
//! last checkpoint are dropped when a training is resumed: they are told again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engraft_plugin_api::Checkpoint;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use super::plan::TrainPlan;
use crate::base::{Error, Hash, Result, atomic};
use crate::experiment::codes;
use crate::experiment::folder::{self, MANIFEST, RESOLVED, differs, first_difference, missing, refuse};
use crate::experiment::settings::Settings;
use crate::report::{MetricLine, TrainManifest};

const METRICS: &str = "metrics.jsonl";
/// The key of a checkpoint's metadata.
const KEY: &str = "engraft-checkpoint";
/// The tensor that holds the method's bytes.
const BYTES: &str = "checkpoint";
/// The version of the format of checkpoints.
const FORMAT: u32 = 1;

/// The folder of a training, held by this process alone until it is dropped.
#[derive(Debug)]
pub(super) struct Logbook {
    path: PathBuf,
    metrics: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    step: u64,
    /// Of the training and the bytes.
    hash: Hash,
}

/// A checkpoint belongs to a training, and is whole.
fn seal(training: &Hash, checkpoint: &Checkpoint) -> Hash {
    Hash::of_parts([training.bytes().as_slice(), &checkpoint.step.to_le_bytes(), &checkpoint.bytes])
}

impl Logbook {
    /// Makes a new folder for a training.
    ///
    /// # Errors
    /// `run-folder`
    pub(super) fn create(plan: &TrainPlan, manifest: &TrainManifest, now: SystemTime) -> Result<Self> {
        let path = folder::make(&plan.train.out, &format!("{}-train", plan.settings.name), now)?;
        let file = path.join(METRICS);
        let metrics = OpenOptions::new().read(true).append(true).create_new(true).open(&file);
        let book = Self { metrics: metrics.map_err(|e| refuse(&file, e))?, path };
        folder::hold(&book.metrics, &book.path, METRICS)?;
        atomic::write_bytes(&book.path.join(RESOLVED), plan.settings.to_toml()?.as_bytes())?;
        book.write_json(MANIFEST, manifest)?;
        Ok(book)
    }

    /// Opens the folder of an interrupted training.
    ///
    /// # Errors
    /// `resume-missing`, `resume-differs` if its settings are others, `run-busy`, `run-folder`.
    pub(super) fn reopen(path: &Path, plan: &TrainPlan) -> Result<Self> {
        let before = Settings::load(&path.join(RESOLVED), &[]).map_err(|e| missing(path, RESOLVED, e))?;
        let (before, now) = (before.training_text()?, plan.identity()?);
        if before != now {
            return Err(differs(path, &first_difference(&before, &now)));
        }
        let file = path.join(METRICS);
        if !file.is_file() {
            return Err(missing(path, METRICS, std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        let metrics = OpenOptions::new().read(true).append(true).open(&file).map_err(|e| refuse(&file, e))?;
        folder::hold(&metrics, path, METRICS)?;
        atomic::remove_unfinished(path)?;
        Ok(Self { path: path.to_owned(), metrics })
    }

    /// Compares the manifest of an interrupted training with what it would be now, and returns it.
    ///
    /// # Errors
    /// `resume-differs` if model, data, device, runtime or a plugin is another one; `resume-missing`.
    pub(super) fn verify(&self, now: &TrainManifest) -> Result<TrainManifest> {
        let bytes = std::fs::read(self.path.join(MANIFEST)).map_err(|e| missing(&self.path, MANIFEST, e))?;
        let before: TrainManifest = serde_json::from_slice(&bytes).map_err(|e| missing(&self.path, MANIFEST, e))?;
        for ((what, old), (_, new)) in identity(&before).into_iter().zip(identity(now)) {
            if old != new {
                return Err(differs(&self.path, &format!("{what} was {old}, now it is {new}")));
            }
        }
        Ok(before)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        atomic::write_bytes(&self.file(name), bytes)
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| refuse(&self.file(name), e.into()))?;
        self.write(name, format!("{text}\n").as_bytes())
    }

    /// Appends a figure.
    ///
    /// # Errors
    /// `run-folder`; the file then ends with a torn line, which is dropped when the training is resumed.
    pub(super) fn append(&self, line: &MetricLine) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| refuse(&self.file(METRICS), e.into()))? + "\n";
        (&self.metrics).write_all(text.as_bytes()).map_err(|e| refuse(&self.file(METRICS), e))
    }

    /// Every figure that was told, in order; a torn last line is left out.
    ///
    /// # Errors
    /// `resume-damaged`, `run-folder`
    pub(super) fn lines(&self) -> Result<Vec<MetricLine>> {
        Ok(self.read()?.into_iter().map(|(line, _)| line).collect())
    }

    /// As [`lines`](Self::lines), each with its bytes: a number that is written anew may take others.
    fn read(&self) -> Result<Vec<(MetricLine, Vec<u8>)>> {
        let file = self.file(METRICS);
        let mut bytes = Vec::new();
        let mut reader = &self.metrics;
        reader.seek(SeekFrom::Start(0)).and_then(|_| reader.read_to_end(&mut bytes)).map_err(|e| refuse(&file, e))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = |(index, line): (usize, &[u8])| match serde_json::from_slice(line) {
            Ok(figure) => Ok((figure, line.to_vec())),
            Err(e) => {
                let message = format!("`{}`, line {}: not a figure of a training", file.display(), index + 1);
                Err(Error::new(&codes::RESUME_DAMAGED, message).because(e))
            }
        };
        bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate().map(line).collect()
    }

    /// Drops a method's figures of steps after `step`, and a torn last line. The others keep their bytes.
    ///
    /// # Errors
    /// As [`lines`](Self::lines).
    pub(super) fn forget(&self, method: usize, step: u64) -> Result<()> {
        let is_dropped = |line: &MetricLine| line.method == method && line.step > step;
        let lines = self.read()?;
        let first = lines.iter().position(|(line, _)| is_dropped(line)).unwrap_or(lines.len());
        let whole: usize = lines[..first].iter().map(|(_, bytes)| bytes.len()).sum();
        let kept = lines[first..].iter().filter(|(line, _)| !is_dropped(line));
        let kept: Vec<u8> = kept.flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        // The file that is held is shortened in place: another one in its place would not be held.
        let done = self.metrics.set_len(whole as u64).and_then(|()| (&self.metrics).write_all(&kept));
        done.map_err(|e| refuse(&self.file(METRICS), e))
    }

    fn checkpoint_file(&self, method: usize) -> PathBuf {
        self.file(&format!("{method}.checkpoint"))
    }

    /// Keeps a checkpoint of a method, in place of an earlier one.
    ///
    /// # Errors
    /// `disk-full` or `file-write`, with the earlier one intact.
    pub(super) fn keep(&self, method: usize, training: &Hash, checkpoint: &Checkpoint) -> Result<()> {
        let path = self.checkpoint_file(method);
        let failed =
            |e: &dyn std::fmt::Display| Error::new(&codes::CHECKPOINT_DAMAGED, format!("{}: {e}", path.display()));
        let meta = Meta { format: FORMAT, step: checkpoint.step, hash: seal(training, checkpoint) };
        let text = serde_json::to_string(&meta).map_err(|e| failed(&e))?;
        let view =
            TensorView::new(Dtype::U8, vec![checkpoint.bytes.len()], &checkpoint.bytes).map_err(|e| failed(&e))?;
        let bytes =
            serialize([(BYTES, view)], Some(HashMap::from([(KEY.to_owned(), text)]))).map_err(|e| failed(&e))?;
        atomic::write_bytes(&path, &bytes)
    }

    /// The last checkpoint of a method, if there is one.
    ///
    /// # Errors
    /// `checkpoint-damaged`, `file-read`
    pub(super) fn kept(&self, method: usize, training: &Hash) -> Result<Option<Checkpoint>> {
        let path = self.checkpoint_file(method);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = atomic::read_bytes(&path)?;
        let read = || -> Option<Checkpoint> {
            let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
            let meta: Meta = serde_json::from_str(header.metadata().as_ref()?.get(KEY)?).ok()?;
            let tensors = SafeTensors::deserialize(&bytes).ok()?;
            let checkpoint = Checkpoint { step: meta.step, bytes: tensors.tensor(BYTES).ok()?.data().to_vec() };
            (meta.format == FORMAT && meta.hash == seal(training, &checkpoint)).then_some(checkpoint)
        };
        let damaged = || {
            let text = format!("`{}` is not a whole checkpoint of this training", path.display());
            Error::new(&codes::CHECKPOINT_DAMAGED, text).help("delete the file to train from the beginning")
        };
        read().map(Some).ok_or_else(damaged)
    }

    /// Removes the checkpoint of a method that is done.
    ///
    /// # Errors
    /// `run-folder`
    pub(super) fn done(&self, method: usize) -> Result<()> {
        let path = self.checkpoint_file(method);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(refuse(&path, e)),
            _ => Ok(()),
        }
    }
}

/// What a training depends on besides its settings, and cannot be told from them.
fn identity(manifest: &TrainManifest) -> Vec<(String, &str)> {
    let TrainManifest { model, data, methods, .. } = manifest;
    let mut out = vec![
        ("the model's hash".to_owned(), model.hash.as_str()),
        ("the data's hash".to_owned(), &data.hash),
        ("the device".to_owned(), &model.device),
        ("the runtime".to_owned(), &model.runtime),
    ];
    out.extend(methods.iter().map(|m| (format!("the hash of the plugin of `{}`", m.label), m.hash.as_str())));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of many digits are read as their neighbours, whose text can be longer or shorter.
    #[test]
    fn what_is_not_forgotten_keeps_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let metrics = OpenOptions::new().read(true).append(true).create_new(true).open(&path).unwrap();
        let book = Logbook { path: folder.path().to_owned(), metrics };
        let line = |method: usize, step: u64| {
            let value = (0.37 * (step * 2 + method as u64) as f64).sin() / 3.0;
            book.append(&MetricLine { method, step, name: "loss".into(), value: Some(value) }).unwrap();
        };
        (1..500).for_each(|step| line(0, step));
        let before = std::fs::read_to_string(&path).unwrap();
        book.forget(1, 0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        (1..9).for_each(|step| line(1, step));
        (500..600).for_each(|step| line(0, step));
        let lines = std::fs::read_to_string(&path).unwrap();
        (&book.metrics).write_all(b"{\"method\":0").unwrap();
        book.forget(1, 3).unwrap();
        let kept =
            |line: &&str| !(line.contains("\"method\":1") && (4..9).any(|s| line.contains(&format!("step\":{s},"))));
        let wanted: Vec<&str> = lines.lines().filter(kept).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted.join("\n") + "\n");
    }
}
