//! The codebook as its entries make it: which entry answers a query, how far its radius reaches, and what a new edit
//! makes of it (Hartvigsen et al. 2023, algorithm 1).
//!
//! Everything is computed anew from the entries that are there; see the crate's first page for the rules.

/// Keys whose distances differ by less than this share of ε are one place.
pub const SAME_PLACE: f32 = 1e-3;

/// By this share an expanded radius is larger than the distance that it has to reach: the last bits of an activation
/// depend on the rows that it is computed with.
const REACH: f32 = 1e-3;

/// A splitted radius ends this far before the middle, as in the reference.
const BEFORE_THE_MIDDLE: f32 = 1e-5;

/// What an edit did when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A key far from all others.
    Add,
    /// A key near one of another label, whose radius it cut.
    Split,
    /// A key of the same label as the near one, whose radius was to grow; it answers itself only where the near one
    /// is not there.
    Expand,
    /// A key at the place of one of another label: the later one answers.
    Again,
}

impl Kind {
    /// Every kind, by number.
    pub const ALL: [Kind; 4] = [Self::Add, Self::Split, Self::Expand, Self::Again];

    /// The number that stands for it in tables.
    pub fn number(self) -> i64 {
        self as i64
    }
}

/// What one edit put into the codebook.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// A number that no other entry has, at least 0.
    pub id: i64,
    /// The entry that was nearest when it was made and that it was made with regard to; -1 without one.
    pub near: i64,
    /// What it did.
    pub kind: Kind,
    /// The hash of its target's tokens.
    pub label: i64,
    /// How many tokens its target has.
    pub tokens: i64,
    /// Its place.
    pub key: Vec<f32>,
    /// What it puts in place of the activation; of `Expand`, the new value of the near one.
    pub value: Vec<f32>,
    /// Its radius where the near one is not there: ε.
    pub alone: f32,
    /// Its radius where the near one is there.
    pub beside: f32,
    /// What the near one's radius became (`Split`) or has to reach (`Expand`).
    pub moved: f32,
}

/// What an edit is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// As [`Entry::kind`].
    pub kind: Kind,
    /// The index of the near entry.
    pub near: Option<usize>,
    /// As [`Entry::alone`].
    pub alone: f32,
    /// As [`Entry::beside`].
    pub beside: f32,
    /// As [`Entry::moved`].
    pub moved: f32,
}

/// The entry that is nearest to a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// Its index.
    pub entry: usize,
    /// ‖query − key‖₂
    pub distance: f32,
    /// How far it reaches.
    pub radius: f32,
    /// The index of the entry whose value it answers with.
    pub value: usize,
}

impl Nearest {
    /// True if the query lies within the radius.
    pub fn answers(&self) -> bool {
        self.distance <= self.radius
    }
}

/// Entries in the order in which they were committed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codebook {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Codebook {
    fn near_is_there(&self, entry: &Entry) -> bool {
        self.entries.iter().any(|other| other.id == entry.near)
    }

    /// True if an entry is looked for: an expansion is not while the entry that it expands is there.
    fn is_live(&self, entry: &Entry) -> bool {
        entry.kind != Kind::Expand || !self.near_is_there(entry)
    }

    /// How far an entry reaches: its radius at its birth, then what later entries did to it, one after the other.
    fn radius(&self, entry: &Entry) -> f32 {
        let cut = matches!(entry.kind, Kind::Split | Kind::Again) && self.near_is_there(entry);
        let born = if cut { entry.beside } else { entry.alone };
        self.entries.iter().filter(|later| later.near == entry.id).fold(born, |radius, later| match later.kind {
            Kind::Split => later.moved,
            Kind::Expand => radius.max(later.moved),
            Kind::Add | Kind::Again => radius,
        })
    }

    /// The live entry that is nearest to a query; of several at one place the latest.
    pub fn nearest(&self, query: &[f32]) -> Option<Nearest> {
        let live: Vec<(usize, f32)> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| self.is_live(entry))
            .map(|(index, entry)| (index, distance(query, &entry.key)))
            .collect();
        let least = live.iter().map(|(_, d)| *d).fold(f32::INFINITY, f32::min);
        let at_that_place = |&&(index, d): &&(usize, f32)| d <= least + SAME_PLACE * self.entries[index].alone;
        let &(index, distance) = live.iter().rfind(at_that_place)?;
        let entry = &self.entries[index];
        let expands = |later: &Entry| later.near == entry.id && later.kind == Kind::Expand;
        let value = self.entries.iter().rposition(expands).unwrap_or(index);
        Some(Nearest { entry: index, distance, radius: self.radius(entry), value })
    }

    /// What an edit with this key and label does: add, split or expand, for a new radius of `epsilon`.
    pub fn place(&self, key: &[f32], label: i64, epsilon: f32) -> Placement {
        let add = Placement { kind: Kind::Add, near: None, alone: epsilon, beside: epsilon, moved: 0.0 };
        let Some(near) = self.nearest(key) else { return add };
        let (entry, d) = (&self.entries[near.entry], near.distance);
        let beside = |kind, beside, moved| Placement { kind, near: Some(near.entry), alone: epsilon, beside, moved };
        if d > epsilon + near.radius {
            return add; // too far from all others
        }
        if entry.label != label {
            return if d <= SAME_PLACE * epsilon {
                beside(Kind::Again, near.radius, 0.0)
            } else {
                beside(Kind::Split, d / 2.0, d / 2.0 - BEFORE_THE_MIDDLE)
            };
        }
        // An expansion whose own near entry was rolled back answers itself, but may fall silent again: it is not
        // expanded.
        if entry.kind == Kind::Expand { add } else { beside(Kind::Expand, epsilon, d * (1.0 + REACH)) }
    }
}

/// ‖a − b‖₂
fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt() as f32
}

/// A hash of words that is at least 0 (FNV-1a).
pub fn hash(words: impl IntoIterator<Item = u32>) -> i64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = words.into_iter().flat_map(u32::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, step);
    (hash >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A codebook on a line; values are the numbers of the entries.
    #[derive(Default)]
    struct Line(Codebook);

    impl Line {
        /// Makes the edit that maps `key` to `label`, with ε = 1.
        fn edit(&mut self, key: f32, label: i64) -> Kind {
            let placement = self.0.place(&[key], label, 1.0);
            let id = self.0.entries.iter().map(|e| e.id + 1).max().unwrap_or(0);
            self.0.entries.push(Entry {
                id,
                near: placement.near.map_or(-1, |near| self.0.entries[near].id),
                kind: placement.kind,
                label,
                tokens: 1,
                key: vec![key],
                value: vec![id as f32],
                alone: placement.alone,
                beside: placement.beside,
                moved: placement.moved,
            });
            placement.kind
        }

        fn without(&self, id: i64) -> Self {
            Self(Codebook { entries: self.0.entries.iter().filter(|e| e.id != id).cloned().collect() })
        }

        /// The number of the entry that answers, if one does.
        fn ask(&self, query: f32) -> Option<f32> {
            let nearest = self.0.nearest(&[query]).filter(Nearest::answers)?;
            Some(self.0.entries[nearest.value].value[0])
        }

        fn radius(&self, query: f32) -> f32 {
            self.0.nearest(&[query]).expect("there is an entry").radius
        }
    }

    #[test]
    fn far_keys_are_added_with_the_first_radius() {
        let mut line = Line::default();
        assert_eq!((line.ask(0.0), line.edit(0.0, 7), line.edit(2.1, 7)), (None, Kind::Add, Kind::Add));
        assert_eq!((line.ask(1.0), line.ask(1.05), line.ask(1.2), line.ask(3.2)), (Some(0.0), None, Some(1.0), None));
    }

    #[test]
    fn another_label_nearby_splits_and_a_rollback_of_either_takes_the_split_back() {
        let mut line = Line::default();
        line.edit(0.0, 7);
        assert_eq!(line.edit(1.5, 8), Kind::Split);
        assert_eq!((line.radius(0.0), line.radius(1.5)), (0.75 - 1e-5, 0.75));
        assert_eq!((line.ask(-0.8), line.ask(-0.7), line.ask(1.0), line.ask(2.3)), (None, Some(0.0), Some(1.0), None));
        assert_eq!((line.without(1).radius(0.0), line.without(0).radius(1.5)), (1.0, 1.0));
        assert_eq!((line.without(1).ask(0.9), line.without(0).ask(0.9)), (Some(0.0), Some(1.0)));
        // The reference sets the radius of the near one, also where that makes it larger.
        assert_eq!(line.edit(-1.7, 9), Kind::Split);
        assert_eq!((line.radius(0.0), line.without(1).radius(0.0)), (0.85 - 1e-5, 0.85 - 1e-5));
    }

    #[test]
    fn the_same_label_nearby_expands_and_answers_itself_without_the_near_one() {
        let mut line = Line::default();
        line.edit(0.0, 7);
        assert_eq!(line.edit(1.5, 7), Kind::Expand);
        assert_eq!((line.0.nearest(&[1.5]).map(|n| n.entry), line.radius(1.5)), (Some(0), 1.5 * 1.001));
        assert_eq!((line.ask(1.5), line.ask(0.0), line.ask(2.0)), (Some(1.0), Some(1.0), None));
        assert_eq!((line.without(1).ask(0.5), line.without(1).ask(1.5)), (Some(0.0), None));
        let orphan = line.without(0);
        assert_eq!((orphan.ask(0.0), orphan.ask(1.5), orphan.ask(2.4)), (None, Some(1.0), Some(1.0)));
        // A split after the expansion wins over it, an expansion after the split grows it again.
        line.edit(-1.0, 8);
        assert_eq!((line.radius(0.0), line.ask(1.5)), (0.5 - 1e-5, None));
        assert_eq!((line.edit(1.4, 7), line.ask(1.4), line.ask(1.5)), (Kind::Expand, Some(3.0), None));
        assert_eq!((line.without(2).ask(1.5), line.without(3).ask(1.4)), (Some(3.0), None));
    }

    #[test]
    fn an_expansion_that_is_alone_is_not_expanded_itself() {
        let mut line = Line::default();
        line.edit(0.0, 7);
        line.edit(1.5, 7);
        let mut orphan = line.without(0);
        assert_eq!(orphan.edit(2.9, 7), Kind::Add);
        assert_eq!((orphan.ask(2.9), orphan.ask(2.0)), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn a_prompt_edited_anew_answers_anew() {
        let mut line = Line::default();
        line.edit(0.0, 7);
        line.edit(1.5, 8); // cuts the first one's radius
        assert_eq!(line.edit(0.0, 9), Kind::Again);
        assert_eq!((line.ask(0.0), line.ask(0.7), line.ask(-0.8)), (Some(2.0), Some(2.0), None));
        assert_eq!((line.without(2).ask(0.0), line.without(0).ask(0.74)), (Some(0.0), Some(2.0)));
        assert_eq!((line.edit(0.0, 5), line.without(2).ask(0.0)), (Kind::Again, Some(3.0)));
    }

    #[test]
    fn labels_are_told_apart_where_the_means_of_their_tokens_are_equal() {
        // The reference compares means.
        assert_ne!(hash([3, 5]), hash([4, 4]));
        assert_ne!(hash([3, 5]), hash([5, 3]));
        assert!(hash([]) >= 0 && hash([7]) >= 0);
    }
}
