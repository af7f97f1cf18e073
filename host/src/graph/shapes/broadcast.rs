//! The shapes of operands that broadcast against each other, and of products.

use super::Fact;
use super::extent::{Extent, is_unnamed};
use crate::base::Hash;
use crate::graph::Dim;

/// The shape of several operands together.
pub(super) fn all<'a>(mut facts: impl Iterator<Item = &'a Fact>) -> Option<Vec<Dim>> {
    let first = facts.next()?.dims.clone()?;
    facts.try_fold(first, |all, fact| pair(&all, fact.dims.as_deref()?))
}

/// Numpy's rule. Beside a number other than one, a symbol is that number or one, and beside a named extent one that
/// nothing is known of is that extent or one: the result is what is known. Two names that differ may be equal in a
/// run, or either of them one; the result is then an extent of its own, the same for the same two names.
pub(super) fn pair(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let of = |dims: &[Dim], i: usize| (i + dims.len()).checked_sub(rank).map_or(Dim::Known(1), |i| dims[i].clone());
    let one = |i: usize| match (of(a, i), of(b, i)) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => Some(other),
        (Dim::Known(x), Dim::Known(y)) => (x == y).then_some(Dim::Known(x)),
        (known @ Dim::Known(_), Dim::Symbol(_)) | (Dim::Symbol(_), known @ Dim::Known(_)) => Some(known),
        (Dim::Symbol(x), Dim::Symbol(y)) if x == y => Some(Dim::Symbol(x)),
        (Dim::Symbol(x), Dim::Symbol(y)) => Some(match (is_unnamed(&x), is_unnamed(&y)) {
            (true, false) => Dim::Symbol(y),
            (false, true) => Dim::Symbol(x),
            _ => Extent::unknown(&if x < y { either(&x, &y) } else { either(&y, &x) }).dim(),
        }),
    };
    (0..rank).map(one).collect()
}

/// A name for the extent that two others make, of bounded length.
fn either(x: &str, y: &str) -> String {
    const LONGEST: usize = 96;
    let name = format!("({x}|{y})");
    if name.len() <= LONGEST { name } else { format!("({})", Hash::of_parts([x, y])) }
}

pub(super) fn matmul(a: &Fact, b: &Fact) -> Option<Vec<Dim>> {
    let (a, b) = (a.dims.as_ref()?, b.dims.as_ref()?);
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return None;
    }
    let mut out = pair(&a[..n.saturating_sub(2)], &b[..m.saturating_sub(2)])?;
    if n > 1 {
        out.push(a[n - 2].clone());
    }
    if m > 1 {
        out.push(b[m - 1].clone());
    }
    Some(out)
}
