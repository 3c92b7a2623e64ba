//! From recorded chains to logged batches: records, log, mixer and packer as one machine that resumes where it was.
//!
//! The way of a chain: [`Assembly::record`] makes it durable; in its source's order it is drawn when the [`Mixer`] says
//! that its source is next; its texts are packed; the batch is logged and only then handed out to be written and
//! trained. After a restart [`Assembly::open`] derives all of it again from the two journals, so the batches that
//! follow are the same bytes, wherever the process was killed (L1, L5).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

use crate::batch_log::{self, BatchLog, LogError};
use crate::chain::{Accounts, ChainId, ChainRecord, Text, TextId};
use crate::journal::Journal;
use crate::mix::Mixer;
use crate::pack::{BatchPlan, BatchShape, LayoutError, Packer};
use crate::record::{RecordError, RecordStore};
use crate::reorder::{ReorderError, ReorderWindow, Turn};

/// What batches are made of.
#[derive(Debug, Clone)]
pub struct AssemblyOptions {
    /// Shape of every batch.
    pub shape: BatchShape,
    /// Share of each source by tokens, in the order of the sources.
    pub weights: Vec<u32>,
    /// Chains of a source that may wait for an earlier one.
    pub window_chains: u64,
    /// Bytes of a source's chains that wait in memory; what comes beyond them is read again when its turn comes.
    pub window_bytes: usize,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The chain is too far ahead: keep it and try again when batches were made.
    #[error("chain {chain} cannot be taken yet: {reason}")]
    NotYet {
        /// The chain.
        chain: ChainId,
        /// Which bound is reached.
        reason: ReorderError,
    },
    /// The chain is of a source that the mixture does not have.
    #[error("chain {chain} is of source {}, but the mixture has {sources} sources", chain.source)]
    NoSource {
        /// The chain.
        chain: ChainId,
        /// Sources there are.
        sources: usize,
    },
    /// The recorded chains failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The batch log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Log and records disagree.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A logged piece names a text that its recorded chain does not have.
    #[error(
        "the batch log names {0:?}, which its recorded chain does not have: the folders do not belong together"
    )]
    NoText(TextId),
}

/// What [`Assembly::next_batch`] came to.
#[derive(Debug)]
pub enum Next {
    /// A batch, logged at this position: write it with [`crate::batch::write`] and hand it out.
    Batch(u64, BatchPlan),
    /// Nothing yet: this chain must be recorded first.
    Waits(ChainId),
    /// All sources have ended and all batches were made.
    Ended,
}

/// The machine. Durable state is in two folders, `records` and `batches`; everything else follows from it.
pub struct Assembly {
    options: AssemblyOptions,
    records: RecordStore,
    log: BatchLog,
    mixer: Mixer,
    packer: Packer,
    windows: Vec<ReorderWindow<ChainRecord>>,
    ends: BTreeMap<u16, u64>,
    drawn: Vec<(ChainId, u64)>,
    ended: Vec<u16>,
    accounts: Accounts,
}

impl Assembly {
    /// Whether anything is recorded in `folder`: what was recorded decides what may still be changed about a run.
    pub fn holds_records(folder: &Path) -> Result<bool, AssemblyError> {
        for part in ["records", "batches"] {
            if Journal::holds_records(&folder.join(part)).map_err(RecordError::from)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the run in `folder` for the writer of `epoch`, new or resumed.
    pub fn open(folder: &Path, epoch: u64, options: AssemblyOptions) -> Result<Self, AssemblyError> {
        let records = RecordStore::open(&folder.join("records"), epoch)?;
        let log = BatchLog::open(&folder.join("batches"), epoch)?;
        let mut mixer = Mixer::new(&options.weights);
        let mut windows = Vec::with_capacity(options.weights.len());
        for source in 0..options.weights.len() {
            let drawn = log.summary().sources.get(&(source as u16)).copied().unwrap_or_default();
            mixer.draw(source, drawn.tokens);
            if drawn.ended {
                mixer.end(source);
            }
            windows.push(ReorderWindow::new(drawn.next_chain, options.window_chains, options.window_bytes));
        }
        let mut assembly = Self {
            packer: Packer::new(options.shape),
            options,
            records,
            log,
            mixer,
            windows,
            ends: BTreeMap::new(),
            drawn: Vec::new(),
            ended: Vec::new(),
            accounts: Accounts::default(),
        };
        assembly.requeue()?;
        Ok(assembly)
    }

    /// The number of the next chain that `source` needs: the order starts there. Those that are recorded already
    /// ([`Assembly::is_recorded`]) need not be made again.
    pub fn next_chain(&self, source: u16) -> u64 {
        self.windows.get(usize::from(source)).map_or(0, ReorderWindow::next_number)
    }

    /// Whether a chain is recorded, so that it need not be made (again).
    pub fn is_recorded(&self, chain: ChainId) -> bool {
        self.records.contains(chain)
    }

    /// Takes what was made of a chain, in any order within the window. Not durable before [`Assembly::next_batch`] or
    /// [`Assembly::sync`]. A chain that is recorded already is refused ([`RecordError::Repeated`]) and changes nothing.
    pub fn record(&mut self, record: ChainRecord) -> Result<(), AssemblyError> {
        let chain = record.chain;
        let sources = self.windows.len();
        let window = self
            .windows
            .get_mut(usize::from(chain.source))
            .ok_or(AssemblyError::NoSource { chain, sources })?;
        if self.records.contains(chain) {
            return Err(RecordError::Repeated(chain).into());
        }
        window.check(chain.number).map_err(|reason| AssemblyError::NotYet { chain, reason })?;
        self.records.append(&record)?;
        let bytes = record.memory();
        window.insert(chain.number, bytes, record).map_err(|reason| AssemblyError::NotYet { chain, reason })
    }

    /// Whether chains of `source` other than the next one should be made now (L2).
    pub fn has_room(&self, source: u16) -> bool {
        self.windows.get(usize::from(source)).is_some_and(ReorderWindow::has_room)
    }

    /// Forces the recorded chains to the disk: before a synthesizer is told that its answer is safe.
    pub fn sync(&mut self) -> Result<(), AssemblyError> {
        Ok(self.records.sync()?)
    }

    /// Notes that `source` ends before chain `number`: there are that many chains, no more.
    pub fn end_source(&mut self, source: u16, number: u64) {
        self.ends.insert(source, number);
    }

    /// The batch log.
    pub fn log(&self) -> &BatchLog {
        &self.log
    }

    /// The accounts of all chains whose texts are in batches or that gave none (L1). Chains at the very end of the data
    /// that give no token are in no entry of the log; once everything has ended they are counted here.
    pub fn accounts(&self) -> Accounts {
        let mut accounts = self.log.summary().accounts.clone();
        if self.mixer.next().is_none() && self.packer.queued() == 0 {
            accounts.add(&self.accounts);
        }
        accounts
    }

    /// Chains of `source` that wait to be drawn.
    pub fn waiting(&self, source: u16) -> usize {
        self.windows.get(usize::from(source)).map_or(0, ReorderWindow::len)
    }

    /// Bytes of all chains that wait to be drawn, and of those the ones that are kept in memory (L2).
    pub fn waiting_bytes(&self) -> (usize, usize) {
        let sum = |of: fn(&ReorderWindow<ChainRecord>) -> usize| self.windows.iter().map(of).sum();
        (sum(ReorderWindow::bytes), sum(ReorderWindow::kept_bytes))
    }

    /// Draws chains until a batch is full, logs it and returns it; or says what is waited for. After an error the
    /// machine is to be dropped and opened again: what it drew is derived anew.
    pub fn next_batch(&mut self) -> Result<Next, AssemblyError> {
        if self.log.summary().ended {
            return Ok(Next::Ended);
        }
        let (plan, last) = loop {
            if let Some(plan) = self.packer.next_batch() {
                break (plan, false);
            }
            match self.draw()? {
                Draw::Chain => {}
                Draw::Waits(chain) => return Ok(Next::Waits(chain)),
                Draw::Ended => match self.packer.last_batch() {
                    Some(plan) => break (plan, true),
                    None => return Ok(Next::Ended),
                },
            }
        };
        self.records.sync()?;
        let position = self.log.len();
        self.log.append(&batch_log::Entry {
            position,
            shape: self.options.shape,
            drawn: std::mem::take(&mut self.drawn),
            ended: std::mem::take(&mut self.ended),
            rows: plan.layout(),
            accounts: std::mem::take(&mut self.accounts),
            tokens: plan.tokens(),
            last,
        })?;
        Ok(Next::Batch(position, plan))
    }

    /// The plan of a logged batch, made again from the recorded texts: the same bytes (L5).
    pub fn replay(&self, position: u64) -> Result<BatchPlan, AssemblyError> {
        let entry = self.log.read(position)?;
        let mut chains = BTreeMap::new();
        BatchPlan::replay(entry.shape, &entry.rows, |id| self.text(&mut chains, id))
    }

    fn text(
        &self,
        chains: &mut BTreeMap<ChainId, Vec<Arc<Text>>>,
        id: TextId,
    ) -> Result<Arc<Text>, AssemblyError> {
        let texts = match chains.entry(id.chain) {
            Entry::Occupied(texts) => texts.into_mut(),
            Entry::Vacant(place) => {
                place.insert(self.records.read(id.chain)?.texts.into_iter().map(Arc::new).collect())
            }
        };
        texts.get(id.index as usize).cloned().ok_or(AssemblyError::NoText(id))
    }

    fn draw(&mut self) -> Result<Draw, AssemblyError> {
        while let Some(source) = self.mixer.next() {
            let window = &mut self.windows[source];
            let chain = ChainId { source: source as u16, number: window.next_number() };
            if self.ends.get(&chain.source).is_some_and(|&end| chain.number >= end) {
                self.mixer.end(source);
                self.ended.push(chain.source);
                continue;
            }
            let record = match window.pop() {
                Some(Turn::Kept(record)) => record,
                Some(Turn::Elsewhere) => self.records.read(chain)?,
                None if self.records.contains(chain) => {
                    // Recorded before a restart.
                    let record = self.records.read(chain)?;
                    window.pass();
                    record
                }
                None => return Ok(Draw::Waits(chain)),
            };
            self.accounts.add(&record.accounts());
            self.drawn.push((chain, record.tokens()));
            self.mixer.draw(source, record.tokens());
            for (index, text) in record.texts.into_iter().enumerate() {
                self.packer.push(TextId { chain, index: index as u32 }, Arc::new(text));
            }
            return Ok(Draw::Chain);
        }
        Ok(Draw::Ended)
    }

    /// Puts back what was drawn but is in no batch yet: everything after the last piece of the log.
    fn requeue(&mut self) -> Result<(), AssemblyError> {
        let mut last_piece = None;
        let mut drawn = Vec::new();
        for position in (0..self.log.len()).rev() {
            let entry = self.log.read(position)?;
            drawn.splice(0..0, entry.drawn.iter().map(|&(chain, _)| chain));
            last_piece = last_piece.or_else(|| entry.rows.iter().flatten().last().copied());
            if last_piece.is_some_and(|piece| drawn.contains(&piece.text.chain)) {
                break;
            }
        }
        let Some(piece) = last_piece else { return Ok(()) };
        let from = drawn.iter().position(|&chain| chain == piece.text.chain).unwrap_or(0);
        for &chain in &drawn[from..] {
            for (index, text) in self.records.read(chain)?.texts.into_iter().enumerate() {
                let id = TextId { chain, index: index as u32 };
                let used = match id {
                    id if id == piece.text => piece.end(),
                    id if id.chain == piece.text.chain && id.index < piece.text.index => continue,
                    _ => 0,
                };
                self.packer.push_rest(id, Arc::new(text), used);
            }
        }
        Ok(())
    }
}

enum Draw {
    Chain,
    Waits(ChainId),
    Ended,
}
