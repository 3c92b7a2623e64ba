//! Packing: texts in, rows of equal length out, nothing truncated, nothing padded before the end of an epoch.
//!
//! Texts are laid end to end into rows of `sequence_length` tokens; a text that does not fit goes on in the next row,
//! also across batches. A row is described by its [`Piece`]s alone, so the same pieces over the same recorded texts
//! give the same bytes again (L5). Each token of each text is an input exactly once, and each token but a text's first
//! is a target at most once: the label of an input is the token after it *in the same text*, wherever that one was
//! packed. What follows a text's last token is another text, so its label is no loss.

use std::collections::VecDeque;
use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};

use crate::chain::{Text, TextId};

/// The label that the loss ignores, as in PyTorch.
pub const NO_LOSS: i64 = -100;

/// Tokens in one 64-byte line; a sequence length is a multiple of it.
pub const LINE_TOKENS: usize = 8;

/// Upper bound of a batch's tokens: 16 bytes each, and an archive's relative pointers reach 2 GiB.
const MAX_BATCH_TOKENS: usize = 64 << 20;

/// The shape of every global batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BatchShape {
    rows: u32,
    sequence_length: u32,
    pad: u32,
}

/// A batch shape that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The sequence length is zero or not a multiple of [`LINE_TOKENS`].
    #[error("a sequence length of {0} is not a positive multiple of {LINE_TOKENS}: choose one that is")]
    SequenceLength(usize),
    /// No rows, or more than an archive holds.
    #[error("a batch of {rows} rows of {sequence_length} tokens is empty or above {MAX_BATCH_TOKENS} tokens")]
    Size {
        /// Rows asked for.
        rows: usize,
        /// Tokens in a row.
        sequence_length: usize,
    },
}

impl BatchShape {
    /// `rows` rows of `sequence_length` tokens (a multiple of [`LINE_TOKENS`]); `pad` fills an epoch's last batch.
    pub fn new(rows: usize, sequence_length: usize, pad: u32) -> Result<Self, ShapeError> {
        if sequence_length == 0 || !sequence_length.is_multiple_of(LINE_TOKENS) {
            return Err(ShapeError::SequenceLength(sequence_length));
        }
        if rows == 0 || rows.checked_mul(sequence_length).is_none_or(|tokens| tokens > MAX_BATCH_TOKENS) {
            return Err(ShapeError::Size { rows, sequence_length });
        }
        Ok(Self { rows: rows as u32, sequence_length: sequence_length as u32, pad })
    }

    /// As [`new`](Self::new) for one that was read from a file.
    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        Self::new(self.rows(), self.sequence_length(), self.pad).map(drop)
    }

    /// Rows in a global batch.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Tokens in a row.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length as usize
    }

    /// Tokens in a batch.
    pub fn tokens(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.sequence_length)
    }
}

/// Which tokens of which text stand next in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Piece {
    /// The recorded text.
    pub text: TextId,
    /// First token taken.
    pub start: u32,
    /// Tokens taken, at least one.
    pub length: u32,
}

impl Piece {
    /// First token after the piece.
    pub fn end(&self) -> u32 {
        self.start + self.length
    }
}

/// The pieces of each row of a batch: all that must be logged to make the batch again from recorded texts.
pub type Layout = Vec<Vec<Piece>>;

/// A row about to be written: its pieces with the texts at hand.
#[derive(Debug, Clone)]
pub struct RowPlan {
    shape: BatchShape,
    pieces: Vec<(Piece, Arc<Text>)>,
}

/// A batch about to be written. Made by [`Packer`], or again from a logged [`Layout`] by [`BatchPlan::replay`].
#[derive(Debug, Clone)]
pub struct BatchPlan {
    shape: BatchShape,
    rows: Vec<Arc<RowPlan>>,
}

/// A layout that its recorded texts do not bear out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A piece lies outside its text.
    #[error(
        "piece {start}..{end} of text {text:?} lies outside its {tokens} tokens: record and log disagree"
    )]
    Outside {
        /// The text.
        text: TextId,
        /// First token of the piece.
        start: u32,
        /// End of the piece.
        end: u64,
        /// Tokens the text has.
        tokens: usize,
    },
    /// Rows are too many, or one is longer than a row may be.
    #[error("a layout of {rows} rows, the longest of {longest} tokens, does not fit batches of {shape:?}")]
    Shape {
        /// Rows in the layout.
        rows: usize,
        /// Tokens in its longest row.
        longest: u64,
        /// What was expected.
        shape: BatchShape,
    },
}

impl BatchPlan {
    /// Makes the plan of a logged batch again; `text` finds recorded texts.
    pub fn replay<E: From<LayoutError>>(
        shape: BatchShape,
        layout: &Layout,
        mut text: impl FnMut(TextId) -> Result<Arc<Text>, E>,
    ) -> Result<Self, E> {
        let length = |row: &Vec<Piece>| row.iter().map(|piece| u64::from(piece.length)).sum::<u64>();
        let longest = layout.iter().map(length).max().unwrap_or(0);
        if layout.len() != shape.rows() || longest > u64::from(shape.sequence_length) {
            return Err(LayoutError::Shape { rows: layout.len(), longest, shape }.into());
        }
        let mut rows = Vec::with_capacity(layout.len());
        for pieces in layout {
            let mut found = Vec::with_capacity(pieces.len());
            for &piece in pieces {
                let text = text(piece.text)?;
                let end = u64::from(piece.start) + u64::from(piece.length);
                if piece.length == 0 || end > text.tokens.len() as u64 {
                    let (id, start, tokens) = (piece.text, piece.start, text.tokens.len());
                    return Err(LayoutError::Outside { text: id, start, end, tokens }.into());
                }
                found.push((piece, text));
            }
            rows.push(Arc::new(RowPlan { shape, pieces: found }));
        }
        Ok(Self { shape, rows })
    }

    /// Its shape.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Its rows.
    pub fn rows(&self) -> &[Arc<RowPlan>] {
        &self.rows
    }

    /// What the batch log keeps of it.
    pub fn layout(&self) -> Layout {
        self.rows.iter().map(|row| row.pieces.iter().map(|(piece, _)| *piece).collect()).collect()
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> u64 {
        self.rows.iter().map(|row| row.tokens()).sum()
    }

    /// Labels that are not [`NO_LOSS`].
    pub fn target_tokens(&self) -> u64 {
        self.rows.iter().map(|row| row.labels().filter(|&label| label != NO_LOSS).count() as u64).sum()
    }
}

impl RowPlan {
    /// Tokens of the row that are not padding.
    pub fn tokens(&self) -> u64 {
        self.pieces.iter().map(|(piece, _)| u64::from(piece.length)).sum()
    }

    /// The row's `sequence_length` token ids, padding included.
    pub fn inputs(&self) -> impl Iterator<Item = i64> + '_ {
        let tokens = self.pieces.iter().flat_map(|(piece, text)| {
            text.tokens[piece.start as usize..piece.end() as usize].iter().map(|&token| i64::from(token))
        });
        tokens.chain(std::iter::repeat(i64::from(self.shape.pad))).take(self.shape.sequence_length())
    }

    /// The row's `sequence_length` labels: the token after each input in its text, or [`NO_LOSS`].
    pub fn labels(&self) -> impl Iterator<Item = i64> + '_ {
        let labels = self.pieces.iter().flat_map(|(piece, text)| {
            (piece.start + 1..piece.end() + 1).map(move |next| match text.tokens.get(next as usize) {
                Some(&token) if text.loss.covers(next) => i64::from(token),
                _ => NO_LOSS,
            })
        });
        labels.chain(std::iter::repeat(NO_LOSS)).take(self.shape.sequence_length())
    }

    /// Offsets in the row at which a text, or the rest of one, begins; padding counts as a text. The first is zero.
    pub fn borders(&self) -> Vec<u32> {
        let mut borders = Vec::with_capacity(self.pieces.len() + 1);
        let mut at = 0;
        for (piece, _) in &self.pieces {
            borders.push(at);
            at += piece.length;
        }
        if at < self.shape.sequence_length {
            borders.push(at);
        }
        borders
    }
}

struct Queued {
    id: TextId,
    text: Arc<Text>,
    used: u32,
}

/// Lays texts end to end into batches. Pure: the same texts in the same order give the same batches.
pub struct Packer {
    shape: BatchShape,
    queue: VecDeque<Queued>,
    queued: u64,
}

impl Packer {
    /// An empty packer.
    pub fn new(shape: BatchShape) -> Self {
        Self { shape, queue: VecDeque::new(), queued: 0 }
    }

    /// Adds a text to the end of the stream. One without tokens leaves no trace.
    pub fn push(&mut self, id: TextId, text: Arc<Text>) {
        self.push_rest(id, text, 0);
    }

    /// Adds what is left of a text whose first `used` tokens are packed already: for a resumed run.
    pub fn push_rest(&mut self, id: TextId, text: Arc<Text>, used: u32) {
        let left = (text.tokens.len() as u64).saturating_sub(u64::from(used));
        if left > 0 {
            self.queued += left;
            self.queue.push_back(Queued { id, text, used });
        }
    }

    /// Tokens that wait to be packed.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Tokens still missing for a full batch: push texts until it is zero, so that no more waits than must.
    pub fn missing(&self) -> u64 {
        self.shape.tokens().saturating_sub(self.queued)
    }

    /// The next full batch, if there are tokens enough.
    pub fn next_batch(&mut self) -> Option<BatchPlan> {
        (self.missing() == 0).then(|| self.take())
    }

    /// The epoch's last batch, padded: what is left, if anything. Ask for full batches first.
    pub fn last_batch(&mut self) -> Option<BatchPlan> {
        (self.queued > 0).then(|| self.take())
    }

    fn take(&mut self) -> BatchPlan {
        let rows = (0..self.shape.rows()).map(|_| Arc::new(self.take_row())).collect();
        BatchPlan { shape: self.shape, rows }
    }

    fn take_row(&mut self) -> RowPlan {
        let mut pieces = Vec::new();
        let mut room = self.shape.sequence_length;
        while room > 0
            && let Some(front) = self.queue.front_mut()
        {
            let left = front.text.tokens.len() as u32 - front.used;
            let length = left.min(room);
            pieces.push((Piece { text: front.id, start: front.used, length }, front.text.clone()));
            front.used += length;
            room -= length;
            self.queued -= u64::from(length);
            if length == left {
                self.queue.pop_front();
            }
        }
        RowPlan { shape: self.shape, pieces }
    }
}
