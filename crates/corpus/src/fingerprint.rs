//! Fingerprints of files: whether what is read again is what was read before.
//!
//! A fingerprint is the XXH3-128 of a file's length and content. Of a file above the caller's budget only so many bytes
//! are read, in pieces that are spread evenly over it from its first to its last byte; the length is always part of it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// What a file was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its length.
    pub bytes: u64,
    /// Bytes that were read for the hash: all of them, unless the file is above the budget.
    pub hashed: u64,
    /// XXH3-128 of the length and what was read, in hexadecimal.
    pub xxh3: String,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes, {}", self.bytes, self.xxh3)
    }
}

impl Fingerprint {
    /// Of the file at `path`, reading at most about `budget` bytes of it.
    pub fn of(path: &Path, budget: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut hash = Xxh3::new();
        hash.update(&bytes.to_le_bytes());
        let mut piece = vec![0; PIECE as usize];
        let mut hashed = 0;
        for offset in offsets(bytes, budget) {
            let length = (bytes - offset).min(PIECE) as usize;
            file.read_exact_at(&mut piece[..length], offset)?;
            hash.update(&piece[..length]);
            hashed += length as u64;
        }
        Ok(Self { bytes, hashed, xxh3: format!("{:032x}", hash.digest128()) })
    }
}

/// Where the pieces begin that are read of a file of `bytes` bytes.
fn offsets(bytes: u64, budget: u64) -> impl Iterator<Item = u64> {
    let all = bytes.div_ceil(PIECE);
    let read = all.min(budget.div_ceil(PIECE).max(2));
    // The first piece is the file's first, the last one its last.
    (0..read).map(move |index| if read == all { index } else { index * (all - 1) / (read - 1) } * PIECE)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn any_change_within_the_budget_is_seen_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut bytes: Vec<u8> = (0..3 * PIECE as usize + 17).map(|index| (index * 7 % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let before = Fingerprint::of(&path, u64::MAX).unwrap();
        assert_eq!((before.bytes, before.hashed), (bytes.len() as u64, bytes.len() as u64));
        for at in [0, PIECE as usize, bytes.len() - 1] {
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_ne!(Fingerprint::of(&path, u64::MAX).unwrap(), before, "byte {at}");
            bytes[at] ^= 1;
        }
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Fingerprint::of(&path, u64::MAX).unwrap(), before);
    }

    #[test]
    fn beyond_the_budget_first_last_and_length_still_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut bytes = vec![5; 9 * PIECE as usize];
        fs::write(&path, &bytes).unwrap();
        let of = || Fingerprint::of(&path, 3 * PIECE).unwrap();
        let before = of();
        assert_eq!(before.hashed, 3 * PIECE);
        for at in [0, 4 * PIECE as usize, bytes.len() - 1] {
            bytes[at] = 6;
            fs::write(&path, &bytes).unwrap();
            assert_ne!(of(), before, "byte {at}");
            bytes[at] = 5;
        }
        bytes.push(5);
        fs::write(&path, &bytes).unwrap();
        assert_ne!(of(), before);
    }

    #[test]
    fn an_empty_file_has_a_fingerprint_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Fingerprint::of(file.path(), 0).unwrap().hashed, 0);
        assert_eq!(offsets(0, 0).count(), 0);
        assert_eq!(offsets(1, 0).collect::<Vec<_>>(), [0]);
    }
}
