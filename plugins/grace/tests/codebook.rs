//! The codebook against two others that are written down in other ways: the reference's, which changes its lists in
//! place and knows no rollback, and one that is replayed from the list of what is there, after commits, rollbacks and
//! commits anew in any order.

use engraft_grace::{Codebook, Entry, Kind};
use engraft_method_common::Random;

const EPSILON: f32 = 1.0;

/// A point of a grid, close to others and never at the same distance to two of them.
fn point(random: &mut Random) -> Vec<f32> {
    (0..2).map(|_| random.uniform() * 6.0).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt()
}

/// What an edit of `key` puts into a codebook; its value is its number.
fn edit(book: &Codebook, number: i64, key: Vec<f32>, label: i64) -> Entry {
    let place = book.place(&key, label, EPSILON);
    Entry {
        id: number,
        near: place.near.map_or(-1, |near| book.entries[near].id),
        kind: place.kind,
        label,
        tokens: 1,
        key,
        value: vec![number as f32],
        alone: place.alone,
        beside: place.beside,
        moved: place.moved,
    }
}

/// The number of the entry whose value answers.
fn asked(book: &Codebook, query: &[f32]) -> Option<i64> {
    let nearest = book.nearest(query).filter(|nearest| nearest.answers())?;
    Some(book.entries[nearest.value].id)
}

/// The reference's codebook: a key, a radius, a label and a value for each entry, changed in place.
#[derive(Default)]
struct InPlace(Vec<(Vec<f32>, f32, i64, i64)>);

impl InPlace {
    fn nearest(&self, query: &[f32]) -> Option<(usize, f32)> {
        let distances = self.0.iter().map(|(key, ..)| distance(query, key)).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn edit(&mut self, number: i64, key: Vec<f32>, label: i64) {
        let (radius, near) = match self.nearest(&key) {
            Some((i, d)) if d <= EPSILON + self.0[i].1 => {
                if self.0[i].2 == label {
                    self.0[i].1 = self.0[i].1.max(d * 1.001);
                    self.0[i].3 = number;
                    return;
                }
                (d / 2.0, Some((i, d / 2.0 - 1e-5)))
            }
            _ => (EPSILON, None),
        };
        if let Some((i, cut)) = near {
            self.0[i].1 = cut;
        }
        self.0.push((key, radius, label, number));
    }

    fn asked(&self, query: &[f32]) -> Option<i64> {
        let (i, d) = self.nearest(query)?;
        (d <= self.0[i].1).then_some(self.0[i].3)
    }
}

/// The codebook replayed: births first, then what the entries do to others, in order.
fn replayed(active: &[Entry], query: &[f32]) -> Option<i64> {
    struct State<'a> {
        entry: &'a Entry,
        radius: f32,
        value: i64,
        silent: bool,
    }
    let there = |id: i64| active.iter().any(|entry| entry.id == id);
    let mut states: Vec<State<'_>> = Vec::new();
    for entry in active {
        let beside = there(entry.near) && matches!(entry.kind, Kind::Split | Kind::Again);
        let radius = if beside { entry.beside } else { entry.alone };
        let silent = entry.kind == Kind::Expand && there(entry.near);
        states.push(State { entry, radius, value: entry.id, silent });
    }
    for entry in active {
        if let Some(near) = states.iter_mut().find(|state| state.entry.id == entry.near) {
            match entry.kind {
                Kind::Split => near.radius = entry.moved,
                Kind::Expand => {
                    near.radius = near.radius.max(entry.moved);
                    near.value = entry.id;
                }
                Kind::Add | Kind::Again => {}
            }
        }
    }
    let mut best: Option<(&State<'_>, f32)> = None;
    for state in states.iter().filter(|state| !state.silent) {
        let d = distance(query, &state.entry.key);
        if best.is_none_or(|(_, least)| d <= least) {
            best = Some((state, d));
        }
    }
    best.filter(|(state, d)| *d <= state.radius).map(|(state, _)| state.value)
}

#[test]
fn edits_in_a_row_give_the_codebook_of_the_reference() {
    let mut kinds = [0; 4];
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (mut book, mut reference) = (Codebook::default(), InPlace::default());
        for number in 0..40 {
            let (key, label) = (point(&mut random), (random.bits() % 3) as i64);
            // Two keys at one place, where the reference never answers the second, have a test of their own.
            if book.nearest(&key).is_some_and(|nearest| nearest.distance < 0.01) {
                continue;
            }
            let entry = edit(&book, number, key.clone(), label);
            kinds[entry.kind as usize] += 1;
            book.entries.push(entry);
            reference.edit(number, key, label);
            let queries: Vec<Vec<f32>> = (0..20).map(|_| point(&mut random)).collect();
            for query in queries.iter().filter(|query| decided(&book, query)) {
                assert_eq!(asked(&book, query), reference.asked(query), "seed {seed}, edit {number}, {query:?}");
            }
        }
    }
    assert!(kinds[..3].iter().all(|&n| n > 100), "{kinds:?}");
}

/// True if rounding cannot turn the answer: the query is not at a boundary, nor between two keys.
fn decided(book: &Codebook, query: &[f32]) -> bool {
    let mut distances: Vec<f32> = book.entries.iter().map(|entry| distance(query, &entry.key)).collect();
    distances.sort_by(f32::total_cmp);
    let apart = distances.windows(2).all(|pair| pair[1] - pair[0] > 2e-3);
    apart && book.nearest(query).is_none_or(|nearest| (nearest.distance - nearest.radius).abs() > 1e-4)
}

#[test]
fn any_order_of_commits_and_rollbacks_gives_what_the_entries_that_are_there_say() {
    let (mut asked_twice, mut own) = (0, 0);
    for seed in 100..160 {
        let mut random = Random::new(seed);
        let (mut book, mut away) = (Codebook::default(), Vec::new());
        for number in 0..80 {
            match random.bits() % 5 {
                0 | 1 if !book.entries.is_empty() => {
                    let index = random.bits() as usize % book.entries.len();
                    let before = book.clone();
                    let entry = book.entries.remove(index);
                    if index + 1 == before.entries.len() {
                        // A rollback of the last: the codebook that it was placed in is back.
                        let made = edit(&book, entry.id, entry.key.clone(), entry.label);
                        if entry.id == number - 1 {
                            assert_eq!(made, entry);
                        }
                    }
                    away.push(entry);
                }
                2 if !away.is_empty() => {
                    let index = random.bits() as usize % away.len();
                    book.entries.push(away.swap_remove(index));
                }
                _ => {
                    let (key, label) = (point(&mut random), (random.bits() % 3) as i64);
                    let entry = edit(&book, number, key, label);
                    book.entries.push(entry);
                }
            }
            for query in (0..20).map(|_| point(&mut random)) {
                if decided(&book, &query) {
                    let answer = asked(&book, &query);
                    assert_eq!(answer, replayed(&book.entries, &query), "seed {seed}, step {number}, {query:?}");
                    asked_twice += usize::from(answer.is_some());
                }
            }
            // Whatever was rolled back: an entry that is looked for, and that no later one took the place of, answers
            // at its own key with its own label.
            for entry in &book.entries {
                let silent = entry.kind == Kind::Expand && book.entries.iter().any(|other| other.id == entry.near);
                let close = book.entries.iter().filter(|other| distance(&other.key, &entry.key) < 0.01).count() > 1;
                if !silent && !close {
                    let answer = asked(&book, &entry.key).and_then(|id| book.entries.iter().find(|e| e.id == id));
                    assert_eq!(answer.map(|e| e.label), Some(entry.label), "seed {seed}, step {number}: {entry:?}");
                    own += 1;
                }
            }
        }
    }
    assert!(asked_twice > 10_000 && own > 10_000, "{asked_twice} {own}");
}
