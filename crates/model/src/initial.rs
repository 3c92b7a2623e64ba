//! Freshly drawn weights.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use crate::{LlamaConfig, ModelError, Parameters};

/// Weights of a new model, fp32 on the CPU: matrices normal with deviation `initializer_range`, norms one. Each
/// parameter has a random stream of its own, so that the same seed gives the same weights whatever else changes.
///
/// # Errors
/// libtorch has no memory for them.
pub fn initial_parameters(config: &LlamaConfig, seed: u64) -> Result<Parameters, ModelError> {
    let specs = config.groups().into_iter().flat_map(|group| group.parameters);
    specs
        .enumerate()
        .map(|(stream, spec)| {
            let elements = usize::try_from(spec.elements())
                .map_err(|_| ModelError::parameter(&spec.name, "has too many elements"))?;
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(stream as u64);
            let values = if spec.decay {
                normals(&mut random, elements, config.initializer_range as f32)
            } else {
                vec![1.0; elements]
            };
            Ok((spec.name, Tensor::f_from_slice(&values)?.f_view(spec.shape.as_slice())?))
        })
        .collect()
}

/// Box and Muller's transform of uniform pairs.
fn normals(random: &mut ChaCha8Rng, count: usize, deviation: f32) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt() * deviation;
        let (sine, cosine) = (std::f32::consts::TAU * random.random::<f32>()).sin_cos();
        values.extend([radius * cosine, radius * sine]);
    }
    values.truncate(count);
    values
}
