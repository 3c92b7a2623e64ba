//! The order: windows of a source's documents, shuffled, a share of them selected for conversion, then chains.
//!
//! Within a window of at most W documents (fewer where they are very long) everything is a pure function of (seed,
//! source, epoch, window): the shuffle, who is converted, the chains and where they stand among each other. So the
//! order is decided before it is used, it is the same after a restart, and only one window is ever in memory (L2, L5).
//! The documents chosen for conversion form chains by the rounds of Instruction Pre-Training: N texts in M rounds give
//! B = ceil(N/M) chains, and chain i is texts i, i+B, i+2B, ...

use std::collections::VecDeque;

use crate::chain::{Chain, ChainId, Counts, Document, Treatment};
use crate::document::{DocumentReader, ReadError, ReaderOptions};
use crate::random::{Decision, Stream};

const SHUFFLE: Decision = Decision::new("order.shuffle");
const INTERLEAVE: Decision = Decision::new("order.interleave");

/// How a source's documents are ordered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrderOptions {
    /// The run's seed.
    pub seed: u64,
    /// Documents in a window. More mixes better and holds more memory.
    pub window: usize,
    /// Bytes of text after which a window is closed before it has all its documents (L2).
    pub window_bytes: usize,
    /// Share of the documents selected for conversion, 0 to 1.
    pub converted: f64,
    /// Rounds, M: documents in a chain at most.
    pub rounds: usize,
    /// Passes over the source.
    pub epochs: u32,
}

impl Default for OrderOptions {
    /// One pass, windows of 4096 documents or 256 MiB, all converted in two rounds.
    fn default() -> Self {
        Self { seed: 0, window: 4096, window_bytes: 256 << 20, converted: 1.0, rounds: 2, epochs: 1 }
    }
}

/// One chain of a planned window: indices into the window's documents, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedChain {
    /// What is to be done with it.
    pub treatment: Treatment,
    /// Indices of its documents, in the order of the rounds.
    pub documents: Vec<usize>,
}

/// Plans a window of `documents` documents. Pure; each index below `documents` stands in exactly one chain (L1).
pub fn plan_window(
    options: &OrderOptions,
    source: u16,
    epoch: u32,
    window: u64,
    documents: usize,
) -> Vec<PlannedChain> {
    // One number names the window: windows, epochs and sources stay far below these widths.
    let name = (u64::from(source) << 48) ^ (u64::from(epoch) << 32) ^ window;
    let mut order: Vec<usize> = (0..documents).collect();
    Stream::new(options.seed, name, SHUFFLE).shuffle(&mut order);
    let converted = ((documents as f64 * options.converted.clamp(0.0, 1.0)).round() as usize).min(documents);
    let (converted, raw) = order.split_at(converted);
    let mut chains: Vec<PlannedChain> = round_chains(converted, options.rounds)
        .map(|documents| PlannedChain { treatment: Treatment::Convert, documents })
        .collect();
    chains.extend(
        raw.iter().map(|&document| PlannedChain { treatment: Treatment::Raw, documents: vec![document] }),
    );
    if !raw.is_empty() {
        Stream::new(options.seed, name, INTERLEAVE).shuffle(&mut chains);
    }
    chains
}

/// The chains of the rounds: B = ceil(N/M) of them, chain i being texts i, i+B, i+2B, ...
fn round_chains(texts: &[usize], rounds: usize) -> impl Iterator<Item = Vec<usize>> + '_ {
    let chains = texts.len().div_ceil(rounds.max(1));
    (0..chains).map(move |first| texts.iter().skip(first).step_by(chains).copied().collect())
}

/// A source's chains in their order: reads, plans and hands out window by window.
pub struct Order {
    options: OrderOptions,
    reading: ReaderOptions,
    source: u16,
    epoch: u32,
    window: u64,
    reader: DocumentReader,
    number: u64,
    planned: VecDeque<Chain>,
}

impl Order {
    /// The order of the source with index `source`, from chain `first` on: zero for a new run, and for a resumed one
    /// the number of the first chain that the batch log does not know. Earlier windows are read again, not kept.
    pub fn new(
        source: u16,
        reading: ReaderOptions,
        options: OrderOptions,
        first: u64,
    ) -> Result<Self, ReadError> {
        let reader = DocumentReader::new(source, reading.clone());
        let mut order = Self {
            options,
            reading,
            source,
            epoch: 0,
            window: 0,
            reader,
            number: 0,
            planned: VecDeque::new(),
        };
        while order.number < first && order.plan_next()? {
            let known = (first - order.number).min(order.planned.len() as u64);
            order.planned.drain(..known as usize);
            order.number += known;
        }
        Ok(order)
    }

    /// The number of the chain that comes next.
    pub fn next_number(&self) -> u64 {
        self.number
    }

    fn plan_next(&mut self) -> Result<bool, ReadError> {
        while self.epoch < self.options.epochs {
            let mut documents = Vec::new();
            let mut bytes = 0;
            for document in self.reader.by_ref().take(self.options.window.max(1)) {
                let document = document?;
                bytes += document.text.len();
                documents.push(Some(document));
                if bytes >= self.options.window_bytes {
                    break;
                }
            }
            let skipped = self.reader.take_skipped();
            if documents.is_empty() && skipped.is_empty() {
                self.epoch += 1;
                self.window = 0;
                self.reader = DocumentReader::new(self.source, self.reading.clone());
                continue;
            }
            self.plan(documents, skipped);
            return Ok(true);
        }
        Ok(false)
    }

    fn plan(&mut self, mut documents: Vec<Option<Document>>, mut skipped: Counts) {
        let mut planned = plan_window(&self.options, self.source, self.epoch, self.window, documents.len());
        if planned.is_empty() {
            planned.push(PlannedChain { treatment: Treatment::Raw, documents: Vec::new() });
        }
        self.window += 1;
        for (index, chain) in planned.into_iter().enumerate() {
            self.planned.push_back(Chain {
                id: ChainId { source: self.source, number: self.number + index as u64 },
                epoch: self.epoch,
                treatment: chain.treatment,
                documents: chain.documents.iter().filter_map(|&index| documents[index].take()).collect(),
                skipped: std::mem::take(&mut skipped),
            });
        }
    }
}

impl Iterator for Order {
    type Item = Result<Chain, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.planned.is_empty() {
            match self.plan_next() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.epoch = self.options.epochs;
                    return Some(Err(error));
                }
            }
        }
        self.number += 1;
        self.planned.pop_front().map(Ok)
    }
}
