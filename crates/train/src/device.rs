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
