//! Whether attention looks back only: a decoder's masks compare positions with each other, or read a table of them.

use crate::anatomy::look::region::Region;
use crate::anatomy::look::view::View;
use crate::graph::Node;

/// Operators that tell earlier from later positions.
const ORDERS: [&str; 5] = ["Trilu", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"];

/// True if what `node`, a softmax or a whole attention, reads besides queries and keys can tell positions apart.
pub(super) fn looks_back<'g>(view: &View<'g>, region: &Region<'g>, node: &'g Node) -> bool {
    if node.int("is_causal") == Some(1) {
        return true;
    }
    let mask = if node.is("Softmax") { node.input(0) } else { node.input(3) };
    let Some(mask) = mask else { return false };
    let mut found = false;
    view.upstream(mask, |edge| {
        let made = view.producer(edge);
        // A table of the file in queries and keys.
        let fixed = match made {
            Some(node) => node.is("Constant"),
            None => view.graph.initializer(edge).is_some(),
        };
        let table =
            || view.dims(edge).is_some_and(|d| d.iter().rev().take(2).filter(|d| d.known() != Some(1)).count() == 2);
        found |= made.is_some_and(|n| ORDERS.iter().any(|op| n.is(op))) || fixed && table();
        // What is computed from the stream is scores, up to their product.
        found || region.has(edge) && made.is_none_or(|n| n.is("MatMul") || n.is("Einsum"))
    });
    found
}
