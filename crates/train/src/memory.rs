//! Tensors over memory that is not libtorch's: views of buffers, and rows of a sealed batch. The one place of this crate,
//! with [`kernel`](crate::kernel), that needs `unsafe`.

use std::{ptr::NonNull, sync::Arc};

use half::bf16;
use lyceum_collective::{Allocator, Buffer, Keeper, Location, Plain, SoloCommunicator};
use tch::{Device, Kind, TchError, Tensor};

/// Where tensors over a buffer of this location live.
pub fn device_of(location: Location) -> Device {
    match location {
        Location::Host => Device::Cpu,
        Location::Cuda(ordinal) => Device::Cuda(ordinal),
    }
}

/// A rank alone in its world whose buffers lie where `device` computes.
pub fn solo_communicator(device: Device, epoch: u64) -> SoloCommunicator {
    SoloCommunicator::in_epoch(epoch).with_allocator(memory_of(device))
}

/// What communicators take their buffers from: on a GPU libtorch's allocator, so that the device has one pool.
pub fn memory_of(device: Device) -> Allocator {
    Box::new(move |bytes| allocate(device, bytes).map_err(|error| error.to_string()))
}

/// Tells glibc to keep what is freed instead of giving it back to the kernel: a step allocates the same activations as the
/// one before, and fresh pages cost more than the arithmetic on them. For a process that trains, at its start.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in
        [(libc::M_MMAP_THRESHOLD, 1 << 30), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_TOP_PAD, 64 << 20)]
    {
        // SAFETY: sets a number in the allocator; a value that it does not take is refused without effect.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Zeroed memory of this process, where `device` computes.
pub fn allocate(device: Device, bytes: usize) -> Result<Buffer, TchError> {
    let location = match device {
        Device::Cuda(ordinal) => Location::Cuda(ordinal),
        _ => return Ok(Buffer::host(bytes)),
    };
    let tensor = Tensor::f_zeros([bytes.max(1) as i64], (Kind::Uint8, device))?;
    let start = NonNull::new(tensor.data_ptr().cast::<u8>())
        .ok_or_else(|| TchError::Torch(format!("no address for {bytes} bytes on {device:?}")))?;
    let keeper: Keeper = Arc::new(OwnedByTorch { _tensor: tensor });
    // SAFETY: torch's CUDA allocations are 512-byte aligned, zeroed above, and live as long as the tensor.
    Ok(unsafe { Buffer::from_raw(keeper, start, bytes, location) })
}

struct OwnedByTorch {
    _tensor: Tensor,
}

// SAFETY: the tensor is never used, only dropped, and reference counts are atomic.
unsafe impl Sync for OwnedByTorch {}

/// A tensor over `shape` elements of `buffer` from element `offset` on. Whoever holds it also holds the buffer's
/// [`keeper`](Buffer::keeper), and does not touch it while the buffer is under way.
pub fn view(buffer: &Buffer, offset: usize, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
    let elements = shape.iter().product::<i64>() as usize;
    let size = kind.elt_size_in_bytes();
    assert!(
        (offset + elements) * size <= buffer.len(),
        "a view of {elements} elements at {offset} past {buffer:?}"
    );
    let device = device_of(buffer.location());
    if elements == 0 {
        // libtorch asks CUDA whose an address is, and one behind the end is nobody's.
        return Tensor::f_empty(shape, (kind, device));
    }
    // SAFETY: inside the buffer, which the caller keeps alive.
    unsafe { Tensor::f_from_blob(buffer.as_ptr().add(offset * size), shape, &[], kind, device) }
}

/// A `[1, length]` tensor over a row of token ids or labels, not copied (L4): it cannot outlive the row, and only reading
/// operations may have it.
pub struct RowTensor<'a> {
    tensor: Tensor,
    row: &'a [i64],
}

impl<'a> RowTensor<'a> {
    /// A tensor over `row`; for a GPU, its one transfer.
    pub fn new(row: &'a [i64], device: Device) -> Result<Self, TchError> {
        let shape = [1, row.len() as i64];
        // SAFETY: the lifetime in the type keeps the row.
        let tensor =
            unsafe { Tensor::f_from_blob(row.as_ptr().cast::<u8>(), &shape, &[], Kind::Int64, Device::Cpu)? };
        Ok(Self { tensor: tensor.f_to_device(device)?, row })
    }

    /// The tensor, to be read.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The row itself, in host memory.
    pub fn row(&self) -> &'a [i64] {
        self.row
    }
}

/// The elements of a contiguous fp32 tensor on the host.
pub fn elements(tensor: &Tensor) -> &[f32] {
    slice(tensor, Kind::Float)
}

/// The elements of a contiguous bf16 tensor on the host.
pub fn bf16_elements(tensor: &Tensor) -> &[bf16] {
    slice(tensor, Kind::BFloat16)
}

/// `T` is what `kind` is made of.
fn slice<T: Plain>(tensor: &Tensor, kind: Kind) -> &[T] {
    assert!(
        tensor.is_contiguous() && tensor.kind() == kind && tensor.device() == Device::Cpu,
        "only a contiguous {kind:?} tensor on the host is a slice of them"
    );
    // SAFETY: contiguous host memory of so many elements of that kind, borrowed from the tensor.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l4_a_row_becomes_a_tensor_at_its_own_address() {
        let row: Vec<i64> = (0..64).collect();
        let tensor = RowTensor::new(&row, Device::Cpu).unwrap();
        assert_eq!(tensor.tensor().data_ptr().cast_const().cast(), row.as_ptr());
        assert_eq!(tensor.tensor().size(), [1, 64]);
    }

    #[test]
    fn a_view_shows_the_buffers_own_elements() {
        let mut buffer = Buffer::host(16);
        buffer.as_mut_slice::<f32>().copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        let mut tensor = view(&buffer, 1, &[3], Kind::Float).unwrap();
        let _ = tensor.fill_(7.0);
        assert_eq!(buffer.as_slice::<f32>(), [1.0, 7.0, 7.0, 7.0]);
        assert_eq!(elements(&tensor), [7.0, 7.0, 7.0]);
    }
}
