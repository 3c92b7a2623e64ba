//! Rotary position embeddings: wavelengths and fp32 tables.
//!
//! Head dimensions are paired half a head apart, as `transformers` stores its weights: (x_j, x_{j+d/2}) turns by
//! position * frequency_j (Su et al., arXiv 2104.09864; the pairing is GPT-NeoX's).

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use crate::{LlamaConfig, ModelError, RopeScaling};

/// Cosines and signed sines of every position, `[positions, head_dimension]` in fp32.
#[derive(Debug)]
pub(crate) struct RotaryTable {
    /// `(cos, cos)`: both halves of a head turn alike.
    cosine: Tensor,
    /// `(-sin, sin)`: the first half takes the second's part away.
    sine: Tensor,
}

impl RotaryTable {
    pub(crate) fn new(config: &LlamaConfig, positions: i64, device: Device) -> Result<Self, ModelError> {
        let frequencies = Tensor::f_from_slice(&frequencies(config))?;
        // The angle is formed in fp32, as `transformers` does.
        let angles = Tensor::f_arange(positions, (Kind::Float, Device::Cpu))?.f_outer(&frequencies)?;
        let (cosine, sine) = (angles.f_cos()?, angles.f_sin()?);
        Ok(Self {
            cosine: Tensor::f_cat(&[&cosine, &cosine], 1)?.f_to(device)?,
            sine: Tensor::f_cat(&[&sine.f_neg()?, &sine], 1)?.f_to(device)?,
        })
    }

    /// How many positions there are.
    pub(crate) fn positions(&self) -> i64 {
        self.cosine.size()[0]
    }

    /// The rows of positions 0 to `length`.
    pub(crate) fn first(&self, length: i64) -> Result<Self, ModelError> {
        Ok(Self { cosine: self.cosine.f_narrow(0, 0, length)?, sine: self.sine.f_narrow(0, 0, length)? })
    }

    /// The rows of `positions`, `[n]` i64.
    pub(crate) fn at(&self, positions: &Tensor) -> Result<Self, ModelError> {
        Ok(Self {
            cosine: self.cosine.f_index_select(0, positions)?,
            sine: self.sine.f_index_select(0, positions)?,
        })
    }

    /// Turns `x`, `[.., rows, heads, head_dimension]`, in fp32 and gives it back in its own kind.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let half = self.cosine.size()[1] / 2;
        let swapped = x.f_roll([half], [-1])?;
        let turned =
            x.f_mul(&self.cosine.f_unsqueeze(1)?)?.f_add_(&swapped.f_mul(&self.sine.f_unsqueeze(1)?)?)?;
        Ok(turned.f_to_kind(x.kind())?)
    }
}

/// Radians per position for each pair of a head, `[head_dimension / 2]`.
fn frequencies(config: &LlamaConfig) -> Vec<f32> {
    let width = config.head_dimension as f64;
    (0..config.head_dimension / 2)
        .map(|pair| {
            let frequency = (1.0 / config.rope_theta.powf(2.0 * pair as f64 / width)) as f32;
            match config.rope_scaling {
                None => frequency,
                Some(scaling) => stretched(frequency, scaling),
            }
        })
        .collect()
}

/// Llama 3.1's stretch (its reference code's `apply_scaling`).
fn stretched(frequency: f32, scaling: RopeScaling) -> f32 {
    let RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_positions } =
        scaling;
    let frequency = f64::from(frequency);
    let wavelength = TAU / frequency;
    let positions = original_max_positions as f64;
    let kept = ((positions / wavelength - low_frequency_factor)
        / (high_frequency_factor - low_frequency_factor))
        .clamp(0.0, 1.0);
    ((1.0 - kept) * frequency / factor + kept * frequency) as f32
}
