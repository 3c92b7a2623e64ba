//! Shared bytes that begin at a 16-byte boundary.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use rkyv::util::AlignedVec;

/// Read-only, cheaply cloned bytes whose first byte lies at a 16-byte boundary (unless they are empty), as rkyv wants
/// an archive to lie.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AlignedBytes(Bytes);

impl AlignedBytes {
    /// The boundary, in bytes.
    pub const ALIGNMENT: usize = 16;

    /// Copies `bytes` to an aligned place.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut copy = AlignedVec::with_capacity(bytes.len());
        copy.extend_from_slice(bytes);
        copy.into()
    }

    /// Takes `bytes` as they lie when they are aligned, else copies them.
    pub fn from_bytes(bytes: Bytes) -> Self {
        if bytes.as_ptr().addr().is_multiple_of(Self::ALIGNMENT) {
            Self(bytes)
        } else {
            Self::copy_from(&bytes)
        }
    }

    /// The same memory without the promise.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<AlignedVec<16>> for AlignedBytes {
    /// Takes the memory over, without a copy.
    fn from(bytes: AlignedVec<16>) -> Self {
        if bytes.is_empty() { Self::default() } else { Self(Bytes::from_owner(bytes)) }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len())
    }
}
