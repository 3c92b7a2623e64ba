//! Reader and packing in one process: batches of sources that need no synthesizer, for a run without a cluster.

use std::path::Path;

use lyceum_corpus::assembly::Next;
use lyceum_corpus::chain::Accounts;
use lyceum_corpus::pack::BatchPlan;

use crate::packing::{Packing, PackingError};
use crate::reader::{Reader, ReaderError};
use crate::run_file::RunFile;

/// Why there is no next batch.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The corpus failed.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// Records or log failed.
    #[error(transparent)]
    Packing(#[from] PackingError),
    /// A source is converted, which takes synthesizers.
    #[error("source '{0}' is converted: that takes synthesizers, so run it on a cluster")]
    Converted(String),
    /// A chain is needed, and the reader has nothing to offer.
    #[error("chain {0} is needed and the corpus does not offer it")]
    Stuck(lyceum_corpus::chain::ChainId),
}

/// The batches of a run in order.
pub struct Feed {
    reader: Reader,
    packing: Packing,
}

impl Feed {
    /// Opens the run's records in `folder`; the first batch will be `from`.
    pub fn open(run: &RunFile, folder: &Path, epoch: u64, from: u64) -> Result<Self, FeedError> {
        if let Some(source) = run.sources.iter().find(|source| source.converted > 0.0) {
            return Err(FeedError::Converted(source.name.clone()));
        }
        let packing = Packing::open(run, folder, epoch, from)?;
        let reader = Reader::open(run, packing.recorded())?;
        Ok(Self { reader, packing })
    }

    /// What became of the documents so far.
    pub fn accounts(&self) -> Accounts {
        self.packing.report().accounts
    }

    /// The next batch and its number, or `None` at the end of the data.
    pub fn next_batch(&mut self) -> Result<Option<(u64, BatchPlan)>, FeedError> {
        loop {
            let chain = match self.packing.next_batch()? {
                Next::Batch(position, plan) => return Ok(Some((position, plan))),
                Next::Ended => return Ok(None),
                Next::Waits(chain) => chain,
            };
            self.reader.allow(&self.packing.allowances());
            let supplied = self.reader.supply()?;
            if supplied.records.is_empty() && supplied.ends.is_empty() {
                return Err(FeedError::Stuck(chain));
            }
            for record in supplied.records {
                self.packing.record(record)?;
            }
            for (source, chains) in supplied.ends {
                self.packing.end_source(source, chains);
            }
        }
    }
}
