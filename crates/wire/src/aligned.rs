//! Shared bytes that begin at a 16-byte boundary.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use rkyv::util::AlignedVec;

/// Read-only, cheaply cloned bytes whose first byte lies at a 16-byte boundary (unless they are empty), as rkyv wants
/// an archive to lie. A few lie in the value itself: most messages are small, and memory that one thread takes and another
/// one gives back costs more than all else about them.
#[derive(Clone, Default)]
pub struct AlignedBytes(Place);

/// Bytes that lie in the value itself, at most.
const HERE: usize = 48;

#[derive(Clone)]
enum Place {
    Here { len: u8, bytes: Block },
    Shared(Bytes),
}

#[derive(Clone, Copy)]
#[repr(align(16))]
struct Block([u8; HERE]);

impl Default for Place {
    fn default() -> Self {
        Place::Here { len: 0, bytes: Block([0; HERE]) }
    }
}

impl Place {
    /// A few bytes; `None` where they are too many.
    fn here(bytes: &[u8]) -> Option<Self> {
        let mut block = Block([0; HERE]);
        block.0.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Place::Here { len: bytes.len() as u8, bytes: block })
    }
}

impl AlignedBytes {
    /// The boundary, in bytes.
    pub const ALIGNMENT: usize = 16;

    /// Copies `bytes` to an aligned place.
    pub fn copy_from(bytes: &[u8]) -> Self {
        if let Some(place) = Place::here(bytes) {
            return Self(place);
        }
        let mut copy = AlignedVec::with_capacity(bytes.len());
        copy.extend_from_slice(bytes);
        copy.into()
    }

    /// Takes `bytes` as they lie when they are aligned and not few, else copies them.
    pub fn from_bytes(bytes: Bytes) -> Self {
        if bytes.len() > HERE && bytes.as_ptr().addr().is_multiple_of(Self::ALIGNMENT) {
            Self(Place::Shared(bytes))
        } else {
            Self::copy_from(&bytes)
        }
    }

    /// The same bytes without the promise; not copied, unless they are few.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Place::Here { len, bytes } => Bytes::copy_from_slice(&bytes.0[..usize::from(len)]),
            Place::Shared(bytes) => bytes,
        }
    }
}

impl From<AlignedVec<16>> for AlignedBytes {
    /// Takes the memory over, without a copy, unless the bytes are few.
    fn from(bytes: AlignedVec<16>) -> Self {
        Self(Place::here(&bytes).unwrap_or_else(|| Place::Shared(Bytes::from_owner(bytes))))
    }
}

impl From<Vec<u8>> for AlignedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::copy_from(&bytes)
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes } => &bytes.0[..usize::from(*len)],
            Place::Shared(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for AlignedBytes {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for AlignedBytes {}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_and_aligned_wherever_they_lie() {
        for len in [0, 1, 8, HERE - 1, HERE, HERE + 1, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut vector = AlignedVec::<16>::new();
            vector.extend_from_slice(&bytes);
            let all = [
                AlignedBytes::copy_from(&bytes),
                AlignedBytes::from_bytes(Bytes::from(bytes.clone())),
                AlignedBytes::from(vector),
                AlignedBytes::from(bytes.clone()),
            ];
            for one in all {
                let moved = Box::new(one.clone());
                assert!(moved[..] == bytes[..] && *moved == one, "{len}");
                assert!(len == 0 || moved.as_ptr().addr().is_multiple_of(16), "{len}");
                assert_eq!(moved.into_bytes(), bytes);
            }
        }
    }
}
