//! The optimizer where the shards lie on a GPU: the same arithmetic as [`kernel`](crate::kernel), in tensor operations.

use tch::{Kind, Tensor};

use crate::{TrainError, flat::FlatGroup, kernel::AdamWStep};

/// The sum of squares of this rank's shards, in double precision.
pub fn sum_of_squares(groups: &[FlatGroup]) -> Result<f64, TrainError> {
    let mut sum = 0.0;
    for group in groups {
        let [gradient, ..] = group.shard_tensors()?;
        let norm = gradient.f_linalg_norm(2.0, None::<&[i64]>, false, Kind::Double)?;
        sum += norm.f_double_value(&[])?.powi(2);
    }
    Ok(sum)
}

/// AdamW over this rank's shards.
pub fn update(groups: &[FlatGroup], step: &AdamWStep, keep: f32) -> Result<(), TrainError> {
    for group in groups {
        let [gradient, master, moment1, moment2, mut weights] = group.shard_tensors()?;
        let decayed = crate::adamw::before(group.layout.decayed, &group.layout.owned()) as i64;
        adamw(step, f64::from(keep), decayed, gradient, &master, moment1, moment2)?;
        if weights.kind() != Kind::Float {
            weights.f_copy_(&master)?;
        }
    }
    Ok(())
}

fn adamw(
    step: &AdamWStep,
    keep: f64,
    decayed: i64,
    mut gradient: Tensor,
    master: &Tensor,
    mut moment1: Tensor,
    mut moment2: Tensor,
) -> Result<(), TrainError> {
    let _ = gradient.f_mul_scalar_(f64::from(step.gradient_scale))?;
    let _ = moment1.f_mul_scalar_(f64::from(step.beta1))?;
    let _ = moment1.f_add_(&gradient.f_mul_scalar(f64::from(step.one_minus_beta1))?)?;
    let _ = moment2.f_mul_scalar_(f64::from(step.beta2))?;
    let squares = gradient.f_square()?;
    let _ = moment2.f_add_(&squares.f_mul_scalar(f64::from(step.one_minus_beta2))?)?;
    let mut denominator = moment2.f_sqrt()?;
    let _ = denominator.f_mul_scalar_(f64::from(step.inverse_root_correction))?;
    let _ = denominator.f_add_scalar_(f64::from(step.epsilon))?;
    let change = moment1.f_div(&denominator)?.f_mul_scalar(f64::from(step.step_size))?;
    let _ = master.f_narrow(0, 0, decayed)?.f_mul_scalar_(keep)?;
    let _ = master.shallow_clone().f_sub_(&change)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::{adamw::AdamW, kernel};

    #[test]
    fn tensor_operations_update_as_the_kernel_does() {
        let wave = |phase: f32| (0..100).map(|i| (i as f32 * 0.7 + phase).sin()).collect::<Vec<_>>();
        let rule = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
        let (mut master, mut moment1, mut moment2) = (wave(0.0), vec![0.0; 100], vec![0.0; 100]);
        let tensors = [&master, &moment1, &moment2].map(|values| Tensor::from_slice(values));
        for update in 1..=5 {
            let gradient = wave(update as f32);
            let (step, keep) = rule.step(update, 1e-2, 0.5);
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
            let [master, moment1, moment2] = &tensors;
            let moments = (moment1.shallow_clone(), moment2.shallow_clone());
            adamw(&step, f64::from(keep), 60, Tensor::from_slice(&gradient), master, moments.0, moments.1)
                .unwrap();
        }
        let found = Vec::<f32>::try_from(&tensors[0]).unwrap();
        for (found, expected) in found.iter().zip(&master) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
    }
}
