//! Keys and values of the tokens seen so far, in rows.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::cached_attention::{CachedAttention, Heads};
use crate::{LlamaConfig, ModelError};

/// One block's keys and values: `[tokens, key_value_heads * head_dimension]`, flat.
struct BlockCache {
    keys: Tensor,
    values: Tensor,
}

/// A cache of `rows` rows of `capacity` tokens for every block. Row r's token t lies at flat position
/// `r * capacity + t`.
pub(super) struct KeyValueCache {
    blocks: Vec<BlockCache>,
    allocated_tokens: i64,
    capacity: i64,
    heads: i64,
    head_dimension: i64,
}

impl KeyValueCache {
    /// Zeroed: memory that is masked must still be finite, as zero times infinity is not.
    pub(super) fn new(
        config: &LlamaConfig,
        tokens: i64,
        options: (Kind, Device),
    ) -> Result<Self, ModelError> {
        let width = config.key_value_heads * config.head_dimension;
        let blocks = (0..config.layers)
            .map(|_| {
                Ok(BlockCache {
                    keys: Tensor::f_zeros([tokens, width], options)?,
                    values: Tensor::f_zeros([tokens, width], options)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            blocks,
            allocated_tokens: tokens,
            capacity: tokens,
            heads: config.key_value_heads,
            head_dimension: config.head_dimension,
        })
    }

    /// Tokens there is memory for.
    pub(super) fn allocated_tokens(&self) -> i64 {
        self.allocated_tokens
    }

    /// Divides the same memory into rows of `capacity` tokens.
    pub(super) fn set_capacity(&mut self, capacity: i64) {
        self.capacity = capacity;
    }

    /// Where row `row`'s token `position` lies.
    pub(super) fn flat(&self, row: usize, position: i64) -> i64 {
        row as i64 * self.capacity + position
    }

    /// Writes keys and values, `[n, key_value_heads * head_dimension]`, to the flat positions `at`, `[n]` i64.
    pub(super) fn write(
        &mut self,
        block: usize,
        at: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(), ModelError> {
        let cache = &mut self.blocks[block];
        let _ = cache.keys.f_index_copy_(0, at, keys)?;
        let _ = cache.values.f_index_copy_(0, at, values)?;
        Ok(())
    }

    /// Views of the first `rows` rows' first `length` tokens: keys and values,
    /// `[rows, key_value_heads, length, head_dimension]`.
    pub(super) fn read(&self, block: usize, rows: i64, length: i64) -> Result<(Tensor, Tensor), ModelError> {
        let view = |flat: &Tensor| -> Result<Tensor, ModelError> {
            let rows = flat.f_narrow(0, 0, rows * self.capacity)?.f_view([
                rows,
                self.capacity,
                self.heads,
                self.head_dimension,
            ])?;
            Ok(rows.f_narrow(1, 0, length)?.f_transpose(1, 2)?)
        };
        let cache = &self.blocks[block];
        Ok((view(&cache.keys)?, view(&cache.values)?))
    }

    /// Attention over a block's keys and values, both in fp32 on the CPU, as [`CachedAttention::attend`] does it.
    pub(super) fn attend(
        &self,
        block: usize,
        heads: Heads,
        queries: &Tensor,
        seen: &[Range<usize>],
        attention: &mut CachedAttention,
        out: &mut Tensor,
    ) -> Result<(), ModelError> {
        let cache = &self.blocks[block];
        let (queries, length) = (floats(queries)?, floats(out)?.len());
        // SAFETY: so many numbers lie there, and `out`, borrowed alone, was made just now: no other tensor has its memory.
        let out = unsafe { std::slice::from_raw_parts_mut(out.data_ptr().cast::<f32>(), length) };
        attention.attend(heads, queries, (floats(&cache.keys)?, floats(&cache.values)?), seen, out);
        Ok(())
    }

    /// Copies the first `length` tokens of row `from` to row `to`.
    pub(super) fn move_row(&mut self, from: usize, to: usize, length: i64) -> Result<(), ModelError> {
        let (source, target) = (self.flat(from, 0), self.flat(to, 0));
        for cache in &self.blocks {
            for flat in [&cache.keys, &cache.values] {
                flat.f_narrow(0, target, length)?.f_copy_(&flat.f_narrow(0, source, length)?)?;
            }
        }
        Ok(())
    }
}

/// The numbers of a tensor in fp32 on the CPU, one after the other in memory.
fn floats(tensor: &Tensor) -> Result<&[f32], ModelError> {
    if tensor.kind() != Kind::Float || tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(ModelError::Input("attention over the cache takes contiguous fp32 on the CPU".into()));
    }
    // SAFETY: so many of that kind lie there, and live as long as the tensor.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}
