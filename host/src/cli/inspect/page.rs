//! An anatomy as one web page for people who would rather look: no scripts, nothing from elsewhere, readable in light
//! and dark, every part with its evidence.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::drawing;
use super::{Found, facts, share};
use crate::anatomy::{Kind, Row, Table};

/// The look of the page; the colours follow the reader's system.
const STYLE: &str = include_str!("page.css");

/// Blocks from this number on are folded.
const OPEN: usize = 1;

/// The page of what was found.
pub(super) fn draw(model: &str, found: &Found) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, model, found);
    out
}

fn write(out: &mut String, model: &str, found: &Found) -> std::fmt::Result {
    let table = &found.anatomy;
    let title = escaped(model);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Anatomy of {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Anatomy of <code>{title}</code></h1>\n"
    )?;
    for fact in facts(table) {
        writeln!(out, "<p>{}</p>", escaped(&fact))?;
    }
    checks(out, found)?;
    writeln!(
        out,
        "<p class=\"legend\"><span class=\"key site\">site</span> an activation, <span class=\"key weight\">weight</span> \
         a parameter <code>[in, out]</code>, <span class=\"key absent\">absent</span> with its reason below. Point at a \
         part for its edge and its evidence. Layers count from 0.</p>"
    )?;
    drawing::overview(out, table)?;
    writeln!(out, "<h2>Before and after the blocks</h2>")?;
    listing(out, &outside(table))?;
    for layer in 0..table.layers {
        let open = if layer < OPEN { " open" } else { "" };
        let rows = inside(table, layer);
        let missing = rows.values().filter(|row| row.edge.is_none()).count();
        let note = if missing > 0 { format!(" <small>{missing} parts absent</small>") } else { String::new() };
        writeln!(out, "<details id=\"block-{layer}\"{open}><summary>blocks.{layer}{note}</summary>")?;
        drawing::block(out, layer, &rows, found.shared_norms.contains(&layer))?;
        listing(out, &rows.values().copied().collect::<Vec<_>>())?;
        writeln!(out, "</details>")?;
    }
    absences(out, table)?;
    writeln!(out, "<footer>Drawn by engraft {}.</footer>\n</body>\n</html>", env!("CARGO_PKG_VERSION"))
}

/// What the checks gave, where they were made.
fn checks(out: &mut String, found: &Found) -> std::fmt::Result {
    let Some(identities) = &found.identities else { return Ok(()) };
    writeln!(out, "<h2>Checks</h2>")?;
    if let Some(worst) = found.worst() {
        writeln!(
            out,
            "<p>{} identities hold; the largest error is {:.2e} of its scale, in <code>{}</code>.</p>",
            identities.len(),
            share(worst),
            escaped(worst.identity)
        )?;
    }
    writeln!(out, "<details><summary>Identities</summary><table><tr><th>where<th>identity<th>error<th>scale</tr>")?;
    for d in identities {
        let at = d.layer.map_or(String::new(), |l| format!("blocks.{l}"));
        writeln!(out, "<tr><td>{at}<td>{}<td>{:.2e}<td>{:.2e}</tr>", escaped(d.identity), d.error, d.scale)?;
    }
    writeln!(out, "</table></details>")?;
    let Some(nudges) = &found.gradients else { return Ok(()) };
    writeln!(
        out,
        "<details><summary>Gradients beside finite differences</summary>\
         <table><tr><th>of<th>nudged<th>gradient says<th>loss does<th>difference</tr>"
    )?;
    for n in nudges {
        let difference = n.difference.map_or("below rounding".into(), |d| format!("{d:.1e}"));
        writeln!(
            out,
            "<tr><td><code>{}</code><td>{} values {}<td>{:.3e}<td>{:.3e}<td>{difference}</tr>",
            escaped(&n.name),
            n.values,
            n.along,
            n.claimed,
            n.measured
        )?;
    }
    writeln!(out, "</table></details>")
}

/// The parts of a block by their name in it.
fn inside(table: &Table, layer: usize) -> BTreeMap<usize, &Row> {
    let head = format!("blocks.{layer}.");
    table.rows.iter().enumerate().filter(|(_, row)| row.name.starts_with(&head)).collect()
}

/// The parts outside of every block.
fn outside(table: &Table) -> Vec<&Row> {
    table.rows.iter().filter(|row| !row.name.starts_with("blocks.")).collect()
}

fn listing(out: &mut String, rows: &[&Row]) -> std::fmt::Result {
    writeln!(out, "<table><tr><th>name<th>shape<th>edge<th>evidence, or why it is absent</tr>")?;
    for row in rows {
        let kind = match (&row.edge, row.kind) {
            (None, _) => "absent",
            (_, Kind::Site) => "site",
            (_, Kind::Weight) => "weight",
        };
        writeln!(
            out,
            "<tr class=\"{kind}\" id=\"{0}\"><td><code>{0}</code><td>{1}<td>{2}<td>{3}</tr>",
            escaped(&row.name),
            escaped(&row.shape),
            escaped(row.edge.as_deref().unwrap_or("absent")),
            escaped(&row.evidence)
        )?;
    }
    writeln!(out, "</table>")
}

/// What is absent, by its reason: alike in all blocks is said once.
fn absences(out: &mut String, table: &Table) -> std::fmt::Result {
    let mut reasons: BTreeMap<(String, &str), Vec<usize>> = BTreeMap::new();
    for row in table.rows.iter().filter(|row| row.edge.is_none()) {
        let block = row.name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let (name, layer) = match block.and_then(|(layer, name)| Some((name, layer.parse::<usize>().ok()?))) {
            Some((name, layer)) => (format!("blocks.*.{name}"), Some(layer)),
            None => (row.name.clone(), None),
        };
        reasons.entry((name, row.evidence.as_str())).or_default().extend(layer);
    }
    writeln!(out, "<h2>Absent</h2>")?;
    if reasons.is_empty() {
        return writeln!(out, "<p>Nothing is.</p>");
    }
    writeln!(out, "<table><tr><th>name<th>blocks<th>reason</tr>")?;
    for ((name, reason), layers) in reasons {
        let blocks = match layers.len() {
            0 => String::new(),
            n if n == table.layers => "all".to_owned(),
            _ => layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        writeln!(
            out,
            "<tr class=\"absent\"><td><code>{}</code><td>{blocks}<td>{}</tr>",
            escaped(&name),
            escaped(reason)
        )?;
    }
    writeln!(out, "</table>")
}

/// Text in which nothing is markup.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name from a file cannot become markup, and parts that are alike are said once.
    #[test]
    fn names_stay_text_and_absences_alike_are_one_line() {
        let row = |name: &str, edge: Option<&str>, evidence: &str| Row {
            name: name.into(),
            kind: Kind::Site,
            shape: "[batch, pos, 8]".into(),
            edge: edge.map(str::to_owned),
            evidence: evidence.into(),
        };
        let anatomy = Table {
            layers: 2,
            d_model: 8,
            d_mlp: 8,
            heads: 1,
            kv_heads: 1,
            d_head: 8,
            vocab: 8,
            context: None,
            ids: "<script>alert(1)</script>".into(),
            mask: None,
            positions: None,
            cache: Vec::new(),
            rows: vec![
                row("embed", Some("\"><img src=x>"), "a < b & c"),
                row("blocks.0.mlp.pre_linear", None, "no gate"),
                row("blocks.1.mlp.pre_linear", None, "no gate"),
            ],
        };
        let shared_norms = std::collections::BTreeSet::new();
        let found = Found { anatomy, problems: vec![], identities: None, gradients: None, shared_norms };
        let page = draw("m'<b>", &found);
        for markup in ["<script", "<img", "<b>", "src=\"", "http:", "https:", "url("] {
            assert!(!page.contains(markup), "{markup}");
        }
        assert!(page.contains("a &lt; b &amp; c") && page.contains("m&#39;&lt;b&gt;"), "{page}");
        assert!(page.contains("<code>blocks.*.mlp.pre_linear</code><td>all<td>no gate"), "{page}");
    }
}
