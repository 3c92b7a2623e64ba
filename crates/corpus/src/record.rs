//! The store of recorded chains: what synthesizers made, durable before any of it is packed (L1, L5).

use std::collections::BTreeMap;
use std::path::Path;

use rkyv::rancor::Error as Rancor;
use rkyv::util::AlignedVec;

use crate::chain::{ChainId, ChainRecord};
use crate::journal::{Durability, Journal, JournalError, JournalOptions, Location};

pub(crate) const OPTIONS: JournalOptions = JournalOptions {
    kind: u32::from_le_bytes(*b"CHNS"),
    durability: Durability::OnSync,
    file_bytes: 256 << 20,
};

/// What can go wrong with recorded chains.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The journal underneath failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The chain is recorded already: what was made of it first is what counts.
    #[error("chain {0} is recorded already")]
    Repeated(ChainId),
    /// The chain is not recorded.
    #[error(
        "chain {0} is not recorded, though the batch log needs it: the folders of the run do not belong together"
    )]
    Missing(ChainId),
    /// A record is whole but not a chain.
    #[error("a recorded chain cannot be read: {0}")]
    Content(Rancor),
}

/// The recorded chains of a run, by chain. Only their places are in memory: about 40 bytes a chain.
#[derive(Debug)]
pub struct RecordStore {
    journal: Journal,
    places: BTreeMap<ChainId, Location>,
}

impl RecordStore {
    /// Opens or creates the store in `folder` for the writer of `epoch`; see [`Journal::open`] for both.
    pub fn open(folder: &Path, epoch: u64) -> Result<Self, RecordError> {
        let mut places = BTreeMap::new();
        let journal = Journal::open(folder, epoch, OPTIONS, |location, payload| {
            places.insert(decode(payload)?.chain, location);
            Ok::<(), RecordError>(())
        })?;
        Ok(Self { journal, places })
    }

    /// Appends a chain; it is durable after the next [`RecordStore::sync`], and not to be packed before.
    pub fn append(&mut self, record: &ChainRecord) -> Result<(), RecordError> {
        if self.contains(record.chain) {
            return Err(RecordError::Repeated(record.chain));
        }
        let payload = rkyv::to_bytes::<Rancor>(record).map_err(RecordError::Content)?;
        let location = self.journal.append(&payload)?;
        self.places.insert(record.chain, location);
        Ok(())
    }

    /// Forces all appended chains to the disk.
    pub fn sync(&mut self) -> Result<(), RecordError> {
        Ok(self.journal.sync()?)
    }

    /// Whether the chain is recorded.
    pub fn contains(&self, chain: ChainId) -> bool {
        self.places.contains_key(&chain)
    }

    /// Reads a chain again.
    pub fn read(&self, chain: ChainId) -> Result<ChainRecord, RecordError> {
        let location = self.places.get(&chain).ok_or(RecordError::Missing(chain))?;
        decode(&self.journal.read(*location)?)
    }

    /// The recorded chains, in order: those from a batch log's next chain on need not be made again.
    pub fn chains(&self) -> impl Iterator<Item = ChainId> + '_ {
        self.places.keys().copied()
    }

    /// Bytes that were cut off its end when it was opened.
    pub fn cut(&self) -> u64 {
        self.journal.cut()
    }
}

pub(crate) fn decode(payload: &[u8]) -> Result<ChainRecord, RecordError> {
    let mut aligned = AlignedVec::<16>::with_capacity(payload.len());
    aligned.extend_from_slice(payload);
    rkyv::from_bytes::<ChainRecord, Rancor>(&aligned).map_err(RecordError::Content)
}
