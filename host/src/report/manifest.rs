//! `manifest.json`: what a run ran with, so that its numbers can be compared with others'.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::training::Overlap;

/// The protocol of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this file's schema: 1.
    pub schema: u32,
    /// The version of engraft.
    pub engraft: String,
    /// The experiment's name.
    pub name: String,
    /// When the run began, in UTC, `2026-08-01T12:00:00Z`.
    pub started: String,
    /// The operating system and the processor's architecture.
    pub system: String,
    /// `single`, `batch` or `sequential`.
    pub mode: String,
    /// The seed of all random streams.
    pub seed: u64,
    /// BLAKE3 of the resolved settings, without the folder that runs are put in.
    pub settings: String,
    /// The model.
    pub model: ModelEntry,
    /// The data.
    pub data: DataEntry,
    /// The methods, in the order of the experiment.
    pub methods: Vec<MethodEntry>,
}

/// The model of a run and how it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// Its folder.
    pub path: String,
    /// The hash that binds artefacts to it.
    pub hash: String,
    /// Where it ran.
    pub device: String,
    /// What ran it, with its version.
    pub runtime: String,
    /// How continuations are scored.
    pub scorer: String,
    /// How text is written.
    pub decoding: String,
}

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataEntry {
    /// The schema.
    pub kind: String,
    /// The file.
    pub path: String,
    /// BLAKE3 of its bytes.
    pub hash: String,
    /// How many records are used.
    pub records: usize,
    /// The records that cannot be used.
    pub skipped: Vec<SkippedEntry>,
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedEntry {
    /// Its place in the file, counted from 0.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// A method of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodEntry {
    /// What it is called in tables.
    pub label: String,
    /// The plugin's own name.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// The family of the field that it belongs to.
    pub family: String,
    /// The library.
    pub library: String,
    /// The hash of the library.
    pub hash: String,
    /// Every parameter, as it is written in an experiment.
    pub params: BTreeMap<String, String>,
    /// How many records this method cannot take.
    pub unusable: usize,
    /// What it learnt before, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artefact: Option<ArtefactEntry>,
}

/// What a method learnt before a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtefactEntry {
    /// The file.
    pub path: String,
    /// The hash by which patches name it.
    pub hash: String,
    /// The hash of the data that it was trained on.
    pub data: String,
    /// What its training shares with this evaluation.
    pub overlap: Overlap,
}
