//! The vocabulary of the data's way: documents, chains of them, what became of a chain, and the accounts.
//!
//! A *chain* is the unit of everything before packing: it is formed, leased, answered, recorded and packed as one,
//! once (L1). Chains of a source are numbered densely in the order in which they will be packed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use rkyv::{Archive, Deserialize, Serialize};

/// A document's stable name: its source, and its ordinal among that source's entries.
///
/// Every line counts as an entry, also one that is rejected, so a document keeps its id whatever becomes of its
/// neighbours; it changes only with the list of files or the lines before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct DocumentId {
    /// Index of the source in the run's list of sources.
    pub source: u16,
    /// Entry number within the source, from zero.
    pub ordinal: u64,
}

impl DocumentId {
    /// One number for [`crate::random::Stream`]: the source in the upper 16 bits, the ordinal below.
    pub fn as_u64(self) -> u64 {
        (u64::from(self.source) << 48) ^ self.ordinal
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.source, self.ordinal)
    }
}

/// A raw text.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Document {
    /// Its stable name.
    pub id: DocumentId,
    /// Its text: valid UTF-8, not empty.
    pub text: String,
}

/// A chain's name: its source and its number in that source's order, dense from zero over all epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct ChainId {
    /// Index of the source in the run's list of sources.
    pub source: u16,
    /// Place in the source's order.
    pub number: u64,
}

impl fmt::Display for ChainId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.source, self.number)
    }
}

/// What is to be done with a chain's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Treatment {
    /// Trained as it is.
    Raw,
    /// Given to a synthesizer for instruction-response pairs.
    Convert,
}

/// One or more documents that go through the system together.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Chain {
    /// Its name and place in the order.
    pub id: ChainId,
    /// Pass over the source, from zero.
    pub epoch: u32,
    /// What is to be done with it.
    pub treatment: Treatment,
    /// Its documents, in the order of the rounds. Empty only for a source's last chain that carries skips alone.
    pub documents: Vec<Document>,
    /// Entries of the corpus that were skipped while this chain's window was read; carried by one chain of the
    /// window, so that each is accounted for once.
    pub skipped: Counts,
}

impl Chain {
    /// Bytes that it holds in memory, about: what bounds count (L2).
    pub fn memory(&self) -> usize {
        let texts = self.documents.iter().map(|document| document.text.len() + size_of::<Document>());
        size_of::<Self>() + texts.sum::<usize>()
    }
}

/// Counts by reason, for instance `{"empty": 3}`.
pub type Counts = BTreeMap<String, u64>;

/// Adds `more` to `counts`, reason by reason. Counts that are read from a file may be anything: they end at the largest.
pub fn add_counts(counts: &mut Counts, more: &Counts) {
    for (reason, count) in more {
        let sum = counts.entry(reason.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
}

/// A document's one final state in an epoch (L1).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum FinalState {
    /// Trained as it was.
    Raw,
    /// Trained with instruction-response pairs.
    Augmented,
    /// Not trained, for this reason.
    Skipped(String),
}

/// Which tokens of a text are learnt.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Loss {
    /// Every token that has a predecessor in the text.
    All,
    /// Only tokens inside these spans (half-open, ascending, in tokens of the text).
    Spans(Vec<Span>),
}

impl Loss {
    /// Whether the token at `index` is learnt, that is, predicted from the token before it.
    pub fn covers(&self, index: u32) -> bool {
        match self {
            Self::All => true,
            Self::Spans(spans) => {
                let after = spans.partition_point(|span| span.start <= index);
                after > 0 && index < spans[after - 1].end
            }
        }
    }
}

/// A half-open range of token indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Span {
    /// First token inside.
    pub start: u32,
    /// First token after it.
    pub end: u32,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }
}

/// A text as it will be trained: with BOS and EOS, ready to be packed.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Text {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Which of them are learnt.
    pub loss: Loss,
}

/// The name of a text: the chain it came from and its index in that chain's [`ChainRecord::texts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct TextId {
    /// The chain.
    pub chain: ChainId,
    /// Index of the text within it.
    pub index: u32,
}

/// What was made of a chain: recorded durably before any of it may be packed, and replayed, never made again.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChainRecord {
    /// The chain.
    pub chain: ChainId,
    /// Texts to train, in order; may be empty when every document was skipped.
    pub texts: Vec<Text>,
    /// The final state of each of the chain's documents.
    pub documents: Vec<(DocumentId, FinalState)>,
    /// Entries skipped before they became documents, from [`Chain::skipped`].
    pub skipped: Counts,
    /// Instruction-response pairs that stand in the texts.
    pub pairs_kept: u64,
    /// Pairs that were dropped, by reason.
    pub pairs_dropped: Counts,
    /// Documents that were to be converted and are trained raw, by reason; they are among the raw ones.
    pub unconverted: Counts,
}

impl ChainRecord {
    /// Tokens of all texts.
    pub fn tokens(&self) -> u64 {
        self.texts.iter().map(|text| text.tokens.len() as u64).sum()
    }

    /// Bytes that it holds in memory, about: what bounds count (L2).
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + 4 * self.tokens() as usize
            + size_of::<Text>() * self.texts.len()
            + size_of::<(DocumentId, FinalState)>() * self.documents.len()
    }

    /// What this chain adds to the accounts.
    pub fn accounts(&self) -> Accounts {
        let mut accounts = Accounts {
            pairs_kept: self.pairs_kept,
            pairs_dropped: self.pairs_dropped.clone(),
            skipped: self.skipped.clone(),
            unconverted: self.unconverted.clone(),
            ..Accounts::default()
        };
        for (_, state) in &self.documents {
            match state {
                FinalState::Raw => accounts.raw += 1,
                FinalState::Augmented => accounts.augmented += 1,
                FinalState::Skipped(reason) => {
                    add_counts(&mut accounts.skipped, &Counts::from([(reason.clone(), 1)]));
                }
            }
        }
        accounts
    }
}

/// How many documents ended in which state, and how many pairs stand: sums over the chains drawn so far.
///
/// `read` is not stored: it is [`Accounts::read`], raw + augmented + skipped (L1).
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Accounts {
    /// Documents trained raw.
    pub raw: u64,
    /// Documents trained with pairs.
    pub augmented: u64,
    /// Entries not trained, by reason.
    pub skipped: Counts,
    /// Pairs trained.
    pub pairs_kept: u64,
    /// Pairs dropped, by reason.
    pub pairs_dropped: Counts,
    /// Documents trained raw though they were to be converted, by reason; they are counted in `raw`.
    pub unconverted: Counts,
}

impl Accounts {
    /// Entries read: raw + augmented + skipped.
    pub fn read(&self) -> u64 {
        self.skipped
            .values()
            .fold(self.raw.saturating_add(self.augmented), |sum, count| sum.saturating_add(*count))
    }

    /// Adds another account to this one.
    pub fn add(&mut self, more: &Accounts) {
        self.raw = self.raw.saturating_add(more.raw);
        self.augmented = self.augmented.saturating_add(more.augmented);
        self.pairs_kept = self.pairs_kept.saturating_add(more.pairs_kept);
        add_counts(&mut self.skipped, &more.skipped);
        add_counts(&mut self.pairs_dropped, &more.pairs_dropped);
        add_counts(&mut self.unconverted, &more.unconverted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_what_is_inside_them_and_nothing_else() {
        let loss = Loss::Spans(vec![Span { start: 2, end: 4 }, Span { start: 6, end: 7 }]);
        let covered: Vec<u32> = (0..9).filter(|&index| loss.covers(index)).collect();
        assert_eq!(covered, [2, 3, 6]);
        assert!(!Loss::Spans(Vec::new()).covers(0));
        assert!(Loss::All.covers(0));
    }

    #[test]
    fn l1_read_is_raw_plus_augmented_plus_skipped() {
        let id = |ordinal| DocumentId { source: 0, ordinal };
        let record = ChainRecord {
            chain: ChainId { source: 0, number: 0 },
            texts: Vec::new(),
            documents: vec![
                (id(0), FinalState::Raw),
                (id(1), FinalState::Augmented),
                (id(2), FinalState::Skipped("empty".into())),
            ],
            skipped: Counts::from([("corrupt json".into(), 2)]),
            pairs_kept: 3,
            pairs_dropped: Counts::new(),
            unconverted: Counts::new(),
        };
        let mut accounts = record.accounts();
        assert_eq!((accounts.read(), accounts.raw, accounts.augmented), (5, 1, 1));
        accounts.add(&record.accounts());
        assert_eq!(accounts.read(), 10);
        assert_eq!(accounts.skipped["corrupt json"], 4);
    }
}
