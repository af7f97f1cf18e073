//! What is left of a training: its protocol, the lines of its figures, and the report made of them, as text and as a
//! page with the curves drawn.

mod curve;
mod page;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{DataEntry, MethodEntry};

pub use page::training_page;
pub use text::training_markdown;

/// The protocol of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainManifest {
    /// The version of this file's schema: 1.
    pub schema: u32,
    /// The version of engraft.
    pub engraft: String,
    /// The experiment's name.
    pub name: String,
    /// When the training began, in UTC.
    pub started: String,
    /// The operating system and the processor's architecture.
    pub system: String,
    /// The seed of all random streams.
    pub seed: u64,
    /// BLAKE3 of what the training depends on, as resolved.
    pub settings: String,
    /// The model.
    pub model: TrainModelEntry,
    /// What is learnt from.
    pub data: TrainDataEntry,
    /// What the training shares with the evaluation of the same experiment.
    pub overlap: Overlap,
    /// The methods that learn, in the order of the experiment.
    pub methods: Vec<MethodEntry>,
}

/// The model of a training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainModelEntry {
    /// Its folder.
    pub path: String,
    /// The hash that binds artefacts to it.
    pub hash: String,
    /// Where it ran.
    pub device: String,
    /// What ran it, with its version.
    pub runtime: String,
}

/// The data of a training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainDataEntry {
    /// The hash of all that the methods see, which binds artefacts to it.
    pub hash: String,
    /// How many records are learnt from.
    pub train: usize,
    /// How many records tell when to stop.
    pub validation: usize,
    /// How many plain texts there are.
    pub texts: usize,
    /// What the records for validation share with those that are learnt from.
    #[serde(default)]
    pub validation_overlap: Overlap,
    /// The files, with what cannot be used of them.
    pub files: Vec<DataEntry>,
}

impl TrainManifest {
    /// What whoever reads the figures of the training, or of an evaluation with its artefacts, should know.
    pub fn warnings(&self) -> Vec<String> {
        let Overlap { evaluated, facts, subjects, prompts } = self.data.validation_overlap;
        // Prompts about other subjects are shared by the parts of one file as well.
        let validation = (facts + subjects > 0).then(|| {
            format!(
                "the validation overlaps the training, so that stopping early tells little: of {evaluated} records for \
                 validation {facts} ask for a fact that is learnt from, {subjects} have a subject of it, and {prompts} \
                 are measured by a prompt that it shows"
            )
        });
        self.overlap.warning().into_iter().chain(validation).collect()
    }
}

/// What a training shares with an evaluation, or with its own validation, in records of the latter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// How many records are evaluated.
    pub evaluated: usize,
    /// How many of them ask for a fact of the training: the same subject, and the same relation or prompt.
    pub facts: usize,
    /// How many of them have a subject of the training.
    pub subjects: usize,
    /// How many of them have a prompt, their own or one of those that measure them, which was shown in training.
    pub prompts: usize,
}

impl Overlap {
    /// A sentence for who should know; nothing where nothing is shared.
    pub fn warning(&self) -> Option<String> {
        let Self { evaluated, facts, subjects, prompts } = self;
        (facts + subjects + prompts > 0).then(|| {
            format!(
                "the training overlaps the evaluation: of {evaluated} evaluated records {facts} ask for a fact of the \
                 training, {subjects} have a subject of it, and {prompts} are measured by a prompt that it shows"
            )
        })
    }
}

/// A line of `metrics.jsonl`: a figure that a method told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricLine {
    /// Which `[[method]]` of the experiment, counted from 0.
    pub method: usize,
    /// After how many steps.
    pub step: u64,
    /// What is measured.
    pub name: String,
    /// The value; absent if it is no finite number.
    pub value: Option<f64>,
}

/// The numbers of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSummary {
    /// The version of this file's schema: 1.
    pub schema: u32,
    /// The methods that learnt, in the order of the experiment.
    pub methods: Vec<Trained>,
}

/// What became of a method's training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Which `[[method]]` of the experiment, counted from 0.
    pub method: usize,
    /// What the method is called in tables.
    pub label: String,
    /// The file of what it learnt, in the folder of the training.
    pub file: String,
    /// The hash by which patches and reports name it.
    pub hash: String,
    /// The length of the method's own bytes.
    pub bytes: usize,
    /// The last step that a figure was told after.
    pub steps: u64,
    /// Seconds of the training, since it was begun or resumed last.
    pub seconds: f64,
    /// The figures, by name.
    pub metrics: BTreeMap<String, Figure>,
}

/// The course of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The first value.
    pub first: Option<f64>,
    /// The last value.
    pub last: Option<f64>,
    /// The least value.
    pub least: Option<f64>,
    /// The greatest value.
    pub greatest: Option<f64>,
}

/// The values of one figure with their steps, in the order in which they were told.
pub(super) type Course = Vec<(u64, f64)>;

/// The finite figures of a method, by name.
fn courses(lines: &[MetricLine], method: usize) -> BTreeMap<&str, Course> {
    let mut courses: BTreeMap<&str, Course> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.method == method) {
        let course = courses.entry(&line.name).or_default();
        course.extend(line.value.filter(|v| v.is_finite()).map(|v| (line.step, v)));
    }
    courses
}

/// The courses of a method's figures in short.
pub fn figures(lines: &[MetricLine], method: usize) -> BTreeMap<String, Figure> {
    let figure = |course: Course| {
        let values = || course.iter().map(|&(_, v)| v);
        Figure {
            first: values().next(),
            last: values().next_back(),
            least: values().reduce(f64::min),
            greatest: values().reduce(f64::max),
        }
    };
    courses(lines, method).into_iter().map(|(name, course)| (name.to_owned(), figure(course))).collect()
}

/// Values in the order of their steps, thinned to at most `most` means of neighbours.
fn thinned(course: &[(u64, f64)], most: usize) -> Course {
    let size = course.len().div_ceil(most.max(1)).max(1);
    let mean = |part: &[(u64, f64)]| {
        let sum: f64 = part.iter().map(|&(_, v)| v).sum();
        (part[part.len() / 2].0, sum / part.len() as f64)
    };
    course.chunks(size).map(mean).collect()
}
