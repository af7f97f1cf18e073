//! Which axes of an edge of the base graph hold rows and positions, told by the symbols in its extents.

use crate::graph::Dim;

/// The symbols of the token ids' extents.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    batch: String,
    positions: String,
}

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// A number.
    Number(usize),
    /// Rows, and nothing else.
    Rows,
    /// Positions, and nothing else.
    Positions,
    /// Positions as a factor, of rows for example.
    Flat,
    /// Another symbol, without positions.
    Other,
    /// Positions in another way.
    Unclear,
}

impl Sequence {
    /// From the extents `[batch, pos]`, if both are symbols.
    pub(super) fn of(ids: &[Dim]) -> Option<Self> {
        match ids {
            [Dim::Symbol(batch), Dim::Symbol(positions)] if batch != positions => {
                Some(Self { batch: batch.to_string(), positions: positions.to_string() })
            }
            _ => None,
        }
    }

    pub(super) fn holds(&self, dim: &Dim) -> Holds {
        let text = match dim {
            Dim::Known(n) => return Holds::Number(*n),
            Dim::Symbol(text) => &**text,
        };
        if text == self.batch {
            return Holds::Rows;
        }
        if text == self.positions {
            return Holds::Positions;
        }
        let factors: Vec<&str> = text.split('*').collect();
        let product = !text.contains([' ', '(']);
        let there = text.split(|c: char| " *()+-,/".contains(c)).filter(|word| *word == self.positions).count();
        match (there, product) {
            (0, _) => Holds::Other,
            (1, true) if factors.contains(&self.positions.as_str()) => Holds::Flat,
            _ => Holds::Unclear,
        }
    }

    /// True if positions are in the extent in any way.
    pub(super) fn positioned(&self, dim: &Dim) -> bool {
        matches!(self.holds(dim), Holds::Positions | Holds::Flat | Holds::Unclear)
    }

    /// The numbers of the axes with positions.
    pub(super) fn axes(&self, dims: &[Dim]) -> Vec<usize> {
        (0..dims.len()).filter(|&i| self.positioned(&dims[i])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_told_apart_by_their_symbols() {
        let sequence = Sequence::of(&[Dim::symbol("b"), Dim::symbol("s")]).unwrap();
        let holds = |text: &str| sequence.holds(&Dim::symbol(text));
        assert_eq!(sequence.holds(&Dim::Known(3)), Holds::Number(3));
        let four = [holds("b"), holds("s"), holds("b*s"), holds("4*b*s")];
        assert_eq!(four, [Holds::Rows, Holds::Positions, Holds::Flat, Holds::Flat]);
        assert_eq!((holds("rows"), holds("s + 1"), holds("s*s")), (Holds::Other, Holds::Unclear, Holds::Unclear));
        assert!(Sequence::of(&[Dim::Known(1), Dim::symbol("s")]).is_none());
    }
}
