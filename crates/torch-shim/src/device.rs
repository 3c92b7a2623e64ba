//! Accelerators, without linking to any.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use crate::error::{checked, take_message};
use crate::{ShimError, ffi};

/// An accelerator's caching allocator, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In live tensors.
    pub allocated: u64,
    /// Most ever in live tensors.
    pub peak: u64,
    /// Taken from the device, live or cached.
    pub reserved: u64,
}

/// How many NVIDIA devices the driver lets this process use (`CUDA_VISIBLE_DEVICES` applies); 0 without a driver.
/// Asks the driver alone: libtorch's CUDA part need not be loaded.
#[must_use]
pub fn driver_devices() -> usize {
    // SAFETY: takes nothing; answers 0 where the driver's library or its functions are missing.
    usize::try_from(unsafe { ffi::lyceum_shim_driver_devices() }).unwrap_or(0)
}

/// Loads `libtorch_cuda.so` from `directory`, or from where libtorch_cpu lies, so that tensors can be made on CUDA
/// devices. To be called before the process's first tensor.
///
/// # Errors
/// [`ShimError::Load`] with the loader's reason, as for a libtorch without a CUDA part.
pub fn load_cuda(directory: Option<&Path>) -> Result<(), ShimError> {
    let directory = directory.map(Path::to_owned).or_else(libtorch_directory).unwrap_or_default();
    let path = directory.join("libtorch_cuda.so");
    let failed = |reason: String| ShimError::Load { path: path.display().to_string(), reason };
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| failed(e.to_string()))?;
    // SAFETY: `name` is NUL-terminated and outlives the call. The library's initializers are libtorch's own.
    take_message(unsafe { ffi::lyceum_shim_load_library(name.as_ptr()) })
        .map_or(Ok(()), |reason| Err(failed(reason)))
}

/// Gives cached, unused accelerator memory back to the device. Without an accelerator, does nothing.
///
/// # Errors
/// The device is in a failed state.
pub fn empty_cache() -> Result<(), ShimError> {
    // SAFETY: takes nothing.
    checked(unsafe { ffi::lyceum_shim_empty_cache() })
}

/// Memory of accelerator number `device`.
///
/// # Errors
/// There is no accelerator, or none of that number.
pub fn device_memory(device: usize) -> Result<DeviceMemory, ShimError> {
    let number =
        i8::try_from(device).map_err(|_| ShimError::Torch(format!("no accelerator has number {device}")))?;
    let (mut allocated, mut peak, mut reserved) = (0, 0, 0);
    // SAFETY: the three pointers are valid for one i64 each.
    checked(unsafe { ffi::lyceum_shim_device_memory(number, &mut allocated, &mut peak, &mut reserved) })?;
    let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(DeviceMemory { allocated: bytes(allocated), peak: bytes(peak), reserved: bytes(reserved) })
}

fn libtorch_directory() -> Option<PathBuf> {
    // SAFETY: takes nothing; the answer is a message of the shim or null.
    let path = take_message(unsafe { ffi::lyceum_shim_libtorch_path() })?;
    Path::new(&path).parent().map(Path::to_owned)
}
