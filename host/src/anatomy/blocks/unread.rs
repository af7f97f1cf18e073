//! What keeps a branch from being read although its structure is clear: weights in whole numbers, and adapters whose
//! low-rank product is added beside a projection.

use super::branch::factor;
use crate::anatomy::look::region::Region;
use crate::anatomy::look::view::View;
use crate::anatomy::pieces::linear::{Linear, Linears};
use crate::graph::Node;

/// A reason with what else is known of it.
pub(super) fn because<'g>(view: &View<'g>, linears: &Linears<'g>, region: &Region<'g>, reason: String) -> String {
    let quantised = || region.nodes(view).find(|node| view.is_quantised(node));
    if let Some(node) = quantised() {
        let label = node.label();
        return format!(
            "{reason}; {label} multiplies with quantised weights, which are not edited: take the float export"
        );
    }
    match region.nodes(view).find_map(|node| adapter(view, linears, node)) {
        Some((projection, low)) => format!(
            "{reason}; to `{}` a product of the low rank {} is added, as by an adapter (LoRA): merge it into the weight \
             before the export",
            projection.output, low.width_out
        ),
        None => reason,
    }
}

/// True if an adapter's product is added to a projection in a region.
pub(super) fn adapted<'g>(view: &View<'g>, linears: &Linears<'g>, region: &Region<'g>) -> bool {
    region.nodes(view).any(|node| adapter(view, linears, node).is_some())
}

/// For the sum of a projection and a low-rank product: the projection, and the first factor of the product.
fn adapter<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    node: &'g Node,
) -> Option<(&'l Linear<'g>, &'l Linear<'g>)> {
    if !node.is("Add") {
        return None;
    }
    let [a, b] = [0, 1].map(|slot| made(view, linears, node.input(slot)?));
    let low = |second: &Linear<'g>| {
        let first = made(view, linears, second.operand)?;
        (first.width_out < first.width_in.min(second.width_out)).then_some(first)
    };
    let (a, b) = (a?, b?);
    low(b).map(|first| (a, first)).or_else(|| low(a).map(|first| (b, first)))
}

/// The linear map that makes an edge, perhaps times a number.
fn made<'l, 'g>(view: &View<'g>, linears: &'l Linears<'g>, edge: &'g str) -> Option<&'l Linear<'g>> {
    let mut at = edge;
    loop {
        if let Some(linear) = linears.making(at) {
            return Some(linear);
        }
        let node = view.producer(at)?;
        at = view.relayed(node).or_else(|| factor(view, node))?;
    }
}
