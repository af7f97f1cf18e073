//! Demonstrations: of the training facts nearest to the new one, each in one of three kinds, the nearest last.

use engraft_plugin_api::EditRequest;

use crate::keys::cosine;
use crate::memory::Lesson;
use crate::prompt::Template;

/// What a demonstration teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To say the fact again.
    Copy,
    /// To say it where other words ask for it.
    Update,
    /// To keep another fact.
    Retain,
}

/// The kinds of `n` demonstrations in shares, shuffled by a seed.
pub fn kinds(n: usize, ratio: [usize; 3], seed: u64) -> Vec<Kind> {
    let total: usize = ratio.iter().sum();
    let of = |i: usize| {
        // The shares of every stretch of demonstrations are those of all, as nearly as whole numbers allow.
        let at = i * total / n.max(1);
        if at < ratio[0] {
            Kind::Copy
        } else if at < ratio[0] + ratio[1] {
            Kind::Update
        } else {
            Kind::Retain
        }
    };
    let mut kinds: Vec<Kind> = (0..n).map(of).collect();
    let mut state = seed;
    for i in (1..kinds.len()).rev() {
        kinds.swap(i, (next(&mut state) % (i as u64 + 1)) as usize);
    }
    kinds
}

/// SplitMix64 (Steele, Lea & Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The demonstrations for a fact with a key, the nearest last. A lesson without an example of the kind that falls to it
/// copies.
pub fn demonstrations(
    key: &[f32],
    lessons: &[Lesson],
    template: &Template,
    count: usize,
    ratio: [usize; 3],
    seed: u64,
) -> Vec<String> {
    let mut nearest: Vec<(f32, &Lesson)> = lessons.iter().map(|lesson| (cosine(key, &lesson.key), lesson)).collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
    nearest.truncate(count);
    let kinds = kinds(nearest.len(), ratio, seed);
    let shown = nearest.iter().zip(kinds).map(|((_, lesson), kind)| {
        let example = match kind {
            Kind::Copy => None,
            Kind::Update => lesson.update.as_ref(),
            Kind::Retain => lesson.retain.as_ref(),
        };
        let (prompt, answer) = example.unwrap_or(&lesson.copy);
        template.shown(&said(&lesson.copy.0, &lesson.copy.1), prompt, answer)
    });
    let mut shown: Vec<String> = shown.collect();
    shown.reverse();
    shown
}

/// A prompt with its answer as a statement.
pub fn said(prompt: &str, answer: &str) -> String {
    format!("{prompt} {}", answer.trim_start())
}

/// The statement that a request asks for.
///
/// # Errors
/// As [`EditRequest::filled`].
pub fn statement(request: &EditRequest) -> Result<String, engraft_plugin_api::MethodError> {
    Ok(said(&request.filled()?, &request.target.new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_the_order_is_the_seeds() {
        let counts = |kinds: &[Kind]| {
            [Kind::Copy, Kind::Update, Kind::Retain].map(|k| kinds.iter().filter(|x| **x == k).count())
        };
        assert_eq!(counts(&kinds(32, [1, 3, 4], 7)), [4, 12, 16]);
        assert_eq!(counts(&kinds(5, [1, 0, 0], 7)), [5, 0, 0]);
        assert_eq!(kinds(32, [1, 3, 4], 7), kinds(32, [1, 3, 4], 7));
        assert_ne!(kinds(32, [1, 3, 4], 7), kinds(32, [1, 3, 4], 8));
    }

    #[test]
    fn the_nearest_stands_last_and_a_missing_example_copies() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let lesson = |name: &str, key: [f32; 2], retain| Lesson {
            copy: pair(name, "x"),
            update: None,
            retain,
            key: key.to_vec(),
        };
        let lessons = [
            lesson("far", [0.0, 1.0], None),
            lesson("near", [1.0, 0.0], Some(pair("other", "y"))),
            lesson("middle", [0.8, 0.6], None),
        ];
        let template = Template::parse("{fact}: {prompt}").expect("fits");
        let shown = demonstrations(&[1.0, 0.0], &lessons, &template, 2, [0, 0, 1], 1);
        assert_eq!(shown, ["middle x: middle x", "near x: other y"]);
    }
}
