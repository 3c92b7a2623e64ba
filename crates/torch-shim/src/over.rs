//! A tensor over memory that something else owns.

use std::ffi::c_void;

use tch::{Kind, Tensor};

use crate::error::checked;
use crate::{ShimError, ffi};

/// A CPU tensor of `shape` (row-major) and `kind` over the first bytes of `bytes(&owner)`, without a copy. `owner`
/// lives until the last tensor over it, autograd's saved ones included, is gone.
///
/// # Errors
/// The slice is too short for `shape`, or not aligned for `kind`; a negative or overflowing `shape`.
///
/// # Safety
/// What `bytes` gives must stay where it is, valid and unchanged, for as long as `owner` lives, also when `owner` is
/// moved (memory behind a pointer: a mapping, a `Vec`, an `Arc`; not an array). Where it is mapped read-only, no in-place operation may be run on
/// the tensor or its views: it would be a SIGSEGV.
pub unsafe fn tensor_over<Owner: Send + 'static>(
    owner: Owner,
    bytes: impl FnOnce(&Owner) -> &[u8],
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor, ShimError> {
    let wrong = |reason: String| Err(ShimError::Memory(reason));
    let memory = bytes(&owner);
    let (data, length) = (memory.as_ptr(), memory.len());
    let item = kind.elt_size_in_bytes();
    let needed = shape.iter().try_fold(item, |product, size| {
        usize::try_from(*size).ok().and_then(|size| product.checked_mul(size))
    });
    match needed {
        Some(needed) if needed <= length => {}
        _ => return wrong(format!("{length} bytes do not hold {kind:?} of shape {shape:?}")),
    }
    // libtorch's kinds are as aligned as they are large; complex ones, twice a float, are never mapped here.
    if !data.addr().is_multiple_of(item.max(1)) {
        return wrong(format!("{data:p} is not aligned for {kind:?}"));
    }
    let owner = Box::into_raw(Box::new(owner));
    let mut out = std::ptr::null_mut();
    // SAFETY: `data` holds the whole tensor (checked above) for as long as `owner` lives (the caller's word); `release`
    // gets the pointer of `Box::into_raw` exactly once.
    checked(unsafe {
        ffi::lyceum_shim_tensor_over(
            data.cast_mut().cast(),
            shape.as_ptr(),
            shape.len(),
            kind_number(kind),
            owner.cast(),
            release::<Owner>,
            &mut out,
        )
    })?;
    // SAFETY: on success `out` is a new tensor of ours.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// # Safety
/// `owner` is a `Box<Owner>`'s raw pointer, given up by its holder.
unsafe extern "C" fn release<Owner>(owner: *mut c_void) {
    // SAFETY: as above. A destructor that panics must not unwind into C++; `extern "C"` aborts then.
    drop(unsafe { Box::from_raw(owner.cast::<Owner>()) });
}

/// `c10::ScalarType`'s number of a kind.
fn kind_number(kind: Kind) -> i8 {
    match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::ComplexHalf => 8,
        Kind::ComplexFloat => 9,
        Kind::ComplexDouble => 10,
        Kind::Bool => 11,
        Kind::QInt8 => 12,
        Kind::QUInt8 => 13,
        Kind::QInt32 => 14,
        Kind::BFloat16 => 15,
        Kind::Float8e5m2 => 23,
        Kind::Float8e4m3fn => 24,
        Kind::Float8e5m2fnuz => 25,
        Kind::Float8e4m3fnuz => 26,
    }
}
