//! What an actor saves for its next life: an archive, and which type it is of.

use lyceum_wire::AlignedBytes;

use crate::{
    Incoming, Message, Result, System,
    message::{encode, message_id},
};

/// An archive of some message, and behind it the number of its type, little-endian.
#[derive(Clone, Debug)]
pub(crate) struct Saved(Vec<u8>);

/// Bytes of that number.
const TYPE: usize = size_of::<u64>();

impl Saved {
    pub(crate) fn of<M: Message>(state: &M) -> Result<Saved> {
        let mut bytes = encode(state)?.to_vec();
        bytes.extend(message_id::<M>().to_le_bytes());
        Ok(Saved(bytes))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Saved {
        Saved(bytes.to_vec())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn read<M: Message>(&self, system: &System) -> Result<M> {
        let split = self.0.len().saturating_sub(TYPE);
        let (archive, number) = self.0.split_at(split);
        if number != message_id::<M>().to_le_bytes() {
            anyhow::bail!("an earlier life has saved something else than {}", std::any::type_name::<M>());
        }
        let archive = Incoming::<M>::checked(AlignedBytes::copy_from(archive), system);
        Ok(archive
            .map_err(|why| anyhow::anyhow!("what an earlier life has saved does not validate: {why}"))?
            .read()?)
    }
}
