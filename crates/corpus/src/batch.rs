//! The sealed global batch: one rkyv archive that trainers map and never deserialize (L4).
//!
//! Each row's inputs and labels are separate, contiguous, 64-byte-aligned arrays of `i64`, as embedding and loss take
//! them. The archive is written token by token straight into memory that the object store lends: [`encoded_len`] says
//! exactly how many bytes to ask for, [`write()`] fills them, [`BatchView::open`] validates them once and hands out
//! slices of the very memory.
//!
//! ```
//! # use lyceum_corpus::{batch::{self, BatchView}, chain::*, pack::{BatchShape, Packer, NO_LOSS}};
//! # use std::sync::Arc;
//! let mut packer = Packer::new(BatchShape::new(1, 8, 0)?);
//! let id = TextId { chain: ChainId { source: 0, number: 0 }, index: 0 };
//! packer.push(id, Arc::new(Text { tokens: vec![1, 5, 6, 2], loss: Loss::All }));
//! let plan = packer.last_batch().expect("four tokens wait");
//!
//! let mut memory = rkyv::util::AlignedVec::<64>::new();
//! memory.resize(batch::encoded_len(&plan)?, 0);
//! batch::write(&plan, 0, &mut memory)?;
//!
//! let view = BatchView::open(&memory)?;
//! assert_eq!(view.row(0).inputs, [1, 5, 6, 2, 0, 0, 0, 0]);
//! assert_eq!(view.row(0).labels[..4], [5, 6, 2, NO_LOSS]);
//! assert_eq!(view.target_tokens(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error as Rancor, Fallible};
use rkyv::rend::{i64_le, u32_le};
use rkyv::ser::{Positional, Writer, writer::Buffer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place, Portable, Serialize};

use crate::pack::{BatchPlan, LINE_TOKENS, RowPlan};

#[cfg(not(target_endian = "little"))]
compile_error!("rows are read in place as i64, which an archive stores little-endian");

/// Alignment that the memory of a batch must have, in bytes.
pub const ALIGNMENT: usize = 64;

/// Bytes gathered before each write: 4 KiB, on the stack.
const BLOCK_BYTES: usize = 4096;

/// Eight tokens, 64 bytes, aligned to 64 bytes.
#[derive(Debug, Clone, Copy, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[rkyv(crate = rkyv)]
#[repr(C, align(64))]
pub struct Line([i64_le; LINE_TOKENS]);

/// What a batch is made of, on its way into an archive; its archived form is what everyone else sees.
#[derive(Archive, Serialize)]
#[rkyv(archived = ArchivedGlobalBatch)]
struct GlobalBatch {
    /// Position in the batch log, from zero: the step that trains it.
    log_position: u64,
    /// Labels in the whole batch that are learnt: what the loss is divided by.
    target_tokens: u64,
    /// Tokens that are not padding.
    tokens: u64,
    /// Tokens in each row.
    sequence_length: u32,
    /// The rows.
    rows: Vec<Row>,
}

#[derive(Archive, Serialize)]
#[rkyv(archived = ArchivedRow)]
struct Row {
    inputs: Lines,
    labels: Lines,
    borders: Vec<u32>,
}

/// One array of a row. Archived as a vector of [`Line`]s that never exists in memory outside the archive.
struct Lines {
    row: Arc<RowPlan>,
    lines: usize,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    Inputs,
    Labels,
    /// As many bytes, whatever they are: to learn the archive's length.
    Blank,
}

impl Archive for Lines {
    type Archived = ArchivedVec<Line>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(self.lines, resolver, out);
    }
}

impl<S: Fallible + Writer + ?Sized> Serialize<S> for Lines {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        // Not by rkyv's own `align`, which pads at most 32 bytes.
        let position = serializer.pos().next_multiple_of(ALIGNMENT);
        write_blank(position - serializer.pos(), serializer)?;
        match self.content {
            Content::Inputs => write_tokens(self.row.inputs(), serializer)?,
            Content::Labels => write_tokens(self.row.labels(), serializer)?,
            Content::Blank => write_blank(self.lines * size_of::<Line>(), serializer)?,
        }
        Ok(VecResolver::from_pos(position))
    }
}

fn write_tokens<S: Fallible + Writer + ?Sized>(
    mut tokens: impl Iterator<Item = i64>,
    serializer: &mut S,
) -> Result<(), S::Error> {
    let mut block = [0_u8; BLOCK_BYTES];
    loop {
        let mut filled = 0;
        for (slot, token) in block.chunks_exact_mut(8).zip(&mut tokens) {
            slot.copy_from_slice(&token.to_le_bytes());
            filled += 8;
        }
        serializer.write(&block[..filled])?;
        if filled < BLOCK_BYTES {
            return Ok(());
        }
    }
}

fn write_blank<S: Fallible + Writer + ?Sized>(bytes: usize, serializer: &mut S) -> Result<(), S::Error> {
    let block = [0_u8; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES);
        serializer.write(&block[..length])?;
        left -= length;
    }
    Ok(())
}

/// A writer that only counts.
struct Counter(usize);

impl Positional for Counter {
    fn pos(&self) -> usize {
        self.0
    }
}

impl<E> Writer<E> for Counter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// What can be wrong with a batch's bytes.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The archive could not be written.
    #[error("the batch could not be archived: {0}")]
    Archive(Rancor),
    /// The memory lent has another length than the batch needs.
    #[error("the batch needs {needed} bytes but {given} were given: ask for encoded_len of them")]
    Length {
        /// Bytes the batch needs.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The memory is not aligned to [`ALIGNMENT`].
    #[error("the batch's memory at {address:#x} is not aligned to {ALIGNMENT} bytes")]
    Unaligned {
        /// Its address.
        address: usize,
    },
    /// The bytes are not a batch.
    #[error("these {length} bytes are no valid batch archive: {reason}")]
    Invalid {
        /// How many bytes.
        length: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Bytes that [`write()`] will fill for this plan.
pub fn encoded_len(plan: &BatchPlan) -> Result<usize, BatchError> {
    let batch = source(plan, 0, |_| Content::Blank, 0);
    Ok(rkyv::api::high::to_bytes_in::<_, Rancor>(&batch, Counter(0)).map_err(BatchError::Archive)?.0)
}

/// Writes the batch at `log_position` into `memory`, which is 64-byte aligned and exactly [`encoded_len`] long.
pub fn write(plan: &BatchPlan, log_position: u64, memory: &mut [u8]) -> Result<(), BatchError> {
    let given = memory.len();
    check_alignment(memory)?;
    let batch = source(
        plan,
        log_position,
        |labels| if labels { Content::Labels } else { Content::Inputs },
        plan.target_tokens(),
    );
    let written = rkyv::api::high::to_bytes_in::<_, Rancor>(&batch, Buffer::from(memory));
    match written {
        Ok(buffer) if buffer.len() == given => Ok(()),
        Ok(buffer) => Err(BatchError::Length { needed: buffer.len(), given }),
        Err(_) => Err(BatchError::Length { needed: encoded_len(plan)?, given }),
    }
}

fn source(
    plan: &BatchPlan,
    log_position: u64,
    content: impl Fn(bool) -> Content,
    target_tokens: u64,
) -> GlobalBatch {
    let lines = plan.shape().sequence_length() / LINE_TOKENS;
    let rows = plan.rows().iter().map(|row| Row {
        inputs: Lines { row: row.clone(), lines, content: content(false) },
        labels: Lines { row: row.clone(), lines, content: content(true) },
        borders: row.borders(),
    });
    GlobalBatch {
        log_position,
        target_tokens,
        tokens: plan.tokens(),
        sequence_length: plan.shape().sequence_length() as u32,
        rows: rows.collect(),
    }
}

fn check_alignment(memory: &[u8]) -> Result<(), BatchError> {
    let address = memory.as_ptr() as usize;
    if address.is_multiple_of(ALIGNMENT) { Ok(()) } else { Err(BatchError::Unaligned { address }) }
}

/// A validated batch, read in place.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    archived: &'a ArchivedGlobalBatch,
}

/// A row of a batch, read in place.
#[derive(Debug, Clone, Copy)]
pub struct RowView<'a> {
    /// Token ids, `sequence_length` of them, 64-byte aligned.
    pub inputs: &'a [i64],
    /// Labels, already shifted: [`crate::pack::NO_LOSS`] where nothing is learnt. 64-byte aligned.
    pub labels: &'a [i64],
    /// Offsets at which a text, or the rest of one, begins; padding counts as a text. Ascending, the first is zero.
    pub borders: &'a [u32],
}

impl<'a> BatchView<'a> {
    /// Validates the archive in `bytes`: once per process that maps it, then read as often as wanted.
    pub fn open(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let invalid = |reason: String| BatchError::Invalid { length: bytes.len(), reason };
        check_alignment(bytes)?;
        let archived =
            rkyv::access::<ArchivedGlobalBatch, Rancor>(bytes).map_err(|error| invalid(error.to_string()))?;
        let length = archived.sequence_length.to_native();
        if archived.rows.is_empty() {
            return Err(invalid("it has no rows".into()));
        }
        for (index, row) in archived.rows.iter().enumerate() {
            let lines = length as usize / LINE_TOKENS;
            if !(length as usize).is_multiple_of(LINE_TOKENS)
                || row.inputs.len() != lines
                || row.labels.len() != lines
            {
                return Err(invalid(format!("row {index} is not {length} tokens long")));
            }
            let borders = borders_of(row);
            if borders.first() != Some(&0)
                || !borders.is_sorted_by(|a, b| a < b)
                || borders.last() >= Some(&length)
            {
                return Err(invalid(format!(
                    "the borders of row {index} do not ascend from 0 to below {length}"
                )));
            }
        }
        Ok(Self { archived })
    }

    /// Position in the batch log, from zero: the step that trains this batch.
    pub fn log_position(&self) -> u64 {
        self.archived.log_position.to_native()
    }

    /// Labels in the whole batch that are learnt: what the sum of losses is divided by.
    pub fn target_tokens(&self) -> u64 {
        self.archived.target_tokens.to_native()
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> u64 {
        self.archived.tokens.to_native()
    }

    /// Tokens in each row.
    pub fn sequence_length(&self) -> usize {
        self.archived.sequence_length.to_native() as usize
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.archived.rows.len()
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If `index` is not below [`BatchView::rows`].
    pub fn row(&self, index: usize) -> RowView<'a> {
        let row = &self.archived.rows.as_slice()[index];
        RowView { inputs: tokens_of(&row.inputs), labels: tokens_of(&row.labels), borders: borders_of(row) }
    }
}

fn tokens_of(lines: &ArchivedVec<Line>) -> &[i64] {
    // SAFETY: a `Line` is `repr(C)`, exactly eight little-endian `i64` of 8-byte alignment and no padding (asserted
    // below), little-endian is the native order (checked at compile time above), any bit pattern is an `i64`, and the
    // slice lives as long as the archive it borrows.
    unsafe { std::slice::from_raw_parts(lines.as_slice().as_ptr().cast(), lines.len() * LINE_TOKENS) }
}

fn borders_of(row: &ArchivedRow) -> &[u32] {
    let borders = row.borders.as_slice();
    // SAFETY: `u32_le` is a transparent little-endian `u32` of its size and alignment (asserted below), little-endian
    // is the native order, any bit pattern is a `u32`, and the slice lives as long as the archive it borrows.
    unsafe { std::slice::from_raw_parts(borders.as_ptr().cast(), borders.len()) }
}

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == ALIGNMENT);
const _: () = assert!(size_of::<u32_le>() == 4 && align_of::<u32_le>() == 4 && align_of::<i64_le>() == 8);
