//! `report.html` of a training: one page without scripts, with the curves drawn in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::curve::{escaped, number, svg};
use super::text::protocol;
use super::{Course, MetricLine, TrainManifest, TrainSummary, courses};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:13px;overflow-wrap:anywhere}\
    .warning{background:#fff3cd;padding:.6rem 1rem}svg{max-width:100%;height:auto}";

/// The report of a training, as a page.
pub fn training_page(manifest: &TrainManifest, summary: &TrainSummary, lines: &[MetricLine]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, manifest, summary, lines);
    out
}

fn write(out: &mut String, manifest: &TrainManifest, summary: &TrainSummary, lines: &[MetricLine]) -> std::fmt::Result {
    let name = escaped(&manifest.name);
    writeln!(out, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title>")?;
    writeln!(out, "<style>{STYLE}</style>\n<h1>{name}</h1>\n<p>A training, begun {}.</p>", manifest.started)?;
    for warning in manifest.warnings() {
        writeln!(out, "<p class=\"warning\"><b>Warning:</b> {}.</p>", escaped(&warning))?;
    }
    for trained in &summary.methods {
        writeln!(out, "<h2>{}</h2>", escaped(&trained.label))?;
        writeln!(
            out,
            "<p><code>{}</code>, {} bytes, {} steps, {:.1} s; hash <code>{}</code></p>",
            escaped(&trained.file),
            trained.bytes,
            trained.steps,
            trained.seconds,
            trained.hash
        )?;
        for courses in panels(&courses(lines, trained.method)) {
            out.push_str(&svg(&courses).unwrap_or_default());
        }
        writeln!(out, "<table><tr><th>figure<th>first<th>last<th>least<th>greatest</tr>")?;
        for (name, figure) in &trained.metrics {
            write!(out, "<tr><td>{}", escaped(name))?;
            for value in [figure.first, figure.last, figure.least, figure.greatest] {
                write!(out, "<td class=\"n\">{}", value.map_or_else(|| "-".to_owned(), number))?;
            }
            writeln!(out, "</tr>")?;
        }
        writeln!(out, "</table>")?;
    }
    writeln!(out, "<h2>Protocol</h2>\n<table>")?;
    for (what, text) in protocol(manifest) {
        writeln!(out, "<tr><th>{what}<td><code>{}</code></tr>", escaped(&text))?;
    }
    writeln!(out, "</table></html>")
}

/// Figures whose names end with the same word share a scale, and so a picture.
fn panels<'a>(courses: &'a BTreeMap<&'a str, Course>) -> Vec<Vec<(&'a str, &'a Course)>> {
    let mut panels: BTreeMap<&str, Vec<(&str, &Course)>> = BTreeMap::new();
    for (name, course) in courses {
        let word = name.rsplit(' ').next().unwrap_or(name);
        panels.entry(word).or_default().push((name, course));
    }
    // The loss first, as it is what was asked to fall.
    let mut panels: Vec<_> = panels.into_iter().collect();
    panels.sort_by_key(|(word, _)| *word != "loss");
    panels.into_iter().map(|(_, panel)| panel).collect()
}
