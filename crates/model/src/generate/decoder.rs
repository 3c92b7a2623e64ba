//! The model's mathematics on cached rows. Weights that read the same input are joined, so that a token costs four
//! products a block.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::cache::KeyValueCache;
use super::cached_attention::{CachedAttention, Heads, LANES};
use super::projection::Projection;
use crate::rotary::RotaryTable;
use crate::{Llama, LlamaConfig, ModelError, Positions};

struct DecoderBlock {
    query_key_value: Projection,
    output: Projection,
    gate_up: Projection,
    down: Projection,
    attention_norm: Tensor,
    mlp_norm: Tensor,
}

/// Weights laid out for generation.
pub(super) struct Decoder {
    config: LlamaConfig,
    embedding: Tensor,
    blocks: Vec<DecoderBlock>,
    final_norm: Tensor,
    head: Projection,
    rotary: RotaryTable,
}

/// A token to run: which row it belongs to and where in it it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) token: i64,
    pub(super) position: i64,
}

/// Which cached tokens each row of a step sees.
enum Seen {
    /// Each row its own, at these flat positions.
    Own { rows: Vec<Range<usize>>, heads: Heads },
    /// All as many as the longest row.
    Longest {
        /// Rows of the cache, from the first.
        rows: i64,
        /// Tokens of each that are read.
        length: i64,
        /// `[rows, 1, 1, length]`, zero where seen and minus infinity elsewhere.
        mask: Tensor,
    },
}

impl Decoder {
    /// Takes a model over, for sequences of `positions` tokens, mostly `rows` of them at a time.
    pub(super) fn new(llama: Llama, positions: i64, rows: usize) -> Result<Self, ModelError> {
        let (config, parts) = llama.into_parts();
        let device = parts.embedding.device();
        let blocks = parts
            .blocks
            .into_iter()
            .map(|block| {
                Ok(DecoderBlock {
                    query_key_value: Projection::new(
                        Tensor::f_cat(&[block.query, block.key, block.value], 0)?,
                        rows,
                    ),
                    output: Projection::new(block.output, rows),
                    gate_up: Projection::new(Tensor::f_cat(&[block.gate, block.up], 0)?, rows),
                    down: Projection::new(block.down, rows),
                    attention_norm: block.attention_norm,
                    mlp_norm: block.mlp_norm,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let rotary = RotaryTable::new(&config, positions, device)?;
        let head = Projection::new(parts.head, rows);
        Ok(Self { config, embedding: parts.embedding, blocks, final_norm: parts.final_norm, head, rotary })
    }

    pub(super) fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// A cache for `tokens` tokens of this model.
    pub(super) fn cache(&self, tokens: i64) -> Result<KeyValueCache, ModelError> {
        KeyValueCache::new(&self.config, tokens, (self.embedding.kind(), self.embedding.device()))
    }

    /// Runs whole prompts, of different lengths, into the cache rows `rows`. Gives the logits behind each prompt's
    /// last token, `[prompts, vocabulary]` in fp32.
    pub(super) fn prefill(
        &self,
        cache: &mut KeyValueCache,
        prompts: &[&[u32]],
        rows: &[usize],
    ) -> Result<Tensor, ModelError> {
        let config = &self.config;
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let (batch, length) = (prompts.len() as i64, longest as i64);
        // Flat positions of the real tokens: in the padded batch, and in the cache.
        let (mut ids, mut real, mut places, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (prompt, row) in prompts.iter().zip(rows) {
            let start = ids.len() as i64;
            ids.extend(prompt.iter().map(|token| i64::from(*token)));
            ids.resize(start as usize + longest, 0);
            real.extend(start..start + prompt.len() as i64);
            places.extend((0..prompt.len() as i64).map(|position| cache.flat(*row, position)));
            last.push(start + prompt.len() as i64 - 1);
        }
        let (ids, real) = (self.indices(&ids)?, self.indices(&real)?);
        let (places, last) = (self.indices(&places)?, self.indices(&last)?);
        let positions = Positions::from_table(config, self.rotary.first(length)?, self.embedding.device())?;

        let mut hidden = Tensor::f_embedding(&self.embedding, &ids, -1, false, false)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let (query, key, value) = self.project(block, &hidden, &[batch, length], &positions.rotary)?;
            let flat = |x: &Tensor| -> Result<Tensor, ModelError> {
                Ok(x.f_reshape([batch * length, -1])?.f_index_select(0, &real)?)
            };
            cache.write(index, &places, &flat(&key)?, &flat(&value)?)?;
            let [query, key, value] = [query, key, value].map(|x| x.f_transpose(1, 2));
            let seen = positions.attend(&query?, &key?, &value?)?.f_transpose(1, 2)?;
            hidden = self.finish_block(block, hidden, &seen.f_reshape([batch * length, -1])?)?;
        }
        self.logits(&hidden.f_index_select(0, &last)?)
    }

    /// Runs one token of each of the first `steps.len()` rows. Gives `[rows, vocabulary]` in fp32.
    pub(super) fn step(&self, cache: &mut KeyValueCache, steps: &[Step]) -> Result<Tensor, ModelError> {
        let config = &self.config;
        let batch = steps.len() as i64;
        let group = config.heads / config.key_value_heads;
        let width = config.head_dimension;
        let ids = self.indices(&steps.iter().map(|step| step.token).collect::<Vec<_>>())?;
        let at = self.indices(&steps.iter().map(|step| step.position).collect::<Vec<_>>())?;
        let places: Vec<i64> =
            steps.iter().enumerate().map(|(row, step)| cache.flat(row, step.position)).collect();
        let places = self.indices(&places)?;
        let seen = self.seen(steps, &at, cache)?;
        let mut attention = CachedAttention::default();
        let rotary = self.rotary.at(&at)?;

        let mut hidden = Tensor::f_embedding(&self.embedding, &ids, -1, false, false)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let (query, key, value) = self.project(block, &hidden, &[batch], &rotary)?;
            cache.write(index, &places, &key.f_reshape([batch, -1])?, &value.f_reshape([batch, -1])?)?;
            // The queries of one key head are its "sequence": all see the same tokens, and no key is repeated.
            let query = query.f_reshape([batch, config.key_value_heads, group, width])?;
            let attended = match &seen {
                Seen::Own { rows, heads } => {
                    let query = query.f_contiguous()?;
                    let mut out = query.f_empty_like()?;
                    cache.attend(index, *heads, &query, rows, &mut attention, &mut out)?;
                    out
                }
                Seen::Longest { rows, length, mask } => {
                    let (keys, values) = cache.read(index, *rows, *length)?;
                    Tensor::f_scaled_dot_product_attention(
                        &query,
                        &keys,
                        &values,
                        Some(mask),
                        0.0,
                        false,
                        None,
                        false,
                    )?
                }
            };
            hidden = self.finish_block(block, hidden, &attended.f_reshape([batch, -1])?)?;
        }
        self.logits(&hidden)
    }

    /// Norm, joined projection and rotation: queries, keys and values, `[shape.., heads, head_dimension]`, of
    /// `[tokens, hidden]`.
    fn project(
        &self,
        block: &DecoderBlock,
        hidden: &Tensor,
        shape: &[i64],
        rotary: &RotaryTable,
    ) -> Result<(Tensor, Tensor, Tensor), ModelError> {
        let config = &self.config;
        let (heads, key_heads) = (config.heads, config.key_value_heads);
        let joined = block.query_key_value.apply(&self.norm(hidden, &block.attention_norm)?)?;
        let full: Vec<i64> =
            shape.iter().copied().chain([heads + 2 * key_heads, config.head_dimension]).collect();
        let joined = joined.f_view(full.as_slice())?;
        let turned = rotary.rotate(&joined.f_narrow(-2, 0, heads + key_heads)?)?;
        Ok((
            turned.f_narrow(-2, 0, heads)?,
            turned.f_narrow(-2, heads, key_heads)?,
            joined.f_narrow(-2, heads + key_heads, key_heads)?,
        ))
    }

    /// Everything behind attention, in place on the residual stream `[tokens, hidden]`.
    fn finish_block(
        &self,
        block: &DecoderBlock,
        mut hidden: Tensor,
        attended: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let _ = hidden.f_add_(&block.output.apply(attended)?)?;
        let joined = block.gate_up.apply(&self.norm(&hidden, &block.mlp_norm)?)?;
        let half = self.config.intermediate;
        let gated = joined.f_narrow(1, 0, half)?.f_silu()?.f_mul_(&joined.f_narrow(1, half, half)?)?;
        let _ = hidden.f_add_(&block.down.apply(&gated)?)?;
        Ok(hidden)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.head.apply(&self.norm(hidden, &self.final_norm)?)?.f_to_kind(Kind::Float)?)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.f_rms_norm([self.config.hidden], Some(weight), self.config.norm_epsilon)?)
    }

    fn indices(&self, values: &[i64]) -> Result<Tensor, ModelError> {
        Ok(Tensor::f_from_slice(values)?.f_to(self.embedding.device())?)
    }

    fn seen(&self, steps: &[Step], at: &Tensor, cache: &KeyValueCache) -> Result<Seen, ModelError> {
        let (rows, device) = (steps.len() as i64, self.embedding.device());
        let alone = device == Device::Cpu && tch::get_num_threads() == 1;
        if alone && self.embedding.kind() == Kind::Float && self.config.head_dimension % LANES as i64 == 0 {
            let window = self.config.sliding_window.unwrap_or(i64::MAX);
            let of_row = |(row, step): (usize, &Step)| {
                let first = (step.position + 1 - window).max(0);
                cache.flat(row, first) as usize..cache.flat(row, step.position) as usize + 1
            };
            let (key_heads, width) = (self.config.key_value_heads, self.config.head_dimension);
            let group = self.config.heads / key_heads;
            let heads = Heads { key_heads: key_heads as usize, group: group as usize, width: width as usize };
            return Ok(Seen::Own { rows: steps.iter().enumerate().map(of_row).collect(), heads });
        }
        let length = steps.iter().map(|step| step.position + 1).max().unwrap_or(1);
        let now = at.f_view([rows, 1])?;
        let keys = Tensor::f_arange(length, (Kind::Int64, device))?;
        let mut hidden = keys.f_gt_tensor(&now)?;
        if let Some(window) = self.config.sliding_window.filter(|window| *window < length) {
            hidden = hidden.f_logical_or(&keys.f_le_tensor(&now.f_sub_scalar(window)?)?)?;
        }
        let mask = Tensor::f_zeros([rows, length], (self.embedding.kind(), device))?;
        let mask = mask.f_masked_fill(&hidden, f64::NEG_INFINITY)?.f_view([rows, 1, 1, length])?;
        Ok(Seen::Longest { rows, length, mask })
    }
}
