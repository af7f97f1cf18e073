//! `report.md`: the tables of every regime, the protocol they stand on, and a few cases with their text.

use std::fmt::Write as _;

use comfy_table::presets::ASCII_MARKDOWN;

use super::case::{CaseLine, Stage};
use super::manifest::Manifest;
use super::summary::Summary;
use super::table::table;
use crate::metrics::Regime;

/// How many cases of a method are shown.
const SHOWN: usize = 5;

/// The report of a run.
pub fn markdown(manifest: &Manifest, summary: &Summary, lines: &[CaseLine]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, manifest, summary, lines);
    out
}

fn write(out: &mut String, manifest: &Manifest, summary: &Summary, lines: &[CaseLine]) -> std::fmt::Result {
    writeln!(out, "# {}\n", plain(&manifest.name))?;
    writeln!(
        out,
        "{} edits, {} records, begun {}. Means are over the cases that did not fail; failed and skipped ones are \
         counted beside them.\n",
        manifest.mode, manifest.data.records, manifest.started
    )?;
    for regime in Regime::ALL {
        writeln!(out, "## {}\n\n{}\n", regime.name(), regime.summary())?;
        writeln!(out, "{}\n", table(summary, regime, ASCII_MARKDOWN))?;
    }
    protocol(out, manifest)?;
    writeln!(out, "## Cases\n")?;
    for (index, method) in manifest.methods.iter().enumerate() {
        cases(out, &method.label, lines.iter().filter(|line| line.method == index))?;
    }
    if !manifest.data.skipped.is_empty() {
        writeln!(out, "## Skipped records\n")?;
        for skipped in &manifest.data.skipped {
            writeln!(out, "- record {} (id {}): {}", skipped.index, plain(&skipped.id), plain(&skipped.reason))?;
        }
    }
    Ok(())
}

fn protocol(out: &mut String, manifest: &Manifest) -> std::fmt::Result {
    let Manifest { model, data, .. } = manifest;
    writeln!(out, "## Protocol\n")?;
    writeln!(out, "- engraft {} on {}, seed {}", manifest.engraft, manifest.system, manifest.seed)?;
    writeln!(out, "- settings `{}`", manifest.settings)?;
    writeln!(out, "- model {} (`{}`) on {}, {}", code(&model.path), model.hash, model.device, plain(&model.runtime))?;
    writeln!(out, "- data {}, kind {} (`{}`)", code(&data.path), data.kind, data.hash)?;
    writeln!(out, "- scorer: {}", plain(&model.scorer))?;
    writeln!(out, "- text: {}", plain(&model.decoding))?;
    for method in &manifest.methods {
        let params: Vec<_> = method.params.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let params = if params.is_empty() { "no parameters".to_owned() } else { code(&params.join(", ")) };
        writeln!(
            out,
            "- method {}: {} {} (`{}`), {}; {params}",
            plain(&method.label),
            plain(&method.plugin),
            plain(&method.version),
            method.hash,
            method.family
        )?;
        if let Some(artefact) = &method.artefact {
            writeln!(
                out,
                "  - artefact {} (`{}`), trained on the data `{}`",
                code(&artefact.path),
                artefact.hash,
                artefact.data
            )?;
            if let Some(warning) = artefact.overlap.warning() {
                writeln!(out, "  - **warning:** {warning}")?;
            }
        }
    }
    writeln!(out)
}

/// The first cases with their text, and the first failed ones.
fn cases<'a>(out: &mut String, label: &str, lines: impl Iterator<Item = &'a CaseLine>) -> std::fmt::Result {
    let (failed, done): (Vec<_>, Vec<_>) = lines.partition(|line| line.error.is_some());
    writeln!(out, "### {}\n", plain(label))?;
    let last = if done.iter().any(|line| line.stage == Stage::End) { Stage::End } else { Stage::Edit };
    let texts = done.iter().filter(|line| line.stage == last).filter_map(|line| Some((line, line.text.as_ref()?)));
    for (line, text) in texts.take(SHOWN) {
        let request = &line.request;
        writeln!(out, "- **{}** → {}", plain(&request.prompt), plain(&request.target_new))?;
        writeln!(out, "  - before: {}", code(&text.before))?;
        writeln!(out, "  - after: {}", code(&text.after))?;
    }
    for line in failed.iter().take(SHOWN) {
        let error = line.error.as_ref().map(|e| format!("[{}] {}", e.code, e.message)).unwrap_or_default();
        writeln!(out, "- failed: **{}**: {}", plain(&line.request.prompt), plain(&error))?;
    }
    writeln!(out)
}

/// Text in which nothing is Markdown, on one line.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '|' | '#' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text in code style, on one line: the fence is longer than any row of backticks inside.
pub(super) fn code(text: &str) -> String {
    let text: String = text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if longest > 0 || text.is_empty() { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_model_cannot_break_the_page() {
        assert_eq!(code("a `b`\nc"), "`` a `b`\\nc ``");
        assert_eq!(code(" it's \"so\""), "` it's \"so\"`");
        assert_eq!(plain("a|b\n<c>"), "a\\|b \\<c\\>");
    }
}
