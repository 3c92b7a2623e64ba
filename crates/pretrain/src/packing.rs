//! The Packer's mind: what it records, how far each source may run ahead, and which batch comes next.
//!
//! Batches below the log's length are replayed from the recorded texts; from there on they are made. Either way the same
//! number gives the same bytes (L5).

use std::path::Path;

use lyceum_corpus::assembly::{Assembly, AssemblyError, AssemblyOptions, Next};
use lyceum_corpus::chain::{Accounts, ChainId, ChainRecord};
use lyceum_corpus::pack::{BatchShape, ShapeError};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};

use crate::roles::{PackerReport, RecordedChains};
use crate::run_file::RunFile;

/// Chains of one source that may be recorded before they are drawn (L2).
pub const CHAINS_AHEAD: u64 = 256;

/// Bytes of one source's chains that may be recorded before they are drawn (L2).
const BYTES_AHEAD: usize = 256 << 20;

/// Shares are counted in millionths.
const MILLIONTHS: f64 = 1e6;

/// Why batches cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackingError {
    /// Records or log failed.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The batch shape is impossible.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The model's tokenizer cannot be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The checkpoint was trained on batches that the log does not have.
    #[error(
        "the newest checkpoint stands at batch {position}, and the batch log has {length}: they do not belong together"
    )]
    BeyondLog {
        /// The checkpoint's data position.
        position: u64,
        /// Entries of the log.
        length: u64,
    },
    /// An offered chain is of no source, or ahead of what may be offered.
    #[error("chain {chain} was offered, and chains of its source may be offered below {horizon} only")]
    BeyondHorizon {
        /// The chain.
        chain: ChainId,
        /// First number that may not be offered yet.
        horizon: u64,
    },
}

/// The mind of a Packer.
pub struct Packing {
    assembly: Assembly,
    shape: BatchShape,
    /// For each source, whether synthesizers convert it.
    converted: Vec<bool>,
    sources: u16,
    next: u64,
}

impl Packing {
    /// Opens the records and the log in `folder` for the writer of `epoch`; the first batch will be `from`.
    pub fn open(run: &RunFile, folder: &Path, epoch: u64, from: u64) -> Result<Self, PackingError> {
        let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json"))?;
        let shape = BatchShape::new(
            run.trainer.batch_rows as usize,
            run.trainer.sequence_length as usize,
            tokenizer.eos(),
        )?;
        let largest = run.sources.iter().map(|source| source.share).fold(f64::MIN_POSITIVE, f64::max);
        let weights =
            run.sources.iter().map(|source| (source.share / largest * MILLIONTHS).max(1.0) as u32).collect();
        let options =
            AssemblyOptions { shape, weights, window_chains: CHAINS_AHEAD, window_bytes: BYTES_AHEAD };
        let assembly = Assembly::open(folder, epoch, options)?;
        let length = assembly.log().len();
        if from > length {
            return Err(PackingError::BeyondLog { position: from, length });
        }
        // The run file was checked to have fewer sources than ids.
        let converted = run.sources.iter().map(|source| source.converted > 0.0).collect();
        Ok(Self { assembly, shape, converted, sources: run.sources.len() as u16, next: from })
    }

    /// How many sources there are.
    pub fn sources(&self) -> u16 {
        self.sources
    }

    /// For each source, what is recorded and how far it may go.
    pub fn recorded(&self) -> Vec<RecordedChains> {
        (0..self.sources).map(|source| self.recorded_of(source)).collect()
    }

    fn recorded_of(&self, source: u16) -> RecordedChains {
        let below = self.assembly.next_chain(source);
        let horizon = self.horizon(source);
        let above = (below..horizon)
            .filter(|&number| self.assembly.is_recorded(ChainId { source, number }))
            .collect();
        RecordedChains { below, above, horizon }
    }

    /// Chains of `source` below this number may be offered.
    pub fn horizon(&self, source: u16) -> u64 {
        self.assembly.next_chain(source) + CHAINS_AHEAD
    }

    /// Records what was made of a chain. One that is recorded already is left as it is: the first answer counts (L1). One
    /// for which there is no room yet comes back.
    pub fn offer(&mut self, record: ChainRecord) -> Result<Option<ChainRecord>, PackingError> {
        let chain = record.chain;
        let horizon = if chain.source < self.sources { self.horizon(chain.source) } else { 0 };
        if chain.number >= horizon {
            return Err(PackingError::BeyondHorizon { chain, horizon });
        }
        if chain.number < self.assembly.next_chain(chain.source) || self.assembly.is_recorded(chain) {
            return Ok(None);
        }
        if !self.assembly.has_room(&record) {
            return Ok(Some(record));
        }
        self.assembly.record(record)?;
        Ok(None)
    }

    /// `source` has no more than `chains` chains.
    pub fn end_source(&mut self, source: u16, chains: u64) {
        self.assembly.end_source(source, chains);
    }

    /// The next batch, replayed or new.
    pub fn next_batch(&mut self) -> Result<Next, PackingError> {
        if self.next < self.assembly.log().len() {
            let plan = self.assembly.replay(self.next)?;
            self.next += 1;
            return Ok(Next::Batch(self.next - 1, plan));
        }
        let next = self.assembly.next_batch()?;
        if matches!(next, Next::Batch(..)) {
            self.next += 1;
        }
        Ok(next)
    }

    /// Shape of all batches.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Accounts of the chains that batches below `position` drew from.
    pub fn accounts_below(&self, position: u64) -> Result<Accounts, PackingError> {
        let log = self.assembly.log();
        if position >= log.len() {
            return Ok(self.assembly.accounts());
        }
        let mut accounts = Accounts::default();
        for entry in 0..position {
            accounts.add(&log.read(entry).map_err(AssemblyError::from)?.accounts);
        }
        Ok(accounts)
    }

    /// How it stands; `ready` is the caller's to fill in.
    pub fn report(&self) -> PackerReport {
        PackerReport {
            logged: self.assembly.log().len(),
            ready: 0,
            saturated: (0..).zip(&self.converted).any(|(source, &converted)| {
                let last = ChainId { source, number: self.horizon(source) - 1 };
                converted && self.assembly.is_recorded(last)
            }),
            accounts: self.assembly.accounts(),
        }
    }
}
