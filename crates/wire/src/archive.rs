//! Validated access to rkyv archives that came from elsewhere.

use std::num::NonZeroUsize;

use rkyv::Portable;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator as Structure;
use rkyv::validation::shared::SharedValidator;

use crate::{Result, WireError};

/// How deep the boxes, vectors and strings of an archive may be nested: a limit on the stack that validation takes.
pub const ARCHIVE_DEPTH: usize = 64;

/// The validator that [`access_checked`] runs; for bounds such as `T::Archived: for<'a> CheckBytes<ArchiveValidator<'a>>`.
pub type ArchiveValidator<'a> = HighValidator<'a, rkyv::rancor::Error>;

/// The archived `T` at the end of `bytes`, once every byte that it reaches has been validated.
///
/// `T` is an archived type, as in `access_checked::<ArchivedGreet>(&frame.payload)` or
/// `access_checked::<rkyv::Archived<Greet>>(..)`. `bytes` must lie aligned for it; [`AlignedBytes`](crate::AlignedBytes)
/// do.
///
/// # Errors
/// [`WireError::Archive`] when the bytes are no valid `T`, lie misaligned or nest deeper than [`ARCHIVE_DEPTH`].
pub fn access_checked<T>(bytes: &[u8]) -> Result<&T>
where
    T: Portable + for<'a> CheckBytes<ArchiveValidator<'a>>,
{
    // rkyv counts down and stops at one, and counts the root too.
    let depth = NonZeroUsize::new(ARCHIVE_DEPTH + 2);
    let mut validator = Validator::new(Structure::with_max_depth(bytes, depth), SharedValidator::new());
    rkyv::api::access_with_context::<T, _, rkyv::rancor::Error>(bytes, &mut validator)
        .map_err(|error| WireError::Archive(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AlignedBytes;
    use proptest::prelude::*;
    use rkyv::{Archive, Archived, Deserialize, Serialize};

    #[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
    struct Message {
        id: u64,
        text: String,
        parts: Vec<Vec<u32>>,
    }

    #[derive(Archive, Serialize)]
    #[rkyv(
        serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
        bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source))
    )]
    struct Nest(#[rkyv(omit_bounds)] Option<Box<Nest>>);

    fn archive(message: &Message) -> AlignedBytes {
        rkyv::to_bytes::<rkyv::rancor::Error>(message).unwrap().into()
    }

    #[test]
    fn a_sound_archive_is_read_in_place() {
        let bytes = archive(&Message { id: 7, text: "a text".into(), parts: vec![vec![1, 2], vec![]] });
        let seen = access_checked::<Archived<Message>>(&bytes).unwrap();
        assert_eq!((seen.id.to_native(), seen.text.as_str(), seen.parts[0][1].to_native()), (7, "a text", 2));
    }

    #[test]
    fn an_archive_nested_too_deep_is_refused() {
        let nested = |depth| {
            let nest = (0..depth).fold(Nest(None), |inner, _| Nest(Some(Box::new(inner))));
            AlignedBytes::from(rkyv::to_bytes::<rkyv::rancor::Error>(&nest).unwrap())
        };
        assert!(access_checked::<Archived<Nest>>(&nested(ARCHIVE_DEPTH)).is_ok());
        assert!(access_checked::<Archived<Nest>>(&nested(ARCHIVE_DEPTH + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_check_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = access_checked::<Archived<Message>>(&AlignedBytes::copy_from(&bytes));
        }

        #[test]
        fn a_changed_archive_is_refused_or_still_sound(
            id: u64, text in ".{0,40}", at: prop::sample::Index, to: u8, cut in 0usize..20,
        ) {
            let mut bytes = archive(&Message { id, text, parts: vec![vec![1; 5]; 3] }).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(bytes.len() - cut);
            if let Ok(seen) = access_checked::<Archived<Message>>(&AlignedBytes::copy_from(&bytes)) {
                let _ = rkyv::deserialize::<Message, rkyv::rancor::Error>(seen).unwrap();
            }
        }
    }
}
