//! The optimizer where the shards lie on a GPU: the same arithmetic as [`kernel`](crate::kernel), by libtorch's fused
//! AdamW, which reads and writes every number once.

use lyceum_torch_shim::fused_adamw;
use tch::{Kind, Tensor};

use crate::{
    TrainError,
    adamw::{AdamW, before},
    flat::FlatGroup,
};

/// The sum of squares of this rank's shards, in double precision; one number travels.
pub fn sum_of_squares(groups: &[FlatGroup]) -> Result<f64, TrainError> {
    let squares = groups
        .iter()
        .map(|group| {
            let [gradient, ..] = group.shard_tensors()?;
            Ok(gradient.f_linalg_norm(2.0, None::<&[i64]>, false, Kind::Double)?.f_square()?)
        })
        .collect::<Result<Vec<_>, TrainError>>()?;
    Ok(Tensor::f_stack(&squares, 0)?.f_sum(Kind::Double)?.f_double_value(&[])?)
}

/// The update numbered `update`, from 1, of this rank's shards.
pub fn update(
    groups: &[FlatGroup],
    rule: &AdamW,
    update: u64,
    learning_rate: f64,
    gradient_scale: f64,
) -> Result<(), TrainError> {
    for group in groups {
        let [gradient, master, moment1, moment2, mut weights] = group.shard_tensors()?;
        let decayed = before(group.layout.decayed, &group.layout.owned()) as i64;
        let step = Update { rule, number: update, learning_rate, gradient_scale };
        step.run([&master, &gradient, &moment1, &moment2], decayed)?;
        if weights.kind() != Kind::Float {
            weights.f_copy_(&master)?;
        }
    }
    Ok(())
}

/// One update of one shard.
struct Update<'a> {
    rule: &'a AdamW,
    number: u64,
    learning_rate: f64,
    gradient_scale: f64,
}

impl Update<'_> {
    /// Of master, gradient and both moments, all flat; elements before `decayed` are decayed.
    fn run(&self, tensors: [&Tensor; 4], decayed: i64) -> Result<(), TrainError> {
        let [master, ..] = tensors;
        let (device, len) = (master.device(), master.size1()?);
        let scalar = |value: f64| Tensor::f_scalar_tensor(value, (Kind::Float, device));
        let divisor = match self.gradient_scale {
            1.0 => None,
            scale => Some(scalar(1.0 / scale)?),
        };
        for (from, count, decay) in [(0, decayed, self.rule.weight_decay), (decayed, len - decayed, 0.0)] {
            if count == 0 {
                continue;
            }
            let numbers = lyceum_torch_shim::AdamW {
                rate: self.learning_rate,
                beta1: self.rule.beta1,
                beta2: self.rule.beta2,
                decay,
                epsilon: self.rule.epsilon,
            };
            let [a, b, c, d] = tensors.map(|tensor| tensor.f_narrow(0, from, count));
            let (mut a, mut b, mut c, mut d) = (a?, b?, c?, d?);
            let mut step = scalar(self.number as f64)?;
            fused_adamw([&mut a, &mut b, &mut c, &mut d], &mut step, divisor.as_ref(), &numbers)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;

    #[test]
    fn the_fused_update_is_that_of_the_kernel() {
        let wave = |phase: f32| (0..100).map(|i| (i as f32 * 0.7 + phase).sin()).collect::<Vec<_>>();
        let rule = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
        let (mut master, mut moment1, mut moment2) = (wave(0.0), vec![0.0; 100], vec![0.0; 100]);
        let [on_device, mean, variance] =
            [&master, &moment1, &moment2].map(|values| Tensor::from_slice(values));
        for (number, gradient_scale) in (1..=6).zip([0.5, 1.0, 0.1].into_iter().cycle()) {
            let gradient = wave(number as f32);
            let (step, keep) = rule.step(number, 1e-2, gradient_scale);
            for (range, keep) in [(0..60, keep), (60..100, 1.0)] {
                kernel::adamw(
                    &step,
                    keep,
                    &gradient[range.clone()],
                    &mut master[range.clone()],
                    &mut moment1[range.clone()],
                    &mut moment2[range],
                );
            }
            let update = Update { rule: &rule, number, learning_rate: 1e-2, gradient_scale };
            update.run([&on_device, &Tensor::from_slice(&gradient), &mean, &variance], 60).unwrap();
        }
        let found = Vec::<f32>::try_from(&on_device).unwrap();
        for (found, expected) in found.iter().zip(&master) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
    }
}
