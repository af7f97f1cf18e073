//! The inputs of the graph by how they are used: token ids, positions, padding mask, cached keys and
//! values; anything else is refused by name (`unread`), and so is a mask that hides what it is 1 for (`sense`).

mod cache;
mod sense;
mod unread;

use std::collections::HashSet;

use super::codes;
use super::ends::Embedding;
use super::look::view::View;
use super::parts::{Fixed, Inputs};
use super::pieces::linear::Linears;
use crate::base::{Error, Result};
use sense::Sense;

/// Names the inputs.
pub(super) fn read<'g>(
    view: &View<'g>,
    linears: &Linears<'g>,
    embedding: &Embedding<'g>,
    layers: usize,
) -> Result<Inputs> {
    let mut found = Inputs { ids: embedding.tokens.origin.to_owned(), ..Inputs::default() };
    let mut unread = Vec::new();
    for input in view.graph.inputs() {
        if input.name == found.ids {
            continue;
        }
        let flat = input.dims.as_ref().is_some_and(|d| d.len() == 2);
        let table = embedding.positions.as_ref().is_some_and(|t| t.origin == input.name);
        if flat && view.readers(&input.name).is_empty() {
            found.idle.push(input.name);
            continue;
        }
        let (place, what) = if table || flat && turns(view, &input.name) {
            (&mut found.positions, "give positions")
        } else if flat && masks(view, linears, embedding, &input.name) {
            (&mut found.mask, "feed only the attention mask")
        } else {
            unread.push(input);
            continue;
        };
        if let Some(other) = place {
            let text = format!("`{other}` and `{}` both {what}", input.name);
            return Err(Error::new(&codes::AMBIGUOUS, text));
        }
        *place = Some(input.name);
    }
    if let Some(mask) = found.mask.as_deref().and_then(|name| view.edge(name)) {
        unlike(mask, sense::sense(view, mask))?;
    }
    found.cache = cache::read(view, layers, &unread)?;
    unread.retain(|input| found.cache.iter().all(|port| port.past != input.name));
    if unread.is_empty() {
        found.fixed = fixed(view, &found);
        return Ok(found);
    }
    Err(unread::problem(view, linears, embedding, &unread))
}

/// Refuses a mask that does not keep what it is 1 for and hide what it is 0 for.
fn unlike(mask: &str, sense: Sense) -> Result<()> {
    let text = match sense {
        Sense::Keeps | Sense::Unclear => return Ok(()),
        Sense::Hides(node) => format!("the mask `{mask}` hides from {node} the tokens for which it is 1"),
        Sense::Nothing(node) => format!("the mask `{mask}` hides no token from {node}, whether it is 0 or 1"),
    };
    let text = format!("{text}: expected 1 where a token is and 0 in the padding");
    let advice =
        "export the decoder with a mask of that kind, turned around or scaled inside where the model wants another";
    Err(Error::new(&codes::INPUT_UNREAD, text).help(advice))
}

/// The extents that the file fixes for a batch. Beside a cache, a mask is as long as what is cached, too.
fn fixed(view: &View<'_>, found: &Inputs) -> [Option<Fixed>; 2] {
    let ports = view.graph.inputs();
    let read = [Some(&found.ids), found.positions.as_ref(), found.mask.as_ref()].into_iter().flatten();
    let read: Vec<_> = read.chain(&found.idle).filter_map(|name| ports.iter().find(|p| p.name == *name)).collect();
    [0, 1].map(|axis| {
        let whole = |name: &str| axis == 0 || found.cache.is_empty() || found.ids == name;
        read.iter().filter(|port| whole(&port.name)).find_map(|port| {
            let extent = port.dims.as_ref()?.get(axis)?.known()?;
            Some(Fixed { input: port.name.clone(), extent })
        })
    })
}

/// True if an input's values reach the angles of a rotary embedding: a sine, rows of a table that holds sines, or the
/// operator's own positions.
fn turns(view: &View<'_>, input: &str) -> bool {
    const ONWARD: [&str; 15] = [
        "Identity",
        "Cast",
        "Slice",
        "Tile",
        "GatherND",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Expand",
        "Transpose",
        "Mul",
        "MatMul",
        "Einsum",
        "Concat",
        "Add",
    ];
    let mut seen = HashSet::new();
    let mut stack = vec![input.to_owned()];
    while let Some(edge) = stack.pop() {
        for (node, slot) in view.readers(&edge) {
            let gathers = ["Gather", "GatherElements", "GatherND"].iter().any(|op| node.is(op)) && slot == 1;
            let table = || node.input(0).and_then(|e| view.edge(e)).is_some_and(|e| view.is_fixed(e));
            if node.is("Sin") || node.is("RotaryEmbedding") && slot == 3 || gathers && table() {
                return true;
            }
            if ONWARD.iter().any(|op| node.is(op)) && seen.insert(node.output(0)) {
                stack.push(node.output(0).to_owned());
            }
        }
    }
    false
}

/// True if an input's values reach the rest of the graph only through attention weights, and the positions.
fn masks(view: &View<'_>, linears: &Linears<'_>, embedding: &Embedding<'_>, input: &str) -> bool {
    let positions = embedding.positions.as_ref().map(|t| t.output);
    let operands: HashSet<&str> = linears.all.iter().flat_map(|l| [l.operand, l.input]).collect();
    let mut reached = false;
    let mut seen = HashSet::new();
    let mut stack = vec![input.to_owned()];
    while let Some(edge) = stack.pop() {
        if operands.contains(edge.as_str()) {
            return false;
        }
        for (node, _) in view.readers(&edge) {
            if node.is("Softmax") || node.op().contains("Attention") {
                reached = true;
            } else if positions != Some(node.output(0)) {
                let new = node.outputs().iter().filter(|o| !o.is_empty());
                stack.extend(new.filter(|o| seen.insert(o.as_str())).cloned());
            }
        }
    }
    reached
}
