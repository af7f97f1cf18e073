//! Inputs that are not understood: what each seems to be, what was expected in its place, and what to do.

use super::{masks, turns};
use crate::anatomy::codes;
use crate::anatomy::ends::Embedding;
use crate::anatomy::look::view::View;
use crate::anatomy::pieces::linear::Linears;
use crate::anatomy::table::words;
use crate::base::Error;
use crate::graph::{DType, Port};

const OTHERS: &str = "export the decoder so that it takes token ids and at most a padding mask, positions and cached keys \
                      and values besides; without a cache where it is joined in another way (`use_cache=False`)";

/// The error that names them.
pub(super) fn problem<'g>(view: &View<'g>, linears: &Linears<'g>, embedding: &Embedding<'g>, unread: &[Port]) -> Error {
    let found: Vec<(String, Option<&str>)> =
        unread.iter().map(|input| describe(view, linears, embedding, input)).collect();
    let names: Vec<&str> = found.iter().map(|(text, _)| text.as_str()).collect();
    let text = format!("the graph has inputs that are not read: {}", names.join("; "));
    let advice = found.iter().find_map(|(_, advice)| *advice).unwrap_or(OTHERS);
    Error::new(&codes::INPUT_UNREAD, text).help(advice)
}

/// An input in words, and what to do about it where that can be said.
fn describe<'g>(
    view: &View<'g>,
    linears: &Linears<'g>,
    embedding: &Embedding<'g>,
    input: &Port,
) -> (String, Option<&'static str>) {
    let dims = input.dims.as_ref();
    let rank = dims.map(Vec::len);
    let shape = dims.map_or("of unknown rank".to_owned(), |d| words(d));
    let name = format!("`{}` ({} {shape})", input.name, input.dtype.name());
    let whole = input.dtype == DType::I64 || input.dtype == DType::I32;
    let places = || {
        let mut found = turns(view, &input.name);
        if let Some(table) = &embedding.positions {
            view.upstream(table.index, |edge| {
                found |= edge == input.name;
                found
            });
        }
        found
    };
    let hides = masks(view, linears, embedding, &input.name);
    match rank {
        Some(1) if whole && places() => (
            format!("{name} numbers the positions of all rows at once, expected those of each row, [batch, pos]"),
            Some("export the decoder with positions for each row, [batch, pos], in its place"),
        ),
        Some(1) if whole && hides => (
            format!("{name} says how long each row is, expected a padding mask [batch, pos] of 1 and 0"),
            Some("export the decoder with a padding mask, [batch, pos], in its place"),
        ),
        Some(3 | 4) if hides => (
            format!("{name} is the mask of each query and key, expected the padding mask [batch, pos] of 1 and 0"),
            Some("export the decoder with a padding mask, [batch, pos], of which it makes the other one inside"),
        ),
        Some(0 | 1) if input.dtype == DType::BOOL => (
            format!("{name} switches between two graphs in one file"),
            Some(
                "export the decoder with cached keys and values (or the one without) as a file of its own, without a switch",
            ),
        ),
        _ => (name, None),
    }
}
