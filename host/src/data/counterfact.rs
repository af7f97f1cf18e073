//! CounterFact in its own schema (Meng et al. 2022, "Locating and Editing Factual Associations in GPT"): a JSON list
//! of records with `case_id`, `requested_rewrite`, paraphrase, neighbourhood and generation prompts. `relation_id` and
//! fields that are not used (`pararel_idx`, `attribute_prompts`, ids of objects) may be absent.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use engraft_plugin_api::{EditRequest, Target};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::error::Category;

use super::{Probe, Probes, Record, Skipped, codes};
use crate::base::{Error, Result};

#[derive(Deserialize)]
struct Raw {
    case_id: u64,
    requested_rewrite: Rewrite,
    #[serde(default)]
    paraphrase_prompts: Vec<String>,
    #[serde(default)]
    neighborhood_prompts: Vec<String>,
    #[serde(default)]
    generation_prompts: Vec<String>,
}

#[derive(Deserialize)]
struct Rewrite {
    prompt: String,
    #[serde(default)]
    relation_id: Option<String>,
    subject: String,
    target_new: Object,
    target_true: Object,
}

#[derive(Deserialize)]
struct Object {
    str: String,
}

/// The records of a file's text and those that cannot be used.
///
/// # Errors
/// `data-malformed` if the text is not JSON, `data-schema` if a record has other fields; both name record and line.
pub(super) fn parse(text: &str, path: &Path, limit: Option<usize>) -> Result<(Vec<Record>, Vec<Skipped>)> {
    let reached = Cell::new(None);
    let mut json = serde_json::Deserializer::from_str(text);
    let rows = List { limit: limit.unwrap_or(usize::MAX), reached: &reached }
        .deserialize(&mut json)
        .and_then(|rows| json.end().map(|()| rows))
        .map_err(|e| refuse(&e, path, reached.get()))?;

    let (mut records, mut skipped, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (index, raw) in rows.into_iter().enumerate() {
        let id = raw.case_id.to_string();
        let usable = match ids.insert(raw.case_id) {
            true => record(raw),
            false => Err(format!("an earlier record has the same case_id {id}")),
        };
        match usable {
            Ok(record) => records.push(record),
            Err(reason) => skipped.push(Skipped { index, id, reason }),
        }
    }
    Ok((records, skipped))
}

/// Reads the first records of the list, then only checks the rest; leaves behind which record it had reached.
struct List<'a> {
    limit: usize,
    reached: &'a Cell<Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<Raw>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of CounterFact records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while rows.len() < self.limit {
            self.reached.set(Some(rows.len()));
            match list.next_element()? {
                Some(row) => rows.push(row),
                None => return Ok(rows),
            }
        }
        self.reached.set(None);
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(rows)
    }
}

fn refuse(error: &serde_json::Error, path: &Path, record: Option<usize>) -> Error {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let cause = error.to_string();
    let record = record.map(|i| format!(", record {i}")).unwrap_or_default();
    let (code, what) = match error.classify() {
        Category::Data => (&codes::DATA_SCHEMA, "not a CounterFact record"),
        _ => (&codes::DATA_MALFORMED, "not JSON"),
    };
    let message = format!(
        "`{}`, line {}, column {}{record}: {what}: {}",
        path.display(),
        error.line(),
        error.column(),
        cause.strip_suffix(&place).unwrap_or(&cause),
    );
    Error::new(code, message)
}

/// A record, or why it cannot be used.
fn record(raw: Raw) -> Result<Record, String> {
    let Rewrite { prompt, relation_id, subject, target_new, target_true } = raw.requested_rewrite;
    let (new, old) = (target_new.str.trim(), target_true.str.trim());
    if subject.trim().is_empty() {
        return Err("its subject is empty".into());
    }
    if new.is_empty() || old.is_empty() {
        return Err(format!("its target_{} is empty", if new.is_empty() { "new" } else { "true" }));
    }
    if new == old {
        return Err(format!("target_new and target_true are the same, `{new}`"));
    }
    let holes = prompt.matches("{}").count();
    if holes != 1 {
        return Err(format!("its prompt `{prompt}` holds `{{}}` {holes} times, not once where the subject stands"));
    }
    let probes = |kind: &str, prompts: Vec<String>, expected: &str, rival: &str| -> Result<Vec<Probe>, String> {
        prompts
            .into_iter()
            .map(|prompt| match prompt.trim_end() {
                "" => Err(format!("one of its {kind} is empty")),
                prompt => Ok(Probe { prompt: prompt.into(), expected: expected.into(), rival: Some(rival.into()) }),
            })
            .collect()
    };
    let id = raw.case_id.to_string();
    let request = EditRequest {
        id: id.clone(),
        prompt: prompt.trim_end().into(),
        subject: Some(subject),
        target: Target { new: new.into(), old: Some(old.into()) },
    };
    Ok(Record {
        prompt: request.filled().map_err(|e| e.to_string())?,
        relation: relation_id,
        probes: Probes {
            paraphrases: probes("paraphrase_prompts", raw.paraphrase_prompts, new, old)?,
            neighbours: probes("neighborhood_prompts", raw.neighborhood_prompts, old, new)?,
            consequences: Vec::new(),
            generation: raw.generation_prompts,
        },
        request,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataKind, Dataset, load};

    fn one(id: u64, prompt: &str, new: &str) -> String {
        serde_json::json!({
            "case_id": id, "pararel_idx": 7,
            "requested_rewrite": {
                "prompt": prompt, "relation_id": "P27", "subject": "Tessa Roon",
                "target_new": {"str": new, "id": "Q1"}, "target_true": {"str": "Orvia", "id": "Q2"},
            },
            "paraphrase_prompts": ["It rained. Tessa Roon holds citizenship in"],
            "neighborhood_prompts": ["Ivo Dask is a citizen of"],
            "attribute_prompts": ["Una Holt is a citizen of"],
            "generation_prompts": ["Tessa Roon grew up in"],
        })
        .to_string()
    }

    fn read(text: &str, limit: Option<usize>) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cf.json");
        std::fs::write(&path, text).unwrap();
        load(DataKind::CounterFact, &path, limit)
    }

    /// The code, and the message after the path.
    fn refused(text: &str) -> (&'static str, String) {
        let error = read(text, None).unwrap_err();
        let message = error.message();
        (error.code().id, message.split_once("cf.json`").unwrap().1.to_owned())
    }

    #[test]
    fn a_record_becomes_a_request_and_probes() {
        let data = read(&format!("\u{feff}[{}]", one(5, "{} is a citizen of", "Belmar")), None).unwrap();
        let record = &data.records[0];
        assert_eq!((record.id.as_str(), record.prompt.as_str()), ("5", "Tessa Roon is a citizen of"));
        let probe = |prompt: &str, expected: &str, rival: &str| Probe {
            prompt: prompt.into(),
            expected: expected.into(),
            rival: Some(rival.into()),
        };
        let paraphrase = probe("It rained. Tessa Roon holds citizenship in", "Belmar", "Orvia");
        assert_eq!(record.probes.paraphrases, [paraphrase]);
        assert_eq!(record.probes.neighbours, [probe("Ivo Dask is a citizen of", "Orvia", "Belmar")]);
        assert_eq!((data.hash.len(), data.skipped.len()), (64, 0));
    }

    #[test]
    fn a_file_that_is_not_what_it_claims_is_refused_with_its_place() {
        let good = one(1, "{} is", "Belmar");
        assert_eq!(refused("[\n{\"case_id\": 1,\n}]").0, "data-malformed");
        let (code, message) = refused(&format!("[{good},\n{{\"case_id\": 2}}]"));
        assert_eq!(code, "data-schema");
        assert_eq!(
            message,
            ", line 2, column 14, record 1: not a CounterFact record: missing field `requested_rewrite`"
        );
        assert_eq!(refused(&format!("[{good}] tail")).0, "data-malformed");
        assert_eq!(refused(&format!("[{good}")).0, "data-malformed");
        assert_eq!(refused("{}").0, "data-schema");
        assert_eq!(refused("[]"), ("data-empty", " holds no record that can be used: it is an empty list".into()));
        let missing = load(DataKind::CounterFact, Path::new("no-such.json"), None).unwrap_err();
        assert_eq!(missing.code().id, "data-unreadable");
    }

    #[test]
    fn a_record_that_cannot_be_used_is_skipped_with_its_reason() {
        let rows = [
            one(1, "{} is", "Belmar"),
            one(1, "{} is", "Kelm"),
            one(2, "Tessa Roon is", "Belmar"),
            one(3, "{} is", " "),
            one(4, "{} is", "Orvia"),
        ];
        let data = read(&format!("[{}]", rows.join(",")), None).unwrap();
        assert_eq!(data.records.len(), 1);
        let reasons: Vec<_> = data.skipped.iter().map(|s| (s.index, s.id.as_str(), s.reason.as_str())).collect();
        assert_eq!(
            reasons,
            [
                (1, "1", "an earlier record has the same case_id 1"),
                (2, "2", "its prompt `Tessa Roon is` holds `{}` 0 times, not once where the subject stands"),
                (3, "3", "its target_new is empty"),
                (4, "4", "target_new and target_true are the same, `Orvia`"),
            ]
        );
        let limited = read(&format!("[{}]", rows.join(",")), Some(2)).unwrap();
        assert_eq!((limited.records.len(), limited.skipped.len()), (1, 1));
        let torn = format!("[{},{{]", rows[0]);
        assert_eq!(read(&torn, Some(1)).unwrap_err().code().id, "data-malformed");
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        let error = DataKind::named("counterfac").unwrap_err();
        assert_eq!(error.code().id, "data-kind");
        assert_eq!(error.advice(), Some("did you mean `counterfact`? known: counterfact"));
    }
}
