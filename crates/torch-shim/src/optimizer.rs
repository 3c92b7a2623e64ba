//! AdamW in one pass over one tensor.

use tch::Tensor;

use crate::error::checked;
use crate::{ShimError, ffi};

/// AdamW's numbers for one step (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Weight decay, times the rate.
    pub decay: f64,
    /// Added to the root of the variance.
    pub epsilon: f64,
}

/// libtorch's fused AdamW step. `parameter`, `gradient`, `mean` and `variance` are of one shape, kind (fp32) and device
/// and are changed in place (`gradient` too where `gradient_divisor` is given: it is first divided by that scalar
/// tensor). `step` is an fp32 scalar tensor holding the number of *this* step, from 1.
///
/// # Errors
/// Shapes, kinds or devices differ.
pub fn fused_adamw(
    [parameter, gradient, mean, variance]: [&mut Tensor; 4],
    step: &mut Tensor,
    gradient_divisor: Option<&Tensor>,
    numbers: &AdamW,
) -> Result<(), ShimError> {
    let _no_grad = tch::no_grad_guard();
    // SAFETY: all pointers come from live tensors that this call has exclusively (shared for the divisor).
    checked(unsafe {
        ffi::lyceum_shim_fused_adamw(
            parameter.as_mut_ptr(),
            gradient.as_mut_ptr(),
            mean.as_mut_ptr(),
            variance.as_mut_ptr(),
            step.as_mut_ptr(),
            numbers.rate,
            numbers.beta1,
            numbers.beta2,
            numbers.decay,
            numbers.epsilon,
            gradient_divisor.map_or(std::ptr::null(), Tensor::as_ptr),
        )
    })
}
