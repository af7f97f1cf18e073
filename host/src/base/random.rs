//! Named random streams: every random choice draws from a stream whose seed follows from the root seed and the names
//! of what it is for, so that adding one draw never shifts another.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Hasher;

/// The seed of the stream that `names` spell, from the outermost to the innermost, under a root seed.
pub fn seed(root: u64, names: &[&str]) -> u64 {
    let mut hasher = Hasher::new();
    hasher.part("engraft random stream 1").part(root.to_le_bytes());
    for name in names {
        hasher.part(name);
    }
    let hash = hasher.finish();
    hash.bytes()[..8].iter().rev().fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// The generator of a stream: the same on every machine and in every version.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn streams_are_apart_and_stable() {
        assert_ne!(seed(1, &["edit", "0"]), seed(1, &["edit", "1"]));
        assert_ne!(seed(1, &["ab"]), seed(1, &["a", "b"]));
        assert_ne!(seed(1, &[]), seed(2, &[]));
        assert_eq!(seed(1, &["edit", "0"]), 6691055094280098430);
        assert_eq!(rng(7).next_u64(), 2910824217569608635);
    }
}
