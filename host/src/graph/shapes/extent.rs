//! Extents as products: a whole number times named symbols, in one canonical spelling (`2*batch*sequence`).

use std::sync::Arc;

use crate::graph::Dim;

/// The prefix of symbols that stand for an extent nothing is known of.
const UNNAMED: &str = "?";

/// A number times symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    number: i64,
    symbols: Vec<Arc<str>>,
}

impl Extent {
    /// A number.
    pub(super) fn number(number: i64) -> Self {
        Self { number, symbols: Vec::new() }
    }

    /// An extent of an axis.
    pub(super) fn of(dim: &Dim) -> Self {
        match dim {
            Dim::Known(n) => Self::number(*n as i64),
            Dim::Symbol(name) => {
                let mut out = Self::number(1);
                let plain = !name.contains(['(', '+', '-', '/', ' ']);
                for part in if plain { name.split('*').collect() } else { vec![&**name] } {
                    match part.parse::<i64>() {
                        Ok(n) => out.number *= n,
                        Err(_) => out.symbols.push(part.into()),
                    }
                }
                out.symbols.sort();
                out
            }
        }
    }

    /// An extent that nothing is known of; equal hints are equal extents.
    pub(super) fn unknown(hint: &str) -> Self {
        Self { number: 1, symbols: vec![format!("{UNNAMED}{hint}").into()] }
    }

    /// As the extent of an axis.
    pub(super) fn dim(&self) -> Dim {
        match self.known() {
            Some(n) => Dim::Known(usize::try_from(n).unwrap_or(0)),
            None => {
                let mut text = if self.number == 1 { String::new() } else { format!("{}*", self.number) };
                text.push_str(&self.symbols.join("*"));
                Dim::symbol(&text)
            }
        }
    }

    /// The number, if there are no symbols.
    pub(super) fn known(&self) -> Option<i64> {
        if self.symbols.is_empty() || self.number == 0 { Some(self.number) } else { None }
    }

    /// The product.
    pub(super) fn times(&self, other: &Self) -> Self {
        let mut symbols = [self.symbols.clone(), other.symbols.clone()].concat();
        symbols.sort();
        Self { number: self.number * other.number, symbols }
    }

    /// The quotient, if it comes out even.
    pub(super) fn over(&self, other: &Self) -> Option<Self> {
        if other.number == 0 || self.number % other.number != 0 {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            symbols.remove(symbols.iter().position(|s| s == symbol)?);
        }
        Some(Self { number: self.number / other.number, symbols })
    }

    /// The sum: a number of numbers, itself with zero, else a symbol named for it.
    pub(super) fn plus(&self, other: &Self) -> Self {
        match (self.known(), other.known()) {
            (Some(a), Some(b)) => Self::number(a + b),
            (Some(0), None) => other.clone(),
            (None, Some(0)) => self.clone(),
            _ if self.symbols == other.symbols => {
                Self { number: self.number + other.number, symbols: self.symbols.clone() }
            }
            _ => {
                let mut parts = [self.text(), other.text()];
                parts.sort();
                Self { number: 1, symbols: vec![format!("({}+{})", parts[0], parts[1]).into()] }
            }
        }
    }

    /// The negative.
    pub(super) fn minus(&self) -> Self {
        Self { number: -self.number, symbols: self.symbols.clone() }
    }

    fn text(&self) -> String {
        match self.known() {
            Some(n) => n.to_string(),
            None => self.dim().to_string(),
        }
    }
}

/// True for the symbol of an extent that nothing is known of.
pub(super) fn is_unnamed(name: &str) -> bool {
    name.starts_with(UNNAMED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_have_one_spelling_and_divide() {
        let s = |name: &str| Extent::of(&Dim::symbol(name));
        let flat = s("sequence").times(&s("batch"));
        assert_eq!(flat, s("batch*sequence"));
        assert_eq!(flat.dim(), Dim::symbol("batch*sequence"));
        assert_eq!(flat.times(&Extent::number(32)).over(&s("batch")), Some(s("32*sequence")));
        assert_eq!(flat.over(&Extent::number(2)), None);
        assert_eq!(s("a").plus(&s("a").minus()).known(), Some(0));
        assert_eq!(s("a").plus(&Extent::number(1)), Extent::number(1).plus(&s("a")));
    }
}
