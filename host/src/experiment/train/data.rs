//! From files to what a method learns from: records with what is in and out of their scope, apart for validation, bound
//! together by one hash.

use std::collections::{BTreeMap, BTreeSet};

use engraft_plugin_api::{EditRequest, Example, TrainData, TrainRecord};

use super::seen::Seen;
use super::settings::{TrainSettings, Validation};
use crate::base::{Hasher, Result, atomic, random};
use crate::data::{self, Dataset, Probe, Record};
use crate::report::{DataEntry, SkippedEntry, TrainDataEntry};

/// What a method learns from, and where it came from.
#[derive(Clone, Debug)]
pub(in crate::experiment) struct Lessons {
    /// What the method gets, without a checkpoint.
    pub data: TrainData,
    /// For the manifest.
    pub entry: TrainDataEntry,
    /// Fingerprints of what is shown.
    pub seen: Seen,
}

impl Lessons {
    /// Reads the files of a training.
    ///
    /// # Errors
    /// `config-path`, the `data-*` codes, `file-missing`, `file-read`.
    pub(in crate::experiment) fn read(settings: &TrainSettings) -> Result<Self> {
        settings.check_files()?;
        let mut files = Vec::new();
        let mut load = |kind, path: &std::path::Path, limit| {
            let dataset = data::load(kind, path, limit)?;
            files.push(entry(kind, path, &dataset));
            Ok::<_, crate::base::Error>(dataset.records)
        };
        let (mut train, mut validation) = (Vec::new(), Vec::new());
        if let Some(data) = &settings.data {
            train = load(data.kind, &data.path, data.limit)?;
            match &settings.validation {
                Validation::None => {}
                Validation::Share(share) => (train, validation) = split(train, *share, settings.seed),
                Validation::File(path) => validation = load(data.kind, path, None)?,
            }
        }
        let mut texts = Vec::new();
        if let Some(path) = &settings.texts {
            let bytes = atomic::read_bytes(path)?;
            let text = String::from_utf8_lossy(atomic::unmarked(&bytes));
            texts = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
            files.push(DataEntry {
                kind: "texts".into(),
                path: path.display().to_string(),
                hash: crate::base::Hash::of(&bytes).to_string(),
                records: texts.len(),
                skipped: Vec::new(),
            });
        }
        let mut seen = Seen::default();
        train.iter().for_each(|record| seen.add(record));
        let validation_overlap = seen.overlap(&validation);
        validation.iter().for_each(|record| seen.add(record));
        let lessons = |records: &[Record]| records.iter().map(lesson).collect::<Vec<_>>();
        let mut data = TrainData {
            hash: String::new(),
            train: lessons(&train),
            validation: lessons(&validation),
            texts,
            resume: None,
        };
        data.hash = hash(&data);
        let entry = TrainDataEntry {
            hash: data.hash.clone(),
            train: data.train.len(),
            validation: data.validation.len(),
            texts: data.texts.len(),
            validation_overlap,
            files,
        };
        Ok(Self { data, entry, seen })
    }
}

fn entry(kind: data::DataKind, path: &std::path::Path, dataset: &Dataset) -> DataEntry {
    let skipped = |s: &data::Skipped| SkippedEntry { index: s.index, id: s.id.clone(), reason: s.reason.clone() };
    DataEntry {
        kind: kind.name().to_owned(),
        path: path.display().to_string(),
        hash: dataset.hash.clone(),
        records: dataset.records.len(),
        skipped: dataset.skipped.iter().map(skipped).collect(),
    }
}

/// A record as a method learns from it: paraphrases and consequences are in its scope, neighbours out of it.
fn lesson(record: &Record) -> TrainRecord {
    let example = |p: &Probe| Example { prompt: p.prompt.clone(), answer: Some(p.expected.clone()) };
    let probes = &record.probes;
    TrainRecord {
        request: record.request.clone(),
        in_scope: probes.paraphrases.iter().chain(&probes.consequences).map(example).collect(),
        out_of_scope: probes.neighbours.iter().map(example).collect(),
    }
}

/// Takes a share of the subjects, with all their records, for validation: at least one of several, never all. Which,
/// follows from the seed and the subjects, not from the order of the file.
fn split(records: Vec<Record>, share: f64, seed: u64) -> (Vec<Record>, Vec<Record>) {
    let subject = |record: &Record| record.request.subject.clone().unwrap_or_else(|| record.prompt.clone());
    let subjects: BTreeSet<String> = records.iter().map(subject).collect();
    let count = ((subjects.len() as f64 * share).round() as usize).max(1).min(subjects.len().saturating_sub(1));
    let drawn: BTreeMap<(u64, &str), ()> =
        subjects.iter().map(|s| ((random::seed(seed, &["validation", s]), s.as_str()), ())).collect();
    let chosen: BTreeSet<&str> = drawn.keys().take(count).map(|(_, s)| *s).collect();
    let (validation, train) = records.into_iter().partition(|record| chosen.contains(subject(record).as_str()));
    (train, validation)
}

/// The hash of all that a method sees.
fn hash(data: &TrainData) -> String {
    let mut hasher = Hasher::new();
    hasher.part("engraft training data 1");
    for (name, records) in [("train", &data.train), ("validation", &data.validation)] {
        hasher.part(name).part(records.len().to_le_bytes());
        for record in records {
            let EditRequest { id, prompt, subject, target } = &record.request;
            hasher.part(id).part(prompt);
            optional(&mut hasher, subject.as_deref());
            hasher.part(&target.new);
            optional(&mut hasher, target.old.as_deref());
            for examples in [&record.in_scope, &record.out_of_scope] {
                hasher.part(examples.len().to_le_bytes());
                for example in examples {
                    hasher.part(&example.prompt);
                    optional(&mut hasher, example.answer.as_deref());
                }
            }
        }
    }
    hasher.part("texts").part(data.texts.len().to_le_bytes());
    for text in &data.texts {
        hasher.part(text);
    }
    hasher.finish().to_string()
}

fn optional(hasher: &mut Hasher, text: Option<&str>) {
    match text {
        Some(text) => hasher.part([1]).part(text),
        None => hasher.part([0]),
    };
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::Target;

    use super::*;
    use crate::data::Probes;

    fn record(id: usize, subject: &str) -> Record {
        let request = EditRequest {
            id: id.to_string(),
            prompt: "{} is".into(),
            subject: Some(subject.into()),
            target: Target { new: "x".into(), old: None },
        };
        Record {
            id: id.to_string(),
            prompt: format!("{subject} is"),
            relation: None,
            request,
            probes: Probes::default(),
        }
    }

    #[test]
    fn a_subject_is_learnt_from_or_validated_never_both() {
        let records: Vec<_> = (0..40).map(|i| record(i, &format!("S{}", i % 10))).collect();
        let (train, validation) = split(records.clone(), 0.2, 7);
        assert_eq!((train.len(), validation.len()), (32, 8));
        let subjects = |records: &[Record]| -> BTreeSet<_> {
            records.iter().map(|r| r.request.subject.clone().unwrap()).collect()
        };
        assert!(subjects(&train).is_disjoint(&subjects(&validation)));
        let mut turned = records.clone();
        turned.reverse();
        assert_eq!(subjects(&split(turned, 0.2, 7).1), subjects(&validation));
        assert_ne!(subjects(&split(records.clone(), 0.2, 8).1), subjects(&validation));
        // The least and the greatest share leave something on each side.
        assert_eq!(split(records.clone(), 0.001, 1).1.len(), 4);
        assert_eq!(split(records, 0.999, 1).0.len(), 4);
        assert_eq!(split(vec![record(0, "S")], 0.5, 1).1.len(), 0);
    }

    #[test]
    fn the_hash_covers_all_that_is_seen_and_nothing_else() {
        let data = || TrainData {
            train: vec![lesson(&record(1, "A"))],
            validation: vec![lesson(&record(2, "B"))],
            texts: vec!["t".into()],
            ..TrainData::default()
        };
        let of = |change: fn(&mut TrainData)| {
            let mut changed = data();
            change(&mut changed);
            hash(&changed)
        };
        let changes: [fn(&mut TrainData); 6] = [
            |_| {},
            |d| d.train[0].request.target.old = Some(String::new()),
            |d| d.train[0].in_scope.push(Example { prompt: "p".into(), answer: None }),
            |d| d.train[0].out_of_scope.push(Example { prompt: "p".into(), answer: None }),
            |d| d.validation.clear(),
            |d| d.texts.push(String::new()),
        ];
        let hashes: BTreeSet<String> = changes.into_iter().map(of).collect();
        assert_eq!(hashes.len(), changes.len());
        let resume = Some(engraft_plugin_api::Checkpoint { step: 1, bytes: vec![] });
        assert_eq!(hash(&TrainData { resume, ..data() }), hash(&data()));
    }
}
