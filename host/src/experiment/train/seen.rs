//! What a training shows, as fingerprints: an evaluation can tell what it shares with it without the training's data.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Hash;
use crate::data::Record;
use crate::report::Overlap;

/// Fingerprints of facts, subjects and prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::experiment) struct Seen {
    facts: BTreeSet<i64>,
    subjects: BTreeSet<i64>,
    prompts: BTreeSet<i64>,
}

/// 64 bits of the hash of some words.
fn print(words: &[&str]) -> i64 {
    let hash = Hash::of_parts(words);
    hash.bytes()[..8].iter().rev().fold(0, |print, byte| print << 8 | i64::from(*byte))
}

/// The names of a fact: by its relation where that is known, and by its prompt. Two facts are one if they share a name.
fn facts(record: &Record) -> impl Iterator<Item = i64> {
    let subject = record.request.subject.as_deref().unwrap_or_default();
    let relation = record.relation.as_deref().map(|relation| print(&["relation", subject, relation]));
    relation.into_iter().chain([print(&["prompt", subject, &record.request.prompt])])
}

fn subject(record: &Record) -> Option<i64> {
    record.request.subject.as_deref().map(|subject| print(&[subject]))
}

/// A record's own prompt and those that measure it.
fn prompts(record: &Record) -> impl Iterator<Item = i64> {
    let probes = &record.probes;
    let measured = probes.paraphrases.iter().chain(&probes.neighbours).chain(&probes.consequences);
    std::iter::once(&record.prompt).chain(measured.map(|probe| &probe.prompt)).map(|prompt| print(&[prompt]))
}

impl Seen {
    /// Adds what a record shows.
    pub(super) fn add(&mut self, record: &Record) {
        self.facts.extend(facts(record));
        self.subjects.extend(subject(record));
        self.prompts.extend(prompts(record));
    }

    /// As it is kept in an artefact.
    pub(super) fn sets(&self) -> BTreeMap<String, Vec<i64>> {
        let set = |name: &str, prints: &BTreeSet<i64>| (name.to_owned(), prints.iter().copied().collect());
        [set("facts", &self.facts), set("subjects", &self.subjects), set("prompts", &self.prompts)].into()
    }

    /// From an artefact; sets that it does not have are empty.
    pub(in crate::experiment) fn of_sets(sets: &BTreeMap<String, Vec<i64>>) -> Self {
        let set = |name: &str| sets.get(name).map(|prints| prints.iter().copied().collect()).unwrap_or_default();
        Self { facts: set("facts"), subjects: set("subjects"), prompts: set("prompts") }
    }

    /// What an evaluation shares with it.
    pub(in crate::experiment) fn overlap(&self, evaluated: &[Record]) -> Overlap {
        let count = |is_shared: &dyn Fn(&Record) -> bool| evaluated.iter().filter(|r| is_shared(r)).count();
        Overlap {
            evaluated: evaluated.len(),
            facts: count(&|r| facts(r).any(|print| self.facts.contains(&print))),
            subjects: count(&|r| subject(r).is_some_and(|print| self.subjects.contains(&print))),
            prompts: count(&|r| prompts(r).any(|print| self.prompts.contains(&print))),
        }
    }
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::{EditRequest, Target};

    use super::*;
    use crate::data::{Probe, Probes};

    fn record(subject: &str, relation: Option<&str>, prompt: &str, neighbour: &str) -> Record {
        let request = EditRequest {
            id: "1".into(),
            prompt: prompt.into(),
            subject: Some(subject.into()),
            target: Target { new: "x".into(), old: None },
        };
        let neighbour = Probe { prompt: neighbour.into(), expected: "y".into(), rival: None };
        Record {
            id: "1".into(),
            prompt: request.filled().unwrap(),
            relation: relation.map(str::to_owned),
            request,
            probes: Probes { neighbours: vec![neighbour], ..Probes::default() },
        }
    }

    #[test]
    fn shared_facts_subjects_and_prompts_are_counted_by_record() {
        let mut seen = Seen::default();
        seen.add(&record("Ada", Some("born"), "{} is a native of", "Tor is a native of"));
        let evaluated = [
            record("Ada", Some("born"), "The birthplace of {} is", "Ivo was born in"), // by relation
            record("Ada", None, "{} is a native of", "Ivo is a native of"),            // by prompt
            record("Ada", Some("lives"), "{} lives in", "Ivo lives in"),               // the subject alone
            record("Una", Some("born"), "{} is a native of", "Tor is a native of"),    // a neighbour alone
            record("Una", Some("born"), "{} was born in", "Ivo was born in"),
        ];
        let overlap = seen.overlap(&evaluated);
        assert_eq!(overlap, Overlap { evaluated: 5, facts: 2, subjects: 3, prompts: 2 });
        assert!(overlap.warning().is_some_and(|text| text.contains("of 5 evaluated records 2 ask")));
        assert_eq!(Seen::of_sets(&seen.sets()), seen);
        assert_eq!(Seen::default().overlap(&evaluated).warning(), None);
    }
}
