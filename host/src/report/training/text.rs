//! `report.md` of a training: the courses of the figures in short, and the protocol.

use std::fmt::Write as _;

use super::curve::number;
use super::{Course, MetricLine, TrainManifest, TrainSummary, courses, thinned};
use crate::report::markdown::{code, plain};

/// The report of a training, as text.
pub fn training_markdown(manifest: &TrainManifest, summary: &TrainSummary, lines: &[MetricLine]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, manifest, summary, lines);
    out
}

fn write(out: &mut String, manifest: &TrainManifest, summary: &TrainSummary, lines: &[MetricLine]) -> std::fmt::Result {
    writeln!(out, "# {}\n", plain(&manifest.name))?;
    writeln!(out, "A training, begun {}. `report.html` draws the curves.\n", manifest.started)?;
    for warning in manifest.warnings() {
        writeln!(out, "**Warning:** {warning}.\n")?;
    }
    for trained in &summary.methods {
        writeln!(out, "## {}\n", plain(&trained.label))?;
        writeln!(
            out,
            "{} ({} bytes, `{}`), {} steps, {:.1} s.\n",
            code(&trained.file),
            trained.bytes,
            trained.hash,
            trained.steps,
            trained.seconds
        )?;
        writeln!(out, "| figure | first | last | least | greatest | course |")?;
        writeln!(out, "|---|---:|---:|---:|---:|---|")?;
        let courses = courses(lines, trained.method);
        for (name, figure) in &trained.metrics {
            let [first, last, least, greatest] = [figure.first, figure.last, figure.least, figure.greatest]
                .map(|v| v.map_or_else(|| "-".to_owned(), number));
            let course = courses.get(name.as_str()).map(bars).unwrap_or_default();
            writeln!(out, "| {} | {first} | {last} | {least} | {greatest} | {course} |", plain(name))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "## Protocol\n")?;
    protocol(manifest).iter().try_for_each(|(what, text)| writeln!(out, "- {what}: {}", plain(text)))
}

/// What a training ran with, in pairs of words.
pub(super) fn protocol(manifest: &TrainManifest) -> Vec<(&'static str, String)> {
    let TrainManifest { model, data, .. } = manifest;
    let mut rows = vec![
        ("engraft", format!("{} on {}, seed {}", manifest.engraft, manifest.system, manifest.seed)),
        ("settings", manifest.settings.clone()),
        ("model", format!("{} ({}) on {}, {}", model.path, model.hash, model.device, model.runtime)),
        (
            "data",
            format!(
                "{}: {} records to learn from, {} for validation, {} texts",
                data.hash, data.train, data.validation, data.texts
            ),
        ),
    ];
    for file in &data.files {
        let skipped = match file.skipped.len() {
            0 => String::new(),
            n => format!(", {n} skipped"),
        };
        rows.push(("file", format!("{}, {} ({}), {}{skipped}", file.path, file.kind, file.hash, file.records)));
    }
    let warning = manifest.overlap.warning();
    rows.push(("overlap", warning.unwrap_or_else(|| "none with the evaluation of this experiment".to_owned())));
    for method in &manifest.methods {
        let params: Vec<_> = method.params.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let params = params.join(", ");
        rows.push((
            "method",
            format!("{}: {} {} ({}); {params}", method.label, method.plugin, method.version, method.hash),
        ));
    }
    rows
}

/// A course as a row of bars.
fn bars(course: &Course) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let points = thinned(course, 40);
    let low = points.iter().map(|&(_, v)| v).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|&(_, v)| v).fold(f64::NEG_INFINITY, f64::max);
    let bar = |&(_, v): &(u64, f64)| {
        let share = if high > low { (v - low) / (high - low) } else { 0.0 };
        BARS[((share * 7.0).round() as usize).min(7)]
    };
    points.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_is_drawn_in_forty_bars_at_most() {
        let falling: Course = (0..400).map(|s| (s, -(s as f64))).collect();
        let drawn = bars(&falling);
        assert_eq!(drawn.chars().count(), 40);
        assert!(drawn.starts_with('█') && drawn.ends_with('▁'));
        assert_eq!(bars(&vec![(1, 2.0), (2, 2.0)]), "▁▁");
    }
}
