//! What a step is given: the rows of one global batch.

use std::ops::Range;

use lyceum_corpus::batch::{BatchError, BatchView, RowView};

use crate::TrainError;

/// A label that takes no part in the loss.
pub use lyceum_model::IGNORED_LABEL;

/// One sequence: as many labels as inputs, already shifted, [`IGNORED_LABEL`] where no loss is. Borrowed from whoever
/// sealed it (L4): the trainer never writes there and keeps nothing after the step.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Token ids.
    pub inputs: &'a [i64],
    /// What follows each of them.
    pub labels: &'a [i64],
}

/// A row that owns its tokens: where there is no sealed batch to borrow from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRow {
    /// Token ids.
    pub inputs: Vec<i64>,
    /// What follows each of them.
    pub labels: Vec<i64>,
}

impl OwnedRow {
    /// A row that learns to predict every token of `tokens` from those before it.
    pub fn next_token(tokens: &[i64]) -> Self {
        let inputs = &tokens[..tokens.len().saturating_sub(1)];
        Self { inputs: inputs.to_vec(), labels: tokens.iter().skip(1).copied().collect() }
    }

    /// The row, borrowed.
    pub fn as_row(&self) -> Row<'_> {
        Row { inputs: &self.inputs, labels: &self.labels }
    }
}

impl<'a> From<RowView<'a>> for Row<'a> {
    fn from(row: RowView<'a>) -> Self {
        Self { inputs: row.inputs, labels: row.labels }
    }
}

/// A batch read where it was sealed: validated once, nothing copied (L4).
pub struct SealedBatch<'a> {
    view: BatchView<'a>,
    rows: Vec<Row<'a>>,
}

impl<'a> SealedBatch<'a> {
    /// Validates the archive in `sealed`, which is 64-byte aligned.
    ///
    /// # Errors
    /// It is no batch.
    pub fn open(sealed: &'a [u8]) -> Result<Self, BatchError> {
        let view = BatchView::open(sealed)?;
        let rows = (0..view.rows()).map(|row| view.row(row).into()).collect();
        Ok(Self { view, rows })
    }

    /// The batch, to be trained on.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            log_position: self.view.log_position(),
            target_tokens: self.view.target_tokens(),
            rows: &self.rows,
        }
    }
}

/// One step's batch, all ranks' rows of it: every rank is given the same batch and takes its own share.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Its place in the batch log.
    pub log_position: u64,
    /// Labels with loss in all rows: what the loss is normalised by.
    pub target_tokens: u64,
    /// The rows, all of one length.
    pub rows: &'a [Row<'a>],
}

impl Row<'_> {
    /// Labels with loss.
    pub fn targets(&self) -> u64 {
        self.labels.iter().filter(|label| **label != IGNORED_LABEL).count() as u64
    }
}

impl<'a> Batch<'a> {
    /// A batch whose target tokens are counted here.
    pub fn new(log_position: u64, rows: &'a [Row<'a>]) -> Self {
        Self { log_position, target_tokens: rows.iter().map(Row::targets).sum(), rows }
    }

    /// The rows of `rank`: contiguous, in order, in number equal to within one.
    pub fn share(&self, rank: usize, world_size: usize) -> &'a [Row<'a>] {
        &self.rows[share(self.rows.len(), rank, world_size)]
    }

    /// Tokens in a row.
    pub fn sequence_length(&self) -> usize {
        self.rows.first().map_or(0, |row| row.inputs.len())
    }

    /// That libtorch can take every row without complaint.
    pub(crate) fn check(&self, vocabulary: i64, max_positions: i64) -> Result<(), TrainError> {
        let refuse = |reason: String| Err(TrainError::Batch { log_position: self.log_position, reason });
        let length = self.sequence_length();
        if length == 0 {
            return refuse("it has no tokens".into());
        }
        if length as i64 > max_positions {
            return refuse(format!("rows of {length} tokens; the model takes at most {max_positions}"));
        }
        if self.target_tokens == 0 {
            return refuse("no label has a loss: give it at least one target token".into());
        }
        let id = 0..vocabulary;
        for (number, row) in self.rows.iter().enumerate() {
            let (inputs, labels) = (row.inputs.len(), row.labels.len());
            if inputs != length || labels != length {
                return refuse(format!(
                    "row {number} has {inputs} inputs and {labels} labels, row 0 has {length}"
                ));
            }
            if let Some(bad) = row.inputs.iter().find(|input| !id.contains(input)) {
                return refuse(format!(
                    "row {number} has token {bad}, outside the vocabulary of {vocabulary}"
                ));
            }
            let is_label = |label: &i64| *label == IGNORED_LABEL || id.contains(label);
            if let Some(bad) = row.labels.iter().find(|label| !is_label(label)) {
                return refuse(format!(
                    "row {number} has label {bad}, outside the vocabulary of {vocabulary}"
                ));
            }
        }
        Ok(())
    }
}

/// The part of `count` things that is `rank`'s.
fn share(count: usize, rank: usize, world_size: usize) -> Range<usize> {
    count * rank / world_size..count * (rank + 1) / world_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_in_order_and_hold_every_row_once() {
        for (count, world_size) in [(8, 2), (7, 3), (1, 4), (0, 2)] {
            let shares: Vec<_> = (0..world_size).map(|rank| share(count, rank, world_size)).collect();
            assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            let lengths = shares.iter().map(Range::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
    }

    #[test]
    fn what_libtorch_would_not_take_is_refused_with_row_and_value() {
        let refusal = |inputs: &[i64], labels: &[i64]| {
            let good = Row { inputs: &[1, 2, 3], labels: &[2, 3, IGNORED_LABEL] };
            let rows = [good, Row { inputs, labels }];
            Batch::new(4, &rows).check(10, 8).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(&[1, 2], &[2, 3]),
            "batch at log position 4: row 1 has 2 inputs and 2 labels, row 0 has 3"
        );
        assert!(
            refusal(&[1, 10, 3], &[2, 3, 4]).ends_with("row 1 has token 10, outside the vocabulary of 10")
        );
        assert!(
            refusal(&[1, 2, 3], &[2, -1, 4]).ends_with("row 1 has label -1, outside the vocabulary of 10")
        );
        let rows = [Row { inputs: &[1], labels: &[IGNORED_LABEL] }];
        assert!(Batch::new(0, &rows).check(10, 8).unwrap_err().to_string().contains("no label has a loss"));
    }
}
