//! The batch log: which token range of which recorded text is in which row of which batch.
//!
//! Entry n is the batch of step n. A run's position in its data is one number, the length of the log that it has
//! trained; everything else (which chains are used, how far each source is, the accounts) is derived from the entries.
//! An entry is durable before its batch may be trained, and appending is a compare-and-set on position and epoch.

use std::collections::BTreeMap;
use std::path::Path;

use rkyv::rancor::Error as Rancor;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::chain::{Accounts, ChainId};
use crate::journal::{Durability, Journal, JournalError, JournalOptions, Location};
use crate::pack::{BatchShape, Layout, Piece};

pub(crate) const OPTIONS: JournalOptions = JournalOptions {
    kind: u32::from_le_bytes(*b"BLOG"),
    durability: Durability::EveryAppend,
    file_bytes: 64 << 20,
};

/// One sealed batch.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the log, from zero.
    pub position: u64,
    /// Shape of the batch.
    pub shape: BatchShape,
    /// Chains drawn since the entry before, in the order drawn, with their tokens.
    pub drawn: Vec<(ChainId, u64)>,
    /// Sources found to have ended since the entry before: from here on the mixture leaves them out.
    pub ended: Vec<u16>,
    /// The pieces of each row.
    pub rows: Layout,
    /// What the drawn chains add to the accounts.
    pub accounts: Accounts,
    /// Tokens that are not padding.
    pub tokens: u64,
    /// Whether the data ends with it.
    pub last: bool,
}

/// What can go wrong with a batch log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal underneath failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The entry is for another position than the log's next.
    #[error("an entry for position {given} was given to a log whose next position is {next}")]
    Position {
        /// The entry's position.
        given: u64,
        /// The log's next position.
        next: u64,
    },
    /// There is no such entry.
    #[error("the log has {length} entries, none at position {position}")]
    Missing {
        /// Position asked for.
        position: u64,
        /// Entries there are.
        length: u64,
    },
    /// An entry is whole but not a batch.
    #[error("an entry of the batch log cannot be read: {0}")]
    Content(Rancor),
    /// An entry is one of a batch that cannot be.
    #[error("the entry of the batch log for position {position} cannot be: {reason}")]
    Impossible {
        /// The entry's position.
        position: u64,
        /// What cannot be.
        reason: String,
    },
}

/// What the entries of a log add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Documents and pairs of all drawn chains.
    pub accounts: Accounts,
    /// For each source that was drawn from: the number of its next chain, and the tokens drawn.
    pub sources: BTreeMap<u16, SourceSummary>,
    /// Tokens in all batches, without padding.
    pub tokens: u64,
    /// Whether the last entry ended the data.
    pub ended: bool,
}

/// How far one source was drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceSummary {
    /// The number of the chain that comes next: all before it are drawn.
    pub next_chain: u64,
    /// Tokens drawn, for [`crate::mix::Mixer`].
    pub tokens: u64,
    /// Whether the source was found to have ended.
    pub ended: bool,
}

impl LogSummary {
    fn add(&mut self, entry: &Entry) {
        self.accounts.add(&entry.accounts);
        self.tokens = self.tokens.saturating_add(entry.tokens);
        self.ended = entry.last;
        for &(chain, tokens) in &entry.drawn {
            let source = self.sources.entry(chain.source).or_default();
            source.next_chain = chain.number.saturating_add(1);
            source.tokens = source.tokens.saturating_add(tokens);
        }
        for &source in &entry.ended {
            self.sources.entry(source).or_default().ended = true;
        }
    }
}

/// The durable log of a run's batches. Only the places of entries are in memory: 16 bytes a batch.
#[derive(Debug)]
pub struct BatchLog {
    journal: Journal,
    places: Vec<Location>,
    summary: LogSummary,
}

impl BatchLog {
    /// Opens or creates the log in `folder` for the writer of `epoch`; see [`Journal::open`] for both.
    pub fn open(folder: &Path, epoch: u64) -> Result<Self, LogError> {
        let mut places = Vec::new();
        let mut summary = LogSummary::default();
        let journal = Journal::open(folder, epoch, OPTIONS, |location, payload| {
            let entry = decode(payload)?;
            let next = places.len() as u64;
            if entry.position != next {
                return Err(LogError::Position { given: entry.position, next });
            }
            summary.add(&entry);
            places.push(location);
            Ok(())
        })?;
        Ok(Self { journal, places, summary })
    }

    /// Entries: the position that comes next.
    pub fn len(&self) -> u64 {
        self.places.len() as u64
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What the entries add up to.
    pub fn summary(&self) -> &LogSummary {
        &self.summary
    }

    /// Appends `entry`, durable when this returns. Refused at another position than the next, and when a later epoch
    /// has taken the log over.
    pub fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        let next = self.len();
        if entry.position != next {
            return Err(LogError::Position { given: entry.position, next });
        }
        let payload = rkyv::to_bytes::<Rancor>(entry).map_err(LogError::Content)?;
        let location = self.journal.append(&payload)?;
        self.places.push(location);
        self.summary.add(entry);
        Ok(())
    }

    /// Reads the entry at `position` again.
    pub fn read(&self, position: u64) -> Result<Entry, LogError> {
        let place = usize::try_from(position).ok().and_then(|index| self.places.get(index));
        let place = place.ok_or(LogError::Missing { position, length: self.len() })?;
        decode(&self.journal.read(*place)?)
    }

    /// Bytes that were cut off its end when it was opened.
    pub fn cut(&self) -> u64 {
        self.journal.cut()
    }
}

pub(crate) fn decode(payload: &[u8]) -> Result<Entry, LogError> {
    let mut aligned = AlignedVec::<16>::with_capacity(payload.len());
    aligned.extend_from_slice(payload);
    let entry = rkyv::from_bytes::<Entry, Rancor>(&aligned).map_err(LogError::Content)?;
    let position = entry.position;
    entry.check().map(|()| entry).map_err(|reason| LogError::Impossible { position, reason })
}

impl Entry {
    /// What else relies on, and an archive may break.
    fn check(&self) -> Result<(), String> {
        self.shape.check().map_err(|error| error.to_string())?;
        let ends = |piece: &Piece| piece.start.checked_add(piece.length).is_some_and(|end| end < u32::MAX);
        match self.rows.iter().flatten().find(|piece| !ends(piece)) {
            Some(piece) => Err(format!("a piece of {} tokens begins at {}", piece.length, piece.start)),
            None => Ok(()),
        }
    }
}
