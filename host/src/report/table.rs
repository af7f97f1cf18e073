//! The table of a run in one regime: a row for each method, the unedited model above them; percent.

use comfy_table::{CellAlignment, Table, TableStyle};

use super::summary::{MethodSummary, Summary};
use crate::metrics::{Regime, Scores, Shares};

const HEADER: [&str; 9] = [
    "method",
    "accuracy %",
    "generalization %",
    "locality %",
    "correct %",
    "median s",
    "p95 s",
    "peak MiB",
    "cases (failed, skipped)",
];

/// Where the correctness of neighbours stands.
const CORRECT: usize = 4;

/// Where the counts of cases stand.
const COUNTS: usize = 8;

/// A summary as a table. `style` is one of `comfy_table`'s, e.g. `UTF8_FULL_CONDENSED` for a terminal.
pub fn table(summary: &Summary, regime: Regime, style: TableStyle) -> String {
    let mut table = Table::new();
    table.load_style(style);
    // The truth is asked for by `argmax` only: in the other tables the column would mix two regimes.
    let shown = |at: &usize| *at != CORRECT || regime == Regime::Argmax;
    table.set_header((0..HEADER.len()).filter(shown).map(|at| HEADER[at]));
    for row in rows(summary, regime) {
        table.add_row((0..row.len()).filter(shown).map(|at| row[at].clone()));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn rows(summary: &Summary, regime: Regime) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut shown: Option<&Scores> = None;
    for method in &summary.methods {
        // The unedited model is repeated only where failed cases make it another set of cases.
        if shown.replace(&method.before) != Some(&method.before) {
            rows.push(row("(unedited)", &method.before, regime));
        }
        if let Some(own) = &method.after_own_edit {
            let mut own = row(&format!("{}, after own edit", method.label), own, regime);
            own[COUNTS] = counts(method, method.failed_at_own_edit.unwrap_or(method.failed));
            rows.push(own);
        }
        let end = if method.after_own_edit.is_some() { ", after last edit" } else { "" };
        let mut last = row(&format!("{}{end}", method.label), &method.metrics, regime);
        let seconds = |time: Option<f64>| time.map_or_else(dash, |t| format!("{t:.3}"));
        last.splice(
            5..,
            [
                seconds(method.seconds_per_edit.map(|s| s.median)),
                seconds(method.seconds_per_edit.map(|s| s.p95)),
                method.peak_bytes.map_or_else(dash, |b| format!("{:.1}", b as f64 / f64::from(1 << 20))),
                counts(method, method.failed),
            ],
        );
        rows.push(last);
    }
    rows
}

fn counts(method: &MethodSummary, failed: usize) -> String {
    format!("{} ({failed}, {})", method.cases, method.skipped)
}

fn row(name: &str, scores: &Scores, regime: Regime) -> Vec<String> {
    let percent = |share: Option<f64>| share.map_or_else(dash, |s| format!("{:.1}", s * 100.0));
    let share = |shares: Option<Shares>| percent(shares.and_then(|s| s.share(regime)));
    let mut row = vec![
        name.to_owned(),
        share(scores.accuracy),
        share(scores.generalization),
        share(scores.locality),
        percent(scores.locality.and_then(|s| s.correctness)),
    ];
    row.resize(HEADER.len(), String::new());
    row
}

fn dash() -> String {
    "-".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Seconds;
    use comfy_table::presets::ASCII_MARKDOWN;

    #[test]
    fn percent_stands_beside_counts_and_times() {
        let shares = |argmax| Some(Shares { probability: None, argmax, token_mean: argmax, correctness: None });
        let method = |label: &str, argmax| MethodSummary {
            plugin: "rome".into(),
            label: label.into(),
            cases: 100,
            skipped: 2,
            failed: 1,
            metrics: Scores { accuracy: shares(argmax), ..Scores::default() },
            before: Scores { accuracy: shares(0.0), ..Scores::default() },
            after_own_edit: None,
            failed_at_own_edit: None,
            first_failure: None,
            seconds_per_edit: Some(Seconds { median: 0.0784, p95: 0.1 }),
            peak_bytes: None,
        };
        let summary = Summary { schema: 1, methods: vec![method("rome", 0.925), method("rome, no C", 1.0)] };
        let cells = |line: &str| line.split('|').map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect();
        let text = table(&summary, Regime::Argmax, ASCII_MARKDOWN);
        let lines: Vec<Vec<String>> = text.lines().skip(2).map(cells).collect();
        assert_eq!(
            lines,
            [
                vec!["(unedited)", "0.0", "-", "-", "-"],
                vec!["rome", "92.5", "-", "-", "-", "0.078", "0.100", "-", "100 (1, 2)"],
                vec!["rome, no C", "100.0", "-", "-", "-", "0.078", "0.100", "-", "100 (1, 2)"],
            ]
        );
        let text = table(&summary, Regime::Probability, ASCII_MARKDOWN);
        let lines: Vec<Vec<String>> = text.lines().map(cells).collect();
        assert_eq!(lines[0].len(), 8);
        assert_eq!(lines[2], ["(unedited)", "-", "-", "-"]);
    }
}
