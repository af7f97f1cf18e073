//! BLAKE3 hashes: the identity of bytes, files and anything made of several parts.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, Result, codes};

/// A BLAKE3 hash of 256 bits, spelled as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, std::hash::Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of a file's bytes, read in pieces.
    ///
    /// # Errors
    /// `file-read` if the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        let fail = |source| {
            Error::new(&codes::FILE_READ, format!("cannot read {} to hash it", path.display())).because(source)
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).map_err(fail)?).map_err(fail)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The hash of a list of parts: each counts with its length, so that `["ab", "c"]` differs from `["a", "bc"]`.
    pub fn of_parts<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut hasher = Hasher::new();
        for part in parts {
            hasher.part(part);
        }
        hasher.finish()
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve digits, for names of files and for reading.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

/// Collects the parts of one hash.
#[derive(Clone, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part, its length first.
    pub fn part(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The hash of what was added.
    pub fn finish(&self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = Error;

    /// Parses the one spelling of a hash.
    ///
    /// # Errors
    /// `hash-spelling` for anything but 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let parse = || {
            let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = digit(pair[0])? << 4 | digit(pair[1])?;
            }
            Some(Self(bytes))
        };
        parse().ok_or_else(|| {
            Error::new(
                &codes::HASH_SPELLING,
                format!("`{text}` is not a hash: expected 64 lower-case hexadecimal digits, found {}", text.len()),
            )
        })
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_blake3_and_its_spelling_comes_back() {
        let hash = Hash::of(b"");
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse::<Hash>().unwrap(), hash);
        assert_eq!(serde_json::from_str::<Hash>(&serde_json::to_string(&hash).unwrap()).unwrap(), hash);
        for wrong in ["", "af13", &text.to_uppercase(), &text.replace('a', "g"), &format!("{text}0")] {
            assert_eq!(wrong.parse::<Hash>().unwrap_err().code().id, "hash-spelling", "{wrong}");
        }
    }

    #[test]
    fn parts_count_with_their_lengths() {
        assert_ne!(Hash::of_parts(["ab", "c"]), Hash::of_parts(["a", "bc"]));
        assert_ne!(Hash::of_parts(["a"]), Hash::of_parts(["a", ""]));
        assert_eq!(Hash::of_parts(["a", "b"]), Hasher::new().part("a").part("b").finish());
    }

    #[test]
    fn a_file_hashes_like_its_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(Hash::of_file(file.path()).unwrap(), Hash::of(&bytes));
        assert_eq!(Hash::of_file(&file.path().join("absent")).unwrap_err().code().id, "file-read");
    }
}
