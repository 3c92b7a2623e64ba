//! Which positions a run of tokens has and who sees whom.

use tch::{Device, Kind, Tensor};

use crate::rotary::RotaryTable;
use crate::{LlamaConfig, ModelError};

/// Rotary tables and mask for sequences of one length that start at position 0. Made once per length and shared by all
/// blocks and steps.
#[derive(Debug)]
pub struct Positions {
    pub(crate) rotary: RotaryTable,
    /// `[length, length]`, true where seen; `None` where plain causal attention says the same.
    pub(crate) mask: Option<Tensor>,
    length: i64,
}

impl Positions {
    /// Tables for sequences of `length` tokens.
    ///
    /// # Errors
    /// `length` is not in 1 to the model's `max_positions`.
    pub fn new(config: &LlamaConfig, length: i64, device: Device) -> Result<Self, ModelError> {
        if !(1..=config.max_positions).contains(&length) {
            return Err(ModelError::Input(format!(
                "a sequence of {length} tokens; this model takes 1 to {}",
                config.max_positions
            )));
        }
        Self::from_table(config, RotaryTable::new(config, length, device)?, device)
    }

    /// Of a table made already, one row per position.
    pub(crate) fn from_table(
        config: &LlamaConfig,
        rotary: RotaryTable,
        device: Device,
    ) -> Result<Self, ModelError> {
        let length = rotary.positions();
        let mask = match config.sliding_window {
            Some(window) if window < length => Some(window_mask(length, window, device)?),
            _ => None,
        };
        Ok(Self { rotary, mask, length })
    }

    /// Tokens per sequence.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Causal attention over whole sequences: queries `[batch, heads, length, d]`, keys and values
    /// `[batch, key_value_heads, length, d]`.
    pub(crate) fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor, ModelError> {
        let grouped = query.size()[1] != key.size()[1];
        Ok(Tensor::f_scaled_dot_product_attention(
            query,
            key,
            value,
            self.mask.as_ref(),
            0.0,
            self.mask.is_none(),
            None,
            grouped,
        )?)
    }
}

/// Query i sees key j where i - window < j <= i.
fn window_mask(length: i64, window: i64, device: Device) -> Result<Tensor, ModelError> {
    let seen = Tensor::f_ones([length, length], (Kind::Bool, device))?;
    Ok(seen.f_tril(0)?.f_triu(1 - window)?)
}
