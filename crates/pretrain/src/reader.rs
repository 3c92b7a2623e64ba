//! The CorpusReader's mind: what it forms, supplies, leases and remembers, without an actor around it.
//!
//! Chains of a source are formed in their order, as far as the Packer's [`Allowance`] goes. Raw chains wait for the
//! Packer to ask, and are tokenized then; chains to convert wait for a synthesizer. A chain is settled when the Packer
//! has recorded it, whoever made it (L1).

use std::collections::{BTreeMap, VecDeque};

use lyceum_corpus::chain::{Chain, ChainId, ChainRecord, Treatment};
use lyceum_corpus::document::ReadError;
use lyceum_corpus::lease::LeaseTable;
use lyceum_corpus::order::{Order, OrderOptions};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};
use lyceum_synth::synthesize::{raw_record, tuning_record};

use crate::limits::Limits;
use crate::roles::{Allowance, ReaderReport, RecordedChains, Supplied};
use crate::run_file::{RunFile, SourceKind};

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

/// Forms chains and knows who holds them.
pub struct Reader {
    tokenizer: Tokenizer,
    limits: Limits,
    sources: Vec<Source>,
    leases: LeaseTable<u64>,
    /// Chains to convert that are not recorded yet.
    open: BTreeMap<ChainId, Chain>,
    /// Bytes of these, and of the raw chains that wait.
    bytes: usize,
}

struct Source {
    order: Order,
    kind: SourceKind,
    shots: usize,
    recorded: RecordedChains,
    converted: bool,
    /// Raw chains that the Packer has not asked for yet, in order.
    raw: VecDeque<Chain>,
    end: End,
}

/// What is known of a source's end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Ahead,
    /// It has so many chains, and the Packer does not know yet.
    Found(u64),
    Told,
}

impl Reader {
    /// Opens the corpus of `run`. `recorded` tells, a source each, what need not be made again.
    pub fn open(run: &RunFile, recorded: Vec<RecordedChains>) -> Result<Self, ReaderError> {
        Self::with_limits(run, recorded, Limits::default())
    }

    /// The same with other limits.
    pub fn with_limits(
        run: &RunFile,
        recorded: Vec<RecordedChains>,
        limits: Limits,
    ) -> Result<Self, ReaderError> {
        let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json"))?;
        let mut sources = Vec::with_capacity(run.sources.len());
        let mut recorded = recorded.into_iter();
        for (index, source) in run.sources.iter().enumerate() {
            let id = u16::try_from(index).map_err(|_| ReaderError::Sources(run.sources.len()))?;
            let synthesizer = run.synthesizer.as_ref();
            let options = OrderOptions {
                seed: run.seed,
                window: synthesizer.map_or(4096, |synthesizer| synthesizer.window as usize),
                converted: source.converted,
                rounds: synthesizer.map_or(1, |synthesizer| synthesizer.rounds as usize),
                epochs: source.epochs,
                ..OrderOptions::default()
            };
            let recorded = recorded.next().unwrap_or_default();
            let order = Order::new(id, source.reading(), options, recorded.allowance.next)?;
            let (next, above) = (recorded.allowance.next, recorded.above.len());
            tracing::info!(source = source.name, next, recorded_ahead = above, "a source is open");
            sources.push(Source {
                order,
                kind: source.kind,
                shots: source.shots as usize,
                recorded,
                converted: source.converted > 0.0,
                raw: VecDeque::new(),
                end: End::Ahead,
            });
        }
        // Beyond the bound, each source may have the one chain that everything waits for.
        let leases = LeaseTable::new(limits.held_chains + sources.len());
        Ok(Self { tokenizer, limits, sources, leases, open: BTreeMap::new(), bytes: 0 })
    }

    /// For each source, how far it may go now.
    pub fn allow(&mut self, allowances: &[Allowance]) {
        for (source, allowance) in self.sources.iter_mut().zip(allowances) {
            source.recorded.allowance = *allowance;
        }
    }

    /// Raw chains that the Packer has room for, those that it draws next first, and sources that have ended.
    pub fn supply(&mut self) -> Result<Supplied, ReaderError> {
        let mut supplied = Supplied::default();
        let mut bytes = 0;
        for only_next in [true, false] {
            for index in 0..self.sources.len() {
                while bytes < self.limits.supply_bytes
                    && let Some(chain) = self.next_raw(index, only_next)?
                {
                    let record = self.raw_record(index, &chain)?;
                    bytes += record.memory();
                    supplied.records.push(record);
                }
            }
        }
        for (id, source) in (0..).zip(&mut self.sources) {
            if let End::Found(chains) = source.end {
                source.end = End::Told;
                supplied.ends.push((id, chains));
            }
        }
        supplied.done = self.sources.iter().all(|source| source.end == End::Told && source.raw.is_empty());
        Ok(supplied)
    }

    /// The next raw chain of a source that the Packer has room for.
    fn next_raw(&mut self, index: usize, only_next: bool) -> Result<Option<Chain>, ReaderError> {
        while self.sources[index].raw.is_empty() && self.form(index)? {}
        let source = &mut self.sources[index];
        let Allowance { next, room, .. } = source.recorded.allowance;
        let wanted = source.raw.front().is_some_and(|chain| chain.id.number == next || (room && !only_next));
        let chain = if wanted { source.raw.pop_front() } else { None };
        self.bytes -= chain.as_ref().map_or(0, Chain::memory);
        Ok(chain)
    }

    /// Forms one chain of a source, if it may go on and there is room to keep it; returns whether it did.
    fn form(&mut self, index: usize) -> Result<bool, ReaderError> {
        let room = self.bytes < self.limits.held_bytes && self.leases.open() < self.limits.held_chains;
        let source = &mut self.sources[index];
        loop {
            let (number, allowance) = (source.order.next_number(), source.recorded.allowance);
            let free = number < allowance.horizon && room && allowance.room;
            if source.end != End::Ahead || !(free || number <= allowance.next) {
                return Ok(false);
            }
            let Some(chain) = source.order.next() else {
                let chains = source.order.next_number();
                tracing::info!(source = index, chains, "a source has ended");
                source.end = End::Found(chains);
                return Ok(false);
            };
            let chain = chain?;
            if source.recorded.contains(chain.id.number) {
                continue;
            }
            self.bytes += chain.memory();
            match chain.treatment {
                Treatment::Raw => source.raw.push_back(chain),
                Treatment::Convert => {
                    // Its number is new, and the table has room for the bound and one more a source.
                    if self.leases.offer(chain.id).is_ok() {
                        self.open.insert(chain.id, chain);
                    }
                }
            }
            return Ok(true);
        }
    }

    /// Up to `most` waiting chains, which `holder` then holds: those first that are drawn next.
    pub fn lease(&mut self, holder: u64, most: usize) -> Result<Vec<Chain>, ReaderError> {
        let mut chains = Vec::new();
        let mut bytes = 0;
        while chains.len() < most && bytes < self.limits.lease_bytes {
            let sources = &self.sources;
            let distance = |chain: ChainId| {
                let Allowance { next, room, .. } = sources[usize::from(chain.source)].recorded.allowance;
                (room || chain.number <= next).then(|| chain.number.saturating_sub(next))
            };
            let Some(id) = self.leases.lease(holder, distance) else {
                if self.form_any()? {
                    continue;
                }
                break;
            };
            if let Some(chain) = self.open.get(&id) {
                bytes += chain.memory();
                chains.push(chain.clone());
            }
        }
        Ok(chains)
    }

    /// Forms one chain of the source that is nearest to what the Packer draws next and may go on.
    fn form_any(&mut self) -> Result<bool, ReaderError> {
        let mut order: Vec<(u64, usize)> = self
            .sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.converted)
            .map(|(index, source)| {
                let ahead = source.order.next_number().saturating_sub(source.recorded.allowance.next);
                (ahead, index)
            })
            .collect();
        order.sort_unstable();
        for (_, index) in order {
            if self.form(index)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The Packer has recorded `chain`, whoever made it.
    pub fn recorded(&mut self, chain: ChainId) {
        if let Some(chain) = self.open.remove(&chain) {
            self.bytes -= chain.memory();
        }
        self.leases.settle(chain);
    }

    /// `holder` is gone; returns how many of its chains wait for another.
    pub fn release(&mut self, holder: u64) -> usize {
        self.leases.lost(holder).len()
    }

    /// Whether chains to convert wait, are held, or may still come.
    pub fn work_left(&self) -> bool {
        !self.open.is_empty()
            || self.sources.iter().any(|source| source.converted && source.end == End::Ahead)
    }

    /// How it stands.
    pub fn report(&self) -> ReaderReport {
        let waiting = self.leases.waiting() as u64;
        ReaderReport {
            waiting,
            leased: self.leases.open() as u64 - waiting,
            bytes: self.bytes as u64,
            work_left: self.work_left(),
        }
    }

    /// The record of a chain that no synthesizer sees.
    fn raw_record(&self, index: usize, chain: &Chain) -> Result<ChainRecord, TokenizerError> {
        match self.sources[index].kind {
            SourceKind::Text => raw_record(&self.tokenizer, chain),
            SourceKind::Tuning => tuning_record(&self.tokenizer, self.sources[index].shots, chain),
        }
    }
}
