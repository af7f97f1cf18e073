//! Which outputs of a packed linear map belong to one weight: runs of neighbouring columns at equal distances.

/// Columns `first + r * stride + i` for every run `r < runs` and every `i < width`, in this order.
///
/// One run is a contiguous block (`stride` is then its width). Query, key and value that alternate for every head
/// (`[head, 3, d_head]`) are one run for each head, three heads' widths apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Columns {
    /// The first column of the first run.
    pub first: usize,
    /// The number of columns in a run.
    pub width: usize,
    /// The number of runs.
    pub runs: usize,
    /// The distance between the first columns of neighbouring runs.
    pub stride: usize,
}

impl Columns {
    /// One run.
    pub fn block(first: usize, width: usize) -> Self {
        Self { first, width, runs: 1, stride: width }
    }

    /// The number of columns.
    pub fn count(&self) -> usize {
        self.width * self.runs
    }

    /// The stored column of the weight's column `i`.
    pub fn at(&self, i: usize) -> usize {
        self.first + i / self.width.max(1) * self.stride + i % self.width.max(1)
    }

    /// Every stored column, in the order of the weight's own columns.
    pub fn all(self) -> impl Iterator<Item = usize> {
        (0..self.count()).map(move |i| self.at(i))
    }

    /// The pattern of a list of columns, if it has one.
    pub fn of(list: &[usize]) -> Option<Self> {
        let first = *list.first()?;
        let width = 1 + list.windows(2).take_while(|w| w[1] == w[0] + 1).count();
        let stride = list.get(width).map_or(Some(width), |next| next.checked_sub(first))?;
        let found = Self { first, width, runs: list.len() / width, stride };
        (found.count() == list.len() && found.all().eq(list.iter().copied())).then_some(found)
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, width, runs, stride } = self;
        match runs {
            1 => write!(f, "{first}..{}", first + width),
            _ => write!(f, "{first}..{} and {} more runs, {stride} apart", first + width, runs - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_columns_has_one_pattern_or_none() {
        let of = |list: &[usize]| Columns::of(list);
        assert_eq!(of(&[4, 5, 6]), Some(Columns::block(4, 3)));
        assert_eq!(of(&[2, 3, 14, 15, 26, 27]), Some(Columns { first: 2, width: 2, runs: 3, stride: 12 }));
        assert_eq!(of(&[1, 3, 5]), Some(Columns { first: 1, width: 1, runs: 3, stride: 2 }));
        assert_eq!(of(&[0, 1, 4, 5, 9, 10]), None);
        assert_eq!(of(&[0, 1, 4]), None);
        assert_eq!(of(&[5, 3]), None);
        assert_eq!(of(&[]), None);
        let runs = of(&[2, 3, 14, 15]).unwrap();
        assert_eq!((runs.at(2), runs.to_string()), (14, "2..4 and 1 more runs, 12 apart".to_owned()));
    }
}
