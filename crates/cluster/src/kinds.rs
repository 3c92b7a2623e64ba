//! Kinds of words: numbers that stand outside of the words' archives.
//!
//! A control frame's head says what kind it is, so that who does not know the kind can pass the frame by without reading
//! it: programs of one protocol version may know kinds that others of it do not. A number is never used again for
//! something else, and what the archive of a kind looks like never changes within a protocol version
//! (`tests/bytes` holds both): a word that needs another form becomes a new kind.

use lyceum_wire::{AlignedBytes, ArchiveValidator, Frame, FrameHeader, WireError, access_checked};
use rkyv::api::high::{HighDeserializer, HighSerializer};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Portable, Serialize};

/// The archived bytes of `value`.
pub(crate) fn encode<T>(value: &T) -> Result<AlignedVec, WireError>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
{
    rkyv::to_bytes::<Error>(value).map_err(|error| WireError::Archive(error.to_string()))
}

/// The value that `bytes`, 16-byte aligned, hold.
pub(crate) fn decode<T>(bytes: &[u8]) -> Result<T, WireError>
where
    T: Archive,
    T::Archived:
        Portable + for<'a> CheckBytes<ArchiveValidator<'a>> + Deserialize<T, HighDeserializer<Error>>,
{
    let archived = access_checked::<T::Archived>(bytes)?;
    rkyv::deserialize::<T, Error>(archived).map_err(|error| WireError::Archive(error.to_string()))
}

/// A word on its way: its kind and its archive.
#[derive(Debug)]
pub(crate) struct Sealed {
    kind: u16,
    body: AlignedVec,
}

impl Sealed {
    pub(crate) fn of<T>(kind: u16, body: &T) -> Result<Sealed, WireError>
    where
        T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
    {
        Ok(Sealed { kind, body: encode(body)? })
    }

    /// The frame, of which nobody waits for an answer and which is none.
    pub(crate) fn into_frame(self) -> Frame {
        let header = FrameHeader { kind: self.kind, ..FrameHeader::default() };
        Frame::new(header, AlignedBytes::from(self.body))
    }

    /// The frame of a question of `process`, or of the answer to it. A client asks for itself, as process 0.
    pub(crate) fn into_frame_about(self, process: u64, request: u64) -> Frame {
        let mut frame = self.into_frame();
        frame.header.incarnation = process;
        frame.header.trace = request;
        frame
    }
}

/// Words of which each has a kind.
pub(crate) trait Kinds: Sized {
    /// The word as it travels.
    fn seal(self) -> Result<Sealed, WireError>;
    /// The word of `kind` in `body`, 16-byte aligned; `None` where the kind is none of these.
    fn open(kind: u16, body: &[u8]) -> Result<Option<Self>, WireError>;
}

/// Gives the variants of an enum their numbers: `0x0201 = Launch(launch)`, `0x0202 = Stop { process, by }`.
macro_rules! kinds {
    ($words:ident: $(
        $kind:literal = $variant:ident $(($inner:ident))? $({ $($field:ident),+ })?
    ),+ $(,)?) => {
        impl $crate::kinds::Kinds for $words {
            fn seal(self) -> Result<$crate::kinds::Sealed, lyceum_wire::WireError> {
                match self {
                    $($words::$variant $(($inner))? $({ $($field),+ })? => {
                        $crate::kinds::Sealed::of($kind, &($($inner,)? $($($field,)+)?))
                    })+
                }
            }

            fn open(kind: u16, body: &[u8]) -> Result<Option<Self>, lyceum_wire::WireError> {
                match kind {
                    $($kind => {
                        let ($($inner,)? $($($field,)+)?) = $crate::kinds::decode(body)?;
                        Ok(Some($words::$variant $(($inner))? $({ $($field),+ })?))
                    })+
                    _ => Ok(None),
                }
            }
        }
    };
}
pub(crate) use kinds;
