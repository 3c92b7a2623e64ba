//! What can travel: types with an rkyv archive.

use rkyv::{
    Archive, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::output::Output;

/// The serializer that archives messages.
pub type Encoder<'a> = HighSerializer<Output, ArenaHandle<'a>, rancor::Error>;
/// The validator that checks a received archive once.
pub type Validator<'a> = HighValidator<'a, rancor::Error>;
/// The deserializer behind [`Incoming::read`](crate::Incoming::read).
pub type Decoder = HighDeserializer<rancor::Error>;

/// A message, a reply or an actor's arguments: any type that derives rkyv's `Archive`, `Serialize` and
/// `Deserialize`. Implemented for all of them; never by hand.
pub trait Message:
    Archive<Archived: for<'a> CheckBytes<Validator<'a>> + Deserialize<Self, Decoder> + Send + Sync>
    + for<'a> Serialize<Encoder<'a>>
    + Send
    + Sync
    + Sized
    + 'static
{
}

impl<M> Message for M
where
    M: Archive + for<'a> Serialize<Encoder<'a>> + Send + Sync + Sized + 'static,
    M::Archived: for<'a> CheckBytes<Validator<'a>> + Deserialize<M, Decoder> + Send + Sync,
{
}

/// `message` as archived bytes, 16-byte aligned. Fails only where a field's own `Serialize` does.
pub fn encode<M: Message>(message: &M) -> Result<AlignedVec, rancor::Error> {
    encode_to(message, Output::default()).map(Output::into_bytes)
}

/// `message` as archived bytes in `output`, which has none yet.
pub(crate) fn encode_to<M: Message>(message: &M, output: Output) -> Result<Output, rancor::Error> {
    rkyv::api::high::to_bytes_in(message, output)
}

/// A message type's number on the wire: a hash of its name and archived size and alignment, the same in every process
/// and build, which `DefaultHasher` does not promise.
pub(crate) fn message_id<M: Message>() -> u64 {
    let layout = (size_of::<M::Archived>() as u64) << 16 | align_of::<M::Archived>() as u64;
    chained(layout, std::any::type_name::<M>().as_bytes())
}

/// A hash of what `before` is one of, and of `bytes`.
pub(crate) fn chained(before: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, before)
}
