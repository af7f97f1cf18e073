//! A pin: which bytes a plugin must be made of, checked before the library is opened.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::codes;
use crate::base::{Error, Result};

/// What the spelling of a pin begins with.
const KIND: &str = "sha256:";

/// The SHA-256 of a plugin's bytes, spelled `sha256:` and 64 lower-case hexadecimal digits; `engraft plugins list` shows
/// it, and so does `sha256sum`. A pin finds a file that was rebuilt, mixed up or changed before it is loaded; it cannot
/// help against somebody who may write to the file while it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

impl Pin {
    /// Of the bytes of a library.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = Error;

    /// Parses the one spelling of a pin.
    ///
    /// # Errors
    /// `plugin-pin-spelling`
    fn from_str(text: &str) -> Result<Self> {
        let digit = |c: u8| char::from(c).to_digit(16).filter(|_| !c.is_ascii_uppercase());
        let parse = || {
            let digits: &[u8; 64] = text.strip_prefix(KIND)?.as_bytes().try_into().ok()?;
            let mut bytes = [0; 32];
            for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks().0) {
                *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
            }
            Some(Self(bytes))
        };
        parse().ok_or_else(|| {
            let text = format!("`{text}` is not a pin: expected `{KIND}` and 64 lower-case hexadecimal digits");
            Error::new(&codes::PIN_SPELLING, text).help("`engraft plugins list` shows the pin of every plugin")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_sha256_and_its_spelling_comes_back() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Pin::of(b"").to_string(), text);
        assert_eq!(text.parse::<Pin>().unwrap(), Pin::of(b""));
        let upper = text.to_uppercase();
        for wrong in ["", "sha256:", &text[7..], &text[..70], &upper, &text.replace("e3", "E3"), &format!("{text}0")] {
            assert_eq!(wrong.parse::<Pin>().unwrap_err().code().id, "plugin-pin-spelling", "{wrong}");
        }
    }
}
