//! The Packer's mind: what it records, how far each source may run ahead, and which batch comes next.
//!
//! Batches below the log's length are replayed from the recorded texts; from there on they are made. Either way the same
//! number gives the same bytes (L5).

use std::path::Path;

use lyceum_corpus::assembly::{Assembly, AssemblyError, AssemblyOptions, Next};
use lyceum_corpus::chain::{Accounts, ChainId, ChainRecord};
use lyceum_corpus::pack::{BatchShape, ShapeError};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};

use crate::limits::Limits;
use crate::roles::{Allowance, PackerReport, RecordedChains};
use crate::run_file::RunFile;

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
    /// A chain is of no source, or ahead of what may be made.
    #[error("chain {chain} came, and chains of its source may be made below {horizon} only")]
    BeyondHorizon {
        /// The chain.
        chain: ChainId,
        /// First number that may not be made yet.
        horizon: u64,
    },
}

/// Chains that may be made beyond what a run is likely to take, besides a tenth of that.
const SPARE_CHAINS: u64 = 8;

/// How many chains of a source are to be made for `left` more batches, where `batches` of them took `chains`: so that a run
/// that is about to end makes few that nobody will train. Were it too few, more are made as these are drawn.
fn chains_to_come(chains: u64, batches: u64, left: u64) -> u64 {
    let Some(expected) = chains.saturating_mul(left).checked_div(batches) else { return u64::MAX };
    expected.saturating_add(expected / 10).saturating_add(SPARE_CHAINS)
}

/// The mind of a Packer.
pub struct Packing {
    assembly: Assembly,
    shape: BatchShape,
    chains_ahead: u64,
    /// Batches that the run takes.
    steps: u64,
    /// For each source, whether synthesizers convert it.
    converted: Vec<bool>,
    sources: u16,
    next: u64,
}

impl Packing {
    /// Opens the records and the log in `folder` for the writer of `epoch`; the first batch will be `from`.
    pub fn open(run: &RunFile, folder: &Path, epoch: u64, from: u64) -> Result<Self, PackingError> {
        Self::with_limits(run, folder, epoch, from, Limits::default())
    }

    /// The same with other limits.
    pub fn with_limits(
        run: &RunFile,
        folder: &Path,
        epoch: u64,
        from: u64,
        limits: Limits,
    ) -> Result<Self, PackingError> {
        let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json"))?;
        let shape = BatchShape::new(
            run.trainer.batch_rows as usize,
            run.trainer.sequence_length as usize,
            tokenizer.eos(),
        )?;
        let largest = run.sources.iter().map(|source| source.share).fold(f64::MIN_POSITIVE, f64::max);
        let weights =
            run.sources.iter().map(|source| (source.share / largest * MILLIONTHS).max(1.0) as u32).collect();
        let options = AssemblyOptions {
            shape,
            weights,
            window_chains: limits.chains_ahead,
            window_bytes: limits.window_bytes / run.sources.len().max(1),
        };
        let assembly = Assembly::open(folder, epoch, options)?;
        let length = assembly.log().len();
        if from > length {
            return Err(PackingError::BeyondLog { position: from, length });
        }
        // The run file was checked to have fewer sources than ids.
        let converted = run.sources.iter().map(|source| source.converted > 0.0).collect();
        Ok(Self {
            assembly,
            shape,
            chains_ahead: limits.chains_ahead,
            steps: run.trainer.steps,
            converted,
            sources: run.sources.len() as u16,
            next: from,
        })
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
        let allowance = self.allowance(source);
        let above = (allowance.next..self.farthest(source))
            .filter(|&number| self.assembly.is_recorded(ChainId { source, number }))
            .collect();
        RecordedChains { above, allowance }
    }

    /// For each source, how far it may go.
    pub fn allowances(&self) -> Vec<Allowance> {
        (0..self.sources).map(|source| self.allowance(source)).collect()
    }

    fn allowance(&self, source: u16) -> Allowance {
        let next = self.assembly.next_chain(source);
        let batches = self.assembly.log().len();
        let ahead = self.chains_ahead.min(chains_to_come(next, batches, self.steps.saturating_sub(batches)));
        Allowance { next, horizon: next + ahead, room: self.assembly.has_room(source) }
    }

    /// Below this any chain is taken. What may be made now, [`Allowance::horizon`], is never beyond it, and may be nearer
    /// than it was a moment ago.
    fn farthest(&self, source: u16) -> u64 {
        self.assembly.next_chain(source) + self.chains_ahead
    }

    /// Records what was made of a chain. One that is recorded already is left as it is: the first answer counts (L1).
    /// Returns whether it was recorded now.
    pub fn record(&mut self, record: ChainRecord) -> Result<bool, PackingError> {
        if self.is_settled(record.chain)? {
            return Ok(false);
        }
        self.assembly.record(record)?;
        Ok(true)
    }

    /// Whether a chain needs no record any more; one that is not to be made yet is an error.
    fn is_settled(&self, chain: ChainId) -> Result<bool, PackingError> {
        let horizon = if chain.source < self.sources { self.farthest(chain.source) } else { 0 };
        if chain.number >= horizon {
            return Err(PackingError::BeyondHorizon { chain, horizon });
        }
        Ok(chain.number < self.assembly.next_chain(chain.source) || self.assembly.is_recorded(chain))
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

    /// How it stands; `ready` and `converted` are the caller's to fill in.
    pub fn report(&self) -> PackerReport {
        let (bytes, kept_bytes) = self.assembly.waiting_bytes();
        PackerReport {
            logged: self.assembly.log().len(),
            ready: 0,
            saturated: (0..).zip(&self.converted).any(|(source, &converted)| {
                let Allowance { horizon, room, .. } = self.allowance(source);
                converted && (!room || self.assembly.is_recorded(ChainId { source, number: horizon - 1 }))
            }),
            converted: 0,
            bytes: bytes as u64,
            kept_bytes: kept_bytes as u64,
            accounts: self.assembly.accounts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::chains_to_come;

    #[test]
    fn a_run_that_is_about_to_end_makes_few_chains_that_nobody_will_train() {
        assert_eq!(chains_to_come(0, 0, 100), u64::MAX, "nothing is known yet");
        assert_eq!(chains_to_come(400, 100, 20), 80 + 8 + 8);
        assert_eq!(chains_to_come(400, 100, 0), 8, "never none: the last batch may need one more");
        assert_eq!(chains_to_come(u64::MAX, 1, 1000), u64::MAX, "no overflow");
    }
}
