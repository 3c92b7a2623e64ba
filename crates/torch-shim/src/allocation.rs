//! Counting what libtorch's CPU allocator does.

use crate::error::checked;
use crate::{ShimError, ffi};

/// CPU tensor storage that this thread has taken from libtorch's allocator since [`count_allocations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocations {
    /// Storages of at least one byte.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Puts a counter in front of libtorch's CPU allocator, for the rest of the process. Asked for again, does nothing.
///
/// # Errors
/// libtorch refuses another allocator.
pub fn count_allocations() -> Result<(), ShimError> {
    // SAFETY: takes nothing, and libtorch allows its allocator to be replaced at any time: each storage remembers its
    // own deleter.
    checked(unsafe { ffi::lyceum_shim_count_allocations() })
}

/// This thread's count. The difference of two readings is what happened between them.
#[must_use]
pub fn allocations() -> Allocations {
    let mut counted = Allocations { count: 0, bytes: 0 };
    // SAFETY: both pointers are valid for one u64.
    unsafe { ffi::lyceum_shim_allocations(&mut counted.count, &mut counted.bytes) };
    counted
}
