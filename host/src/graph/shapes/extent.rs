//! Extents as integer polynomials of named symbols, in one normal form: `batch*sequence` is equal to
//! `sequence*batch`, and dividing it by `sequence` gives `batch` again.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::graph::container::Dim;

/// The prefix of symbols that stand for an extent nothing is known of.
const UNNAMED: &str = "?";

/// A product of symbols, sorted, repeated for powers.
type Monomial = Vec<Arc<str>>;

/// An extent, or an element of a small tensor of integers: a sum of products, leading term first, no zero terms.
///
/// Symbols stand for numbers of at least zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent(Vec<(Monomial, i64)>);

/// A monomial order: by degree, then with the first symbols as the greatest.
fn order(a: &Monomial, b: &Monomial) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| b.cmp(a))
}

impl Extent {
    /// A number.
    pub(super) fn number(n: i64) -> Self {
        Self(if n == 0 { Vec::new() } else { vec![(Vec::new(), n)] })
    }

    fn symbol(name: &str) -> Self {
        Self(vec![(vec![name.into()], 1)])
    }

    /// An extent that nothing is known of; equal hints are equal extents.
    pub(super) fn unknown(hint: &str) -> Self {
        Self::symbol(&format!("{UNNAMED}{hint}"))
    }

    /// Reads an extent as a file or [`Extent::dim`] writes it. What is not a sum of products of names and numbers is
    /// one opaque name.
    pub(super) fn of(dim: &Dim) -> Self {
        match dim {
            Dim::Known(n) => Self::number(i64::try_from(*n).unwrap_or(i64::MAX)),
            Dim::Symbol(name) => sum(name).unwrap_or_else(|| Self::symbol(name)),
        }
    }

    /// The number, if it is one.
    pub(super) fn known(&self) -> Option<i64> {
        match self.0.as_slice() {
            [] => Some(0),
            [(monomial, n)] if monomial.is_empty() => Some(*n),
            _ => None,
        }
    }

    fn collect(mut terms: Vec<(Monomial, i64)>) -> Option<Self> {
        terms.sort_by(|a, b| order(&b.0, &a.0));
        let mut out: Vec<(Monomial, i64)> = Vec::with_capacity(terms.len());
        for (monomial, n) in terms {
            match out.last_mut() {
                Some((last, total)) if *last == monomial => *total = total.checked_add(n)?,
                _ => out.push((monomial, n)),
            }
        }
        out.retain(|(_, n)| *n != 0);
        Some(Self(out))
    }

    /// The sum; `None` if a coefficient overflows.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        Self::collect(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// The negative.
    pub(super) fn negated(&self) -> Option<Self> {
        self.times(&Self::number(-1))
    }

    /// The difference.
    pub(super) fn minus(&self, other: &Self) -> Option<Self> {
        self.plus(&other.negated()?)
    }

    /// The product.
    pub(super) fn times(&self, other: &Self) -> Option<Self> {
        let mut terms = Vec::with_capacity(self.0.len() * other.0.len());
        for (a, m) in &self.0 {
            for (b, n) in &other.0 {
                let mut monomial: Monomial = a.iter().chain(b).cloned().collect();
                monomial.sort_unstable();
                terms.push((monomial, m.checked_mul(*n)?));
            }
        }
        Self::collect(terms)
    }

    /// The quotient, if the division leaves no rest.
    pub(super) fn over(&self, other: &Self) -> Option<Self> {
        let (lead, n) = other.0.first()?;
        let (mut rest, mut quotient) = (self.clone(), Self(Vec::new()));
        while let Some((monomial, m)) = rest.0.first() {
            if m.checked_rem(*n)? != 0 {
                return None;
            }
            let step = Self(vec![(without(monomial, lead)?, m.checked_div(*n)?)]);
            rest = rest.minus(&step.times(other)?)?;
            quotient = quotient.plus(&step)?;
        }
        Some(quotient)
    }

    /// The least and the greatest value it can have, where there is one.
    fn bounds(&self) -> (Option<i64>, Option<i64>) {
        let constant = self.0.last().filter(|(m, _)| m.is_empty()).map_or(0, |(_, n)| *n);
        let mut others = self.0.iter().filter(|(m, _)| !m.is_empty());
        let least = others.clone().all(|(_, n)| *n > 0).then_some(constant);
        let greatest = others.all(|(_, n)| *n < 0).then_some(constant);
        (least, greatest)
    }

    /// Whether this is equal to `other`, where that can be said.
    pub(super) fn equals(&self, other: &Self) -> Option<bool> {
        let difference = self.minus(other)?;
        match (difference.known(), difference.bounds()) {
            (Some(n), _) => Some(n == 0),
            (None, (Some(l), _)) if l > 0 => Some(false),
            (None, (_, Some(g))) if g < 0 => Some(false),
            _ => None,
        }
    }

    /// The number of elements of a tensor.
    pub(super) fn elements(dims: &[Dim]) -> Option<Self> {
        dims.iter().try_fold(Self::number(1), |total, dim| total.times(&Self::of(dim)))
    }

    /// As the extent of an axis, in the one spelling.
    pub(super) fn dim(&self) -> Dim {
        if let Some(n) = self.known() {
            return Dim::Known(usize::try_from(n).unwrap_or(0));
        }
        let mut terms: Vec<(usize, String, i64)> = self.0.iter().map(|(m, n)| (m.len(), m.join("*"), *n)).collect();
        terms.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut out = String::new();
        for (i, (degree, factors, n)) in terms.iter().enumerate() {
            out.push_str(match (i, *n < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            });
            match (degree, n.unsigned_abs()) {
                (0, n) => out.push_str(&n.to_string()),
                (_, 1) => out.push_str(factors),
                (_, n) => out.push_str(&format!("{n}*{factors}")),
            }
        }
        Dim::Symbol(out.into())
    }
}

fn sum(text: &str) -> Option<Extent> {
    if text.contains(['(', ')', ',']) {
        return None;
    }
    let mut words = text.split_whitespace();
    let mut out = term(words.next()?)?;
    while let Some(sign) = words.next() {
        let term = term(words.next()?)?;
        out = match sign {
            "+" => out.plus(&term)?,
            "-" => out.minus(&term)?,
            _ => return None,
        };
    }
    Some(out)
}

fn term(text: &str) -> Option<Extent> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let mut out = Extent::number(sign);
    for factor in text.split('*') {
        let factor = match factor.parse::<i64>() {
            Ok(n) => Extent::number(n),
            Err(_) if factor.is_empty() => return None,
            Err(_) => Extent::symbol(factor),
        };
        out = out.times(&factor)?;
    }
    Some(out)
}

/// True for the symbol of an extent that nothing is known of.
pub(super) fn is_unnamed(name: &str) -> bool {
    name.starts_with(UNNAMED)
}

/// `a / b`, if `b` divides it.
fn without(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut out = a.clone();
    for symbol in b {
        let at = out.iter().position(|x| x == symbol)?;
        out.remove(at);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Extent {
        Extent::of(&Dim::symbol(text))
    }

    #[test]
    fn one_spelling_for_equal_extents() {
        for (text, spelled) in [
            ("sequence*batch", "batch*sequence"),
            ("4*b", "4*b"),
            ("past + sequence", "past + sequence"),
            ("s + 3*a*s - 2", "3*a*s + s - 2"),
            ("-a + b", "-a + b"),
            ("/model/Range_output_0.0", "/model/Range_output_0.0"),
            ("Max(1, s0)", "Max(1, s0)"),
            ("(s0//2)", "(s0//2)"),
            ("a - a + 7", "7"),
        ] {
            let extent = read(text);
            assert_eq!(extent.dim().to_string(), spelled);
            assert_eq!(extent, Extent::of(&extent.dim()), "{text}");
        }
    }

    #[test]
    fn products_divide_back_and_only_without_rest() {
        let (whole, part) = (read("8*b*past + 8*b*q"), read("past + q"));
        assert_eq!(whole.over(&part), Some(read("8*b")));
        assert_eq!(whole.over(&read("2*b")), Some(read("4*past + 4*q")));
        assert_eq!(whole.over(&read("3*b")), None);
        assert_eq!(whole.over(&read("q")), None);
        assert_eq!(whole.over(&Extent::number(0)), None);
        assert_eq!(Extent::number(i64::MAX).plus(&Extent::number(1)), None);
    }

    #[test]
    fn comparisons_say_only_what_holds_for_every_size() {
        let (b, one) = (read("b"), Extent::number(1));
        assert_eq!(b.equals(&Extent::number(-1)), Some(false));
        assert_eq!(b.equals(&one), None);
        assert_eq!(read("b + 1").equals(&b), Some(false));
        assert_eq!(read("b*q").equals(&read("q*b")), Some(true));
        assert_eq!(read("b + q").equals(&b), None);
    }
}
