//! What can travel: types with an rkyv archive.

use rkyv::{
    Archive, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};

/// The serializer that archives messages.
pub type Encoder<'a> = HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>;
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
    rkyv::to_bytes::<rancor::Error>(message)
}

/// A message type's number on the wire: a hash of its name and archived size and alignment.
pub(crate) fn message_id<M: Message>() -> u64 {
    let mut hash = Fnv::new();
    hash.layout_of::<M>();
    hash.finish()
}

/// FNV-1a, 64 bits: small, and the same in every process and build, which `DefaultHasher` does not promise.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn layout_of<M: Message>(&mut self) {
        self.bytes(std::any::type_name::<M>().as_bytes());
        self.bytes(&(size_of::<M::Archived>() as u64).to_le_bytes());
        self.bytes(&(align_of::<M::Archived>() as u64).to_le_bytes());
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}
