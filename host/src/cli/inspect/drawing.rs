//! The drawings of the page: the whole decoder, and one block with its residual stream, attention and MLP. A part that
//! is absent stands where it would be, in dashes.

use std::collections::BTreeMap;
use std::fmt::{Result, Write as _};

use super::page::escaped;
use crate::anatomy::{Kind, Row, Table};

/// The parts of a drawing by their name in it.
type Parts<'a> = BTreeMap<&'a str, &'a Row>;

/// Where the residual stream runs.
const STREAM: i32 = 76;
/// The columns of a block, from the stream to the right: norm, weights, activations, mixing, input of the last
/// weight, that weight, its output, what is added.
const COLUMNS: [i32; 8] = [216, 356, 492, 630, 768, 904, 1036, 1172];
/// How many blocks of the overview stand in a row.
const ABREAST: usize = 16;

/// The whole decoder: what enters, the blocks as links, what leaves.
pub(super) fn overview(out: &mut String, table: &Table) -> Result {
    let parts: Parts<'_> = table.rows.iter().map(|row| (row.name.as_str(), row)).collect();
    let lines = table.layers.div_ceil(ABREAST) as i32;
    let (first, last) = (92, 92 + lines * 44);
    writeln!(out, "<svg viewBox=\"0 0 1250 {}\" role=\"img\" aria-label=\"the whole decoder\">", last + 62)?;
    wire(out, &[(70, 38), (370, 38), (370, 74), (4, 74), (4, last + 34), (820, last + 34)])?;
    for (at, name) in ["W_E", "W_pos", "embed"].into_iter().enumerate() {
        chip(out, &parts, name, name, 70 + 150 * at as i32, 38)?;
    }
    for line in 0..lines {
        let end = (table.layers as i32 - line * ABREAST as i32).min(ABREAST as i32);
        wire(out, &[(4, first + 44 * line + 16), (76 * end - 40, first + 44 * line + 16)])?;
    }
    for layer in 0..table.layers {
        let head = format!("blocks.{layer}.");
        let own = || table.rows.iter().filter(|row| row.name.starts_with(&head));
        let count = |kind: Kind| own().filter(|row| row.kind == kind && row.edge.is_some()).count();
        let (x, y) = (11 + 76 * (layer % ABREAST) as i32, first + 44 * (layer / ABREAST) as i32);
        let absent = own().filter(|row| row.edge.is_none()).count();
        writeln!(
            out,
            "<a href=\"#block-{layer}\"><title>blocks.{layer}: {} sites, {} weights, {absent} absent</title>\
             <rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"68\" height=\"32\" rx=\"5\"/>\
             <text x=\"{}\" y=\"{}\">{layer}</text></a>",
            count(Kind::Site),
            count(Kind::Weight),
            x + 34,
            y + 20
        )?;
    }
    for (at, name) in ["ln_final.w", "ln_final.b", "ln_final.out", "W_U", "b_U", "logits"].into_iter().enumerate() {
        chip(out, &parts, name, name, 70 + 150 * at as i32, last + 34)?;
    }
    writeln!(out, "</svg>")
}

/// One block; with a shared norm, its MLP reads what attention reads.
pub(super) fn block(out: &mut String, layer: usize, rows: &BTreeMap<usize, &Row>, shared_norm: bool) -> Result {
    let head = format!("blocks.{layer}.");
    let parts: Parts<'_> =
        rows.values().filter_map(|row| row.name.strip_prefix(&head).map(|name| (name, *row))).collect();
    let there = |name: &str| parts.get(name).is_some_and(|row| row.edge.is_some());
    writeln!(out, "<svg viewBox=\"0 0 1250 600\" role=\"img\" aria-label=\"block {layer}\">")?;
    writeln!(out, "<path class=\"stream\" d=\"M{STREAM} 4 V596\"/>")?;
    for (top, height, name) in [(52, 212, "attention"), (346, 170, "MLP")] {
        writeln!(
            out,
            "<rect class=\"box\" x=\"144\" y=\"{top}\" width=\"1098\" height=\"{height}\" rx=\"8\"/>\
             <text class=\"name\" x=\"{}\" y=\"{}\">{name}</text>",
            COLUMNS[0],
            top + 22
        )?;
    }
    let [norm, weights, made, mixed, read, last, own, added] = COLUMNS;

    // Attention: the stream is normed, projected, mixed, projected and added.
    wire(out, &[(STREAM, 158), (norm, 158), (made, 158), (read, 158), (added, 158)])?;
    for y in [98, 218] {
        wire(out, &[(norm, 158), (norm + 62, y), (made, y), (made + 62, y), (read, 158)])?;
    }
    wire(out, &[(added, 158), (added, 284), (STREAM, 284)])?;
    for (letter, y) in [("Q", 98), ("K", 158), ("V", 218)] {
        pair(out, &parts, [&format!("attn.W_{letter}"), &format!("attn.b_{letter}")], weights, y)?;
        let small = letter.to_lowercase();
        chip(out, &parts, &format!("attn.{small}"), &small, made, y)?;
    }
    chip(out, &parts, "ln1.out", "ln1.out", norm, 158)?;
    pair(out, &parts, ["ln1.w", "ln1.b"], norm, 212)?;
    chip(out, &parts, "attn.q_norm.w", "q_norm.w", mixed, 98)?;
    chip(out, &parts, "attn.pattern", "pattern", mixed, 128)?;
    chip(out, &parts, "attn.k_norm.w", "k_norm.w", mixed, 158)?;
    chip(out, &parts, "attn.z", "z", read, 158)?;
    pair(out, &parts, ["attn.W_O", "attn.b_O"], last, 158)?;
    chip(out, &parts, "attn.out", "attn.out", own, 158)?;
    chip(out, &parts, "ln1_post.w", "ln1_post.w", added, 128)?;
    chip(out, &parts, "attn_out", "attn_out", added, 158)?;

    // The MLP reads the norm before attention, the stream after attention, or, where there is no such place, before it.
    if shared_norm {
        wire(out, &[(norm - 62, 170), (133, 170), (133, 438), (norm, 438)])?;
    } else if there("resid_mid") {
        wire(out, &[(STREAM, 438), (norm, 438)])?;
    } else {
        wire(out, &[(STREAM, 60), (8, 60), (8, 438), (norm, 438)])?;
    }
    wire(out, &[(norm, 438), (norm + 62, 408), (made + 62, 408), (read, 438), (added, 438)])?;
    wire(out, &[(added, 438), (added, 534), (STREAM, 534)])?;
    let gated = there("mlp.W_gate") || there("mlp.pre_linear");
    let (above, below) = (["mlp.W_gate", "mlp.b_gate"], ["mlp.W_in", "mlp.b_in"]);
    let [above, below] = if gated { [above, below] } else { [below, above] };
    if gated {
        wire(out, &[(norm, 438), (norm + 62, 474), (made + 62, 474), (read, 438)])?;
    }
    pair(out, &parts, above, weights, 408)?;
    pair(out, &parts, below, weights, 474)?;
    chip(out, &parts, "mlp.pre", "pre", made, 408)?;
    chip(out, &parts, "mlp.pre_linear", "pre_linear", made, 474)?;
    chip(out, &parts, "ln2.out", "ln2.out", norm, 438)?;
    pair(out, &parts, ["ln2.w", "ln2.b"], norm, 488)?;
    chip(out, &parts, "mlp.post", "post", read, 438)?;
    pair(out, &parts, ["mlp.W_out", "mlp.b_out"], last, 438)?;
    chip(out, &parts, "mlp.out", "mlp.out", own, 438)?;
    chip(out, &parts, "ln2_post.w", "ln2_post.w", added, 408)?;
    chip(out, &parts, "mlp_out", "mlp_out", added, 438)?;

    for (name, y) in [("resid_pre", 24), ("resid_mid", 318), ("resid_post", 572)] {
        chip(out, &parts, name, name, STREAM, y)?;
    }
    for y in [284, 534] {
        writeln!(
            out,
            "<circle class=\"sum\" cx=\"{STREAM}\" cy=\"{y}\" r=\"9\"/><text x=\"{STREAM}\" y=\"{}\">+</text>",
            y + 4
        )?;
    }
    writeln!(out, "</svg>")
}

/// A weight above its bias.
fn pair(out: &mut String, parts: &Parts<'_>, [weight, bias]: [&str; 2], x: i32, y: i32) -> Result {
    for (name, y) in [(weight, y - 11), (bias, y + 11)] {
        let Some(row) = parts.get(name) else { continue };
        let short = name.rsplit_once('.').map_or(name, |(_, short)| short);
        let short = if matches!(short, "w" | "b") { name } else { short };
        let text = escaped(&format!("{short} {}", row.shape));
        open(out, row)?;
        writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"124\" height=\"20\" rx=\"4\"/>\
             <text class=\"small\" x=\"{x}\" y=\"{}\">{text}</text></a>",
            x - 62,
            y - 10,
            y + 4
        )?;
    }
    Ok(())
}

/// A site, or a weight that stands alone.
fn chip(out: &mut String, parts: &Parts<'_>, name: &str, short: &str, x: i32, y: i32) -> Result {
    let Some(row) = parts.get(name) else { return Ok(()) };
    let shape = if row.edge.is_some() { row.shape.as_str() } else { "absent" };
    open(out, row)?;
    writeln!(
        out,
        "<rect x=\"{}\" y=\"{}\" width=\"124\" height=\"38\" rx=\"6\"/><text x=\"{x}\" y=\"{}\">{}</text>\
         <text class=\"shape\" x=\"{x}\" y=\"{}\">{}</text></a>",
        x - 62,
        y - 19,
        y - 2,
        escaped(short),
        y + 12,
        escaped(shape)
    )
}

/// The beginning of a part: a link to its line of the listing, with everything about it for whoever points at it.
fn open(out: &mut String, row: &Row) -> Result {
    let class = match (&row.edge, row.kind) {
        (None, _) => "absent",
        (_, Kind::Site) => "site",
        (_, Kind::Weight) => "weight",
    };
    let edge = row.edge.as_deref().unwrap_or("absent");
    let about = escaped(&format!("{} {}\n{edge}\n{}", row.name, row.shape, row.evidence));
    write!(out, "<a class=\"{class}\" href=\"#{}\"><title>{about}</title>", escaped(&row.name))
}

fn wire(out: &mut String, points: &[(i32, i32)]) -> Result {
    let mut path = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        write!(path, "{}{x} {y}", if i == 0 { "M" } else { " L" })?;
    }
    writeln!(out, "<path class=\"wire\" d=\"{path}\"/>")
}
