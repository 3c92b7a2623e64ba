//! What a worker binary that a job brings is known by: the SHA-256 of its bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// What a name of a program begins with that is a hash; names of programs that lie beside an agent's own have no colon.
const PREFIX: &str = "sha256:";
/// Bytes that are hashed at a time.
const PIECE: usize = 256 << 10;

/// A program by its contents. It reads and prints as `sha256:` and 64 digits, which is what a spawn names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramHash([u8; 32]);

impl ProgramHash {
    /// The hash of a file, and its size in bytes.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn of_file(path: &Path) -> io::Result<(ProgramHash, u64)> {
        let (mut file, mut hasher, mut bytes) = (File::open(path)?, Hasher::default(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok((hasher.finish(), bytes)),
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The hash that a spawn's program names; `None` where it names a file beside the agent's program.
    ///
    /// # Errors
    /// It begins as a hash and is none; in words.
    pub(crate) fn named(program: &str) -> Result<Option<ProgramHash>, String> {
        program.starts_with(PREFIX).then(|| program.parse()).transpose()
    }

    /// The 64 digits: a file's name.
    pub(crate) fn digits(&self) -> String {
        hex(&self.0)
    }

    /// That of a file whose name is the 64 digits.
    pub(crate) fn from_digits(digits: &str) -> Option<ProgramHash> {
        let digits = digits.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(ProgramHash(hash))
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> ProgramHash {
        ProgramHash(bytes)
    }
}

impl fmt::Display for ProgramHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.digits())
    }
}

impl fmt::Debug for ProgramHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ProgramHash {
    type Err = String;

    fn from_str(text: &str) -> Result<ProgramHash, String> {
        let hash = text.strip_prefix(PREFIX).and_then(ProgramHash::from_digits);
        hash.ok_or_else(|| format!("program `{text}`: expected `{PREFIX}` and 64 digits of 0-9 and a-f"))
    }
}

/// Hashes a program piece by piece.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> ProgramHash {
        ProgramHash(self.0.finalize().into())
    }
}

/// As sha256sum(1) writes it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_as_it_prints_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "abc").unwrap();
        let (hash, bytes) = ProgramHash::of_file(&path).unwrap();
        // FIPS 180-2, appendix B.1.
        let printed = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.to_string().as_str(), bytes), (printed, 3));
        assert_eq!(ProgramHash::named(printed), Ok(Some(hash)));
        assert_eq!(ProgramHash::named("lyceum-worker"), Ok(None));
        for wrong in ["sha256:", &printed[..printed.len() - 1], &printed.to_uppercase().replace("SHA", "sha")]
        {
            let refused = ProgramHash::named(wrong).unwrap_err();
            assert_eq!(
                refused,
                format!("program `{wrong}`: expected `sha256:` and 64 digits of 0-9 and a-f")
            );
        }
        assert!(ProgramHash::from_digits(&"é".repeat(32)).is_none());
    }
}
