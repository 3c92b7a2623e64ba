//! The CorpusReader's mind: what it offers, leases and remembers, without an actor around it.
//!
//! Chains of a source leave in their order, up to the horizon that the Packer has granted. Raw chains are tokenized here
//! and offered at once; chains to convert wait for a synthesizer. A chain is settled when the Packer has recorded it,
//! whoever made it (L1).

use std::collections::BTreeMap;

use lyceum_corpus::chain::{Chain, ChainId, ChainRecord, Treatment};
use lyceum_corpus::document::{Content, ReadError, ReaderOptions};
use lyceum_corpus::lease::LeaseTable;
use lyceum_corpus::order::{Order, OrderOptions};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};
use lyceum_synth::synthesize::{raw_record, tuning_record};

use crate::roles::{ReaderReport, RecordedChains};
use crate::run_file::{RunFile, SourceKind};

/// Most chains that wait for a synthesizer or are held by one.
const MOST_OPEN: usize = 4096;

/// Why the corpus cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// A file cannot be read, or has too many bad entries.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The model's tokenizer cannot be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There are more sources than ids for them.
    #[error("{0} sources: at most 65,535 have ids")]
    Sources(usize),
}

/// What the reader has to tell the Packer next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A raw chain, ready to be recorded.
    Offer(ChainRecord),
    /// The source has no more chains than `chains`.
    End {
        /// Index of the source.
        source: u16,
        /// Chains of all its epochs together.
        chains: u64,
    },
}

/// Forms chains and knows who holds them.
pub struct Reader {
    tokenizer: Tokenizer,
    sources: Vec<Source>,
    leases: LeaseTable<u64>,
    /// Chains that are not recorded yet and not raw.
    open: BTreeMap<ChainId, Chain>,
}

struct Source {
    order: Order,
    kind: SourceKind,
    shots: usize,
    recorded: RecordedChains,
    converted: bool,
    ended: bool,
}

impl Reader {
    /// Opens the corpus of `run`. `recorded` tells, a source each, what need not be made again.
    pub fn open(run: &RunFile, recorded: Vec<RecordedChains>) -> Result<Self, ReaderError> {
        let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json"))?;
        let mut sources = Vec::with_capacity(run.sources.len());
        let mut recorded = recorded.into_iter();
        for (index, source) in run.sources.iter().enumerate() {
            let id = u16::try_from(index).map_err(|_| ReaderError::Sources(run.sources.len()))?;
            let reading = ReaderOptions {
                bad_share: source.max_bad_share,
                content: match source.kind {
                    SourceKind::Text => Content::Field("text".into()),
                    SourceKind::Tuning => Content::Record,
                },
                ..ReaderOptions::new(source.paths.clone())
            };
            let synthesizer = run.synthesizer.as_ref();
            let options = OrderOptions {
                seed: run.seed,
                window: synthesizer.map_or(4096, |synthesizer| synthesizer.window as usize),
                converted: source.converted,
                rounds: synthesizer.map_or(1, |synthesizer| synthesizer.rounds as usize),
                epochs: source.epochs,
            };
            let recorded = recorded.next().unwrap_or_default();
            let order = Order::new(id, reading, options, recorded.below)?;
            sources.push(Source {
                order,
                kind: source.kind,
                shots: source.shots as usize,
                recorded,
                converted: source.converted > 0.0,
                ended: false,
            });
        }
        Ok(Self { tokenizer, sources, leases: LeaseTable::new(MOST_OPEN), open: BTreeMap::new() })
    }

    /// One unit of work: at most one chain of one source. `None` when nothing may be offered before the Packer or a
    /// synthesizer moves.
    pub fn next_output(&mut self) -> Result<Option<Output>, ReaderError> {
        for index in 0..self.sources.len() {
            while let Some(chain) = self.next_chain(index)? {
                let chain = match chain {
                    Next::Chain(chain) => chain,
                    Next::End { source, chains } => return Ok(Some(Output::End { source, chains })),
                };
                match chain.treatment {
                    Treatment::Raw => return Ok(Some(Output::Offer(self.raw_record(index, &chain)?))),
                    Treatment::Convert => {
                        // The room was checked before the chain was formed, and its number is new.
                        if self.leases.offer(chain.id).is_ok() {
                            self.open.insert(chain.id, chain);
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// The next chain of a source that is not recorded, if the horizon and the lease table have room for it.
    fn next_chain(&mut self, index: usize) -> Result<Option<Next>, ReaderError> {
        let source = &mut self.sources[index];
        while !source.ended && source.order.next_number() < source.recorded.horizon && self.leases.room() > 0
        {
            match source.order.next() {
                Some(chain) => {
                    let chain = chain?;
                    if !source.recorded.contains(chain.id.number) {
                        return Ok(Some(Next::Chain(chain)));
                    }
                }
                None => {
                    source.ended = true;
                    let (source_id, chains) = (index as u16, source.order.next_number());
                    return Ok(Some(Next::End { source: source_id, chains }));
                }
            }
        }
        Ok(None)
    }

    /// Up to `most` waiting chains, which `holder` then holds.
    pub fn lease(&mut self, holder: u64, most: usize) -> Vec<Chain> {
        let mut chains = Vec::new();
        while chains.len() < most
            && let Some(id) = self.leases.lease(holder)
        {
            match self.open.get(&id) {
                Some(chain) => chains.push(chain.clone()),
                // Recorded from a holder that was thought lost: nothing is left to do.
                None => _ = self.leases.answer(holder, id),
            }
        }
        chains
    }

    /// The Packer has recorded `chain`.
    pub fn recorded(&mut self, chain: ChainId) {
        self.open.remove(&chain);
        if let Some(holder) = self.leases.holder(chain) {
            // It is held by this very holder: the answer cannot be refused.
            _ = self.leases.answer(holder, chain);
        }
    }

    /// Chains of `source` below `horizon` may be offered now.
    pub fn extend(&mut self, source: u16, horizon: u64) {
        if let Some(source) = self.sources.get_mut(usize::from(source)) {
            source.recorded.horizon = source.recorded.horizon.max(horizon);
        }
    }

    /// `holder` is gone; returns how many of its chains wait for another.
    pub fn release(&mut self, holder: u64) -> usize {
        self.leases.lost(holder).len()
    }

    /// Whether chains to convert wait, are held, or may still come.
    pub fn work_left(&self) -> bool {
        !self.open.is_empty() || self.sources.iter().any(|source| source.converted && !source.ended)
    }

    /// How it stands.
    pub fn report(&self) -> ReaderReport {
        let waiting = self.leases.waiting() as u64;
        ReaderReport { waiting, leased: self.leases.open() as u64 - waiting, work_left: self.work_left() }
    }

    /// The record of a chain that no synthesizer sees.
    fn raw_record(&self, index: usize, chain: &Chain) -> Result<ChainRecord, TokenizerError> {
        match self.sources[index].kind {
            SourceKind::Text => raw_record(&self.tokenizer, chain),
            SourceKind::Tuning => tuning_record(&self.tokenizer, self.sources[index].shots, chain),
        }
    }
}

enum Next {
    Chain(Chain),
    End { source: u16, chains: u64 },
}
