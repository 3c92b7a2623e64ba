//! A linear map without bias on the CPU, its weight laid out once.

use tch::Tensor;

use crate::error::checked;
use crate::{ShimError, ffi};

/// `y = x W^T` with the weight in the blocked layout that oneDNN's kernels read. The plain call lays the weight out
/// anew each time, which costs more than the product itself where `x` has few rows.
#[derive(Debug)]
pub struct PackedLinear {
    weight: Tensor,
}

impl PackedLinear {
    /// Lays out a copy of `weight`, `[rows, columns]`, for inputs of about `batch` rows (any number works).
    ///
    /// # Errors
    /// Not on the CPU, not fp32 or a kind that this CPU multiplies natively, or built without oneDNN.
    pub fn new(weight: &Tensor, batch: i64) -> Result<Self, ShimError> {
        let _no_grad = tch::no_grad_guard();
        let mut out = std::ptr::null_mut();
        // SAFETY: `weight` is a live tensor; `out` is valid for one pointer.
        checked(unsafe { ffi::lyceum_shim_pack_linear(weight.as_ptr(), batch, &mut out) })?;
        // SAFETY: on success `out` is a new tensor of ours.
        Ok(Self { weight: unsafe { Tensor::from_ptr(out) } })
    }

    /// `[n, columns]` to `[n, rows]`. Records no gradients.
    ///
    /// # Errors
    /// `input` is of another width, kind or device.
    pub fn apply(&self, input: &Tensor) -> Result<Tensor, ShimError> {
        let mut out = std::ptr::null_mut();
        // SAFETY: both are live tensors; `out` is valid for one pointer.
        checked(unsafe { ffi::lyceum_shim_packed_linear(input.as_ptr(), self.weight.as_ptr(), &mut out) })?;
        // SAFETY: on success `out` is a new tensor of ours.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}
