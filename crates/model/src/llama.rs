//! The mathematics of Llama and Mistral over parameters that lie wherever their owner put them.

use lyceum_model_files::{EMBEDDING, FINAL_NORM, HEAD};
use tch::{Device, Kind, Tensor};

use crate::{LlamaConfig, ModelError, ParameterSpec, Positions};

/// A model: configuration and weights. The tensors are those handed in, not copies, so that a trainer may keep them
/// as views into its flat buffers and change them there.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    embedding: Tensor,
    blocks: Vec<Block>,
    final_norm: Tensor,
    head: Tensor,
}

/// What a [`Llama`] is made of.
pub(crate) struct Parts {
    pub(crate) embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Tensor,
    pub(crate) head: Tensor,
}

/// The weights of one block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
    pub(crate) output: Tensor,
    pub(crate) gate: Tensor,
    pub(crate) up: Tensor,
    pub(crate) down: Tensor,
    pub(crate) attention_norm: Tensor,
    pub(crate) mlp_norm: Tensor,
}

impl Llama {
    /// Takes each parameter of [`LlamaConfig::groups`] from `parameter`, asked for by name.
    ///
    /// # Errors
    /// `parameter` has none of that name, or one of another shape, kind or device than the others.
    pub fn from_parameters(
        config: LlamaConfig,
        mut parameter: impl FnMut(&str) -> Option<Tensor>,
    ) -> Result<Self, ModelError> {
        let mut like: Option<(Kind, Device)> = None;
        let mut taken = Vec::new();
        for spec in config.groups().iter().flat_map(|group| &group.parameters) {
            let tensor =
                parameter(&spec.name).ok_or_else(|| ModelError::parameter(&spec.name, "is missing"))?;
            check(spec, &tensor, *like.get_or_insert((tensor.kind(), tensor.device())))?;
            taken.push(tensor);
        }
        // In the order of `groups`.
        let mut taken = taken.into_iter();
        let mut next = |name: &str| taken.next().ok_or_else(|| ModelError::parameter(name, "is missing"));
        let embedding = next(EMBEDDING)?;
        let blocks = (0..config.layers)
            .map(|_| {
                Ok(Block {
                    query: next("q_proj")?,
                    key: next("k_proj")?,
                    value: next("v_proj")?,
                    output: next("o_proj")?,
                    gate: next("gate_proj")?,
                    up: next("up_proj")?,
                    down: next("down_proj")?,
                    attention_norm: next("input_layernorm")?,
                    mlp_norm: next("post_attention_layernorm")?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let head = if config.tied { embedding.shallow_clone() } else { next(HEAD)? };
        let final_norm = next(FINAL_NORM)?;
        Ok(Self { config, embedding, blocks, final_norm, head })
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Where its weights lie.
    #[must_use]
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// The kind of its weights and activations.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.embedding.kind()
    }

    /// Tables for sequences of `length` tokens on this model's device.
    ///
    /// # Errors
    /// As [`Positions::new`].
    pub fn positions(&self, length: i64) -> Result<Positions, ModelError> {
        Positions::new(&self.config, length, self.device())
    }

    /// Token ids `[batch, length]`, i64, to the residual stream `[batch, length, hidden]`.
    ///
    /// # Errors
    /// `ids` is not i64, or an id is outside the vocabulary.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(Tensor::f_embedding(&self.embedding, ids, -1, false, false)?)
    }

    /// Block `index` over whole sequences: `[batch, length, hidden]` to the same.
    ///
    /// # Errors
    /// There is no such block, or `hidden` and `positions` differ in length.
    pub fn block(&self, index: usize, hidden: &Tensor, positions: &Positions) -> Result<Tensor, ModelError> {
        let block = self
            .blocks
            .get(index)
            .ok_or_else(|| ModelError::Input(format!("block {index} of {}", self.blocks.len())))?;
        let (batch, length, _) = hidden.size3()?;
        if length != positions.length() {
            return Err(ModelError::Input(format!("{length} tokens with tables for {}", positions.length())));
        }
        let config = &self.config;
        let width = config.head_dimension;
        let normed = self.norm(hidden, &block.attention_norm)?;
        let project = |weight: &Tensor, heads: i64| -> Result<Tensor, ModelError> {
            Ok(linear(&normed, weight)?.f_view([batch, length, heads, width])?)
        };
        let query = positions.rotary.rotate(&project(&block.query, config.heads)?)?.f_transpose(1, 2)?;
        let key =
            positions.rotary.rotate(&project(&block.key, config.key_value_heads)?)?.f_transpose(1, 2)?;
        let value = project(&block.value, config.key_value_heads)?.f_transpose(1, 2)?;
        let seen = positions.attend(&query, &key, &value)?;
        let seen = seen.f_transpose(1, 2)?.f_reshape([batch, length, config.heads * width])?;
        let hidden = hidden.f_add(&linear(&seen, &block.output)?)?;

        let normed = self.norm(&hidden, &block.mlp_norm)?;
        let gated = linear(&normed, &block.gate)?.f_silu()?.f_mul(&linear(&normed, &block.up)?)?;
        Ok(hidden.f_add(&linear(&gated, &block.down)?)?)
    }

    /// The residual stream behind the last block: [`Llama::embed`], then every [`Llama::block`].
    ///
    /// # Errors
    /// As those two.
    pub fn hidden(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        let (_, length) = ids.size2()?;
        let positions = self.positions(length)?;
        let mut hidden = self.embed(ids)?;
        for index in 0..self.blocks.len() {
            hidden = self.block(index, &hidden, &positions)?;
        }
        Ok(hidden)
    }

    /// The head: final norm and projection to the vocabulary, `[.., hidden]` to `[.., vocabulary]` in fp32.
    ///
    /// # Errors
    /// `hidden` is of another width or kind.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let normed = self.norm(hidden, &self.final_norm)?;
        Ok(linear(&normed, &self.head)?.f_to_kind(Kind::Float)?)
    }

    /// Its tensors, for another layout of the same mathematics.
    pub(crate) fn into_parts(self) -> (LlamaConfig, Parts) {
        let Self { config, embedding, blocks, final_norm, head } = self;
        (config, Parts { embedding, blocks, final_norm, head })
    }

    /// Leaves of the head's own graph, in the order of its group: own parameters, then shared ones.
    pub(crate) fn head_leaves(&self) -> [&Tensor; 2] {
        if self.config.tied { [&self.final_norm, &self.head] } else { [&self.head, &self.final_norm] }
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.f_rms_norm([self.config.hidden], Some(weight), self.config.norm_epsilon)?)
    }
}

pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    Ok(x.f_linear(weight, None::<&Tensor>)?)
}

fn check(spec: &ParameterSpec, tensor: &Tensor, like: (Kind, Device)) -> Result<(), ModelError> {
    let found = tensor.size();
    if found != spec.shape {
        return Err(ModelError::parameter(
            &spec.name,
            format!("has shape {found:?}, expected {:?}", spec.shape),
        ));
    }
    let found = (tensor.kind(), tensor.device());
    if found != like {
        return Err(ModelError::parameter(&spec.name, format!("is {found:?}, the others are {like:?}")));
    }
    if !matches!(found.0, Kind::Float | Kind::BFloat16) {
        return Err(ModelError::parameter(
            &spec.name,
            format!("is {:?}, expected Float or BFloat16", found.0),
        ));
    }
    Ok(())
}
