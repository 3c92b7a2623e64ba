//! A certificate by its SHA-256: what people compare, and what a join token names the authority by.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::{Result, WireError};

/// SHA-256 of a certificate as it travels (DER). Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub(crate) fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || WireError::Identity {
            what: "fingerprint",
            value: text.chars().take(100).collect(),
            expected: "64 hexadecimal digits",
        };
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back_as_it_was_written() {
        let fingerprint = Fingerprint::of(b"a certificate");
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
        for text in ["", "ab", &"g".repeat(64), &"ä".repeat(32), &format!("+{}", "a".repeat(63))] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }
}
