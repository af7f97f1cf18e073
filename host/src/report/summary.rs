//! `summary.json`: means, counts and times of each method.

use serde::{Deserialize, Serialize};

use super::case::{CaseLine, Failure, Stage};
use crate::metrics::Scores;

/// The numbers of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The version of this file's schema: 1.
    pub schema: u32,
    /// The methods, in the order of the experiment.
    pub methods: Vec<MethodSummary>,
}

/// The numbers of a method. Means are over the cases that did not fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodSummary {
    /// The plugin's own name.
    pub plugin: String,
    /// What the method is called in tables.
    pub label: String,
    /// How many cases were attempted, failed ones included.
    pub cases: usize,
    /// How many records could not be attempted.
    pub skipped: usize,
    /// How many of the cases failed.
    pub failed: usize,
    /// The edited model; for a sequence, measured after its last edit.
    pub metrics: Scores,
    /// The unedited model, over the same cases.
    pub before: Scores,
    /// For a sequence: each case measured right after its own edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_own_edit: Option<Scores>,
    /// For a sequence: how many of the cases failed at their own edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at_own_edit: Option<usize>,
    /// The first case that failed, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<FailedCase>,
    /// Seconds of an edit; absent if none was made.
    pub seconds_per_edit: Option<Seconds>,
    /// The greatest memory during an edit, where it is known.
    pub peak_bytes: Option<u64>,
}

/// A case that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCase {
    /// The record's id.
    pub case: String,
    /// Why.
    #[serde(flatten)]
    pub failure: Failure,
}

/// A distribution of times, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Half of the edits took no longer.
    pub median: f64,
    /// 95 % of the edits took no longer (nearest rank).
    pub p95: f64,
}

impl Seconds {
    /// The distribution of some times; `None` of none.
    pub fn of(mut times: Vec<f64>) -> Option<Self> {
        times.sort_by(f64::total_cmp);
        let n = times.len();
        let p95 = *times.get((n * 95).div_ceil(100).checked_sub(1)?)?;
        Some(Self { median: (times[(n - 1) / 2] + times[n / 2]) / 2.0, p95 })
    }
}

impl MethodSummary {
    /// True if cases were attempted and none of them was measured to its end.
    pub fn all_failed(&self) -> bool {
        self.cases > 0 && self.failed == self.cases
    }

    /// Sums up the lines of one method; `skipped` records were not attempted.
    pub fn of<'a>(
        plugin: &str,
        label: &str,
        skipped: usize,
        sequence: bool,
        lines: impl IntoIterator<Item = &'a CaseLine>,
    ) -> Self {
        let (ends, edits): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.stage == Stage::End);
        let failed = |lines: &[&CaseLine]| lines.iter().filter(|line| line.error.is_some()).count();
        let failure = |line: &&CaseLine| Some(FailedCase { case: line.case.clone(), failure: line.error.clone()? });
        let mean = |lines: &[&CaseLine], scores: fn(&CaseLine) -> Option<Scores>| {
            let measured = lines.iter().filter(|line| line.error.is_none());
            Scores::mean(&measured.filter_map(|line| scores(line)).collect::<Vec<_>>())
        };
        let last = if sequence { &ends } else { &edits };
        Self {
            plugin: plugin.to_owned(),
            label: label.to_owned(),
            cases: edits.len(),
            skipped,
            failed: failed(&edits) + failed(&ends),
            metrics: mean(last, |line| line.after),
            before: mean(last, |line| line.before),
            after_own_edit: sequence.then(|| mean(&edits, |line| line.after)),
            failed_at_own_edit: sequence.then(|| failed(&edits)),
            first_failure: edits.iter().chain(&ends).find_map(failure),
            seconds_per_edit: Seconds::of(edits.iter().filter_map(|line| line.seconds).collect()),
            peak_bytes: edits.iter().filter_map(|line| line.peak_bytes).max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Shares;
    use crate::report::{Failure, RequestLine};

    fn scores(probability: f64, argmax: f64) -> Scores {
        let shares = |correctness| Shares { probability: Some(probability), argmax, token_mean: 0.5, correctness };
        Scores { accuracy: Some(shares(None)), generalization: None, locality: Some(shares(Some(1.0))) }
    }

    fn line(case: &str, stage: Stage, after: Option<Scores>, seconds: f64) -> CaseLine {
        CaseLine {
            method: 0,
            label: "rome".into(),
            case: case.into(),
            stage,
            request: RequestLine {
                prompt: "Ada Vorn was born in".into(),
                subject: Some("Ada Vorn".into()),
                target_new: "Kelm".into(),
                target_old: None,
            },
            seconds: (stage == Stage::Edit).then_some(seconds),
            peak_bytes: Some(case.len() as u64),
            before: Some(scores(0.0, 0.0)),
            after,
            text: None,
            notes: Vec::new(),
            error: after.is_none().then(|| Failure { code: "plugin-failed".into(), message: "no".into() }),
        }
    }

    #[test]
    fn the_schema_is_the_contract() {
        let lines = [
            line("1", Stage::Edit, Some(scores(1.0, 1.0)), 0.25),
            line("22", Stage::Edit, Some(scores(1.0, 0.0)), 0.75),
            line("3", Stage::Edit, None, 0.5),
        ];
        let summary = Summary { schema: 1, methods: vec![MethodSummary::of("rome", "rome", 4, false, &lines)] };
        assert_eq!(
            serde_json::to_value(&summary).unwrap(),
            serde_json::json!({"schema": 1, "methods": [{
                "plugin": "rome", "label": "rome", "cases": 3, "skipped": 4, "failed": 1,
                "metrics": {
                    "accuracy": {"probability": 1.0, "argmax": 0.5, "token_mean": 0.5},
                    "locality": {"probability": 1.0, "argmax": 0.5, "token_mean": 0.5, "correctness": 1.0},
                },
                "before": {
                    "accuracy": {"probability": 0.0, "argmax": 0.0, "token_mean": 0.5},
                    "locality": {"probability": 0.0, "argmax": 0.0, "token_mean": 0.5, "correctness": 1.0},
                },
                "first_failure": {"case": "3", "code": "plugin-failed", "message": "no"},
                "seconds_per_edit": {"median": 0.5, "p95": 0.75}, "peak_bytes": 2,
            }]})
        );
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
    }

    #[test]
    fn a_sequence_is_judged_at_its_end() {
        let lines = [
            line("1", Stage::Edit, Some(scores(1.0, 1.0)), 1.0),
            line("2", Stage::Edit, Some(scores(1.0, 1.0)), 1.0),
            line("1", Stage::End, Some(scores(0.0, 0.0)), 1.0),
            line("2", Stage::End, Some(scores(1.0, 1.0)), 1.0),
        ];
        let summary = MethodSummary::of("rome", "rome", 0, true, &lines);
        assert_eq!((summary.cases, summary.failed, summary.failed_at_own_edit), (2, 0, Some(0)));
        assert_eq!(summary.metrics.accuracy.map(|s| s.argmax), Some(0.5));
        assert_eq!(summary.after_own_edit.and_then(|s| s.accuracy).map(|s| s.argmax), Some(1.0));
    }

    #[test]
    fn times_are_ranked() {
        assert_eq!(Seconds::of(Vec::new()), None);
        assert_eq!(Seconds::of(vec![2.0]), Some(Seconds { median: 2.0, p95: 2.0 }));
        let times = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Seconds::of(times), Some(Seconds { median: 50.5, p95: 95.0 }));
    }
}
