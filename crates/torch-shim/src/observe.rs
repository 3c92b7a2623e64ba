//! What libtorch does on this thread: which integers it is given, and what memory it takes. The witness of L4.

use std::ffi::{CStr, c_char, c_void};

use crate::error::checked;
use crate::{ShimError, ffi};

/// Something that libtorch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// An operation was given an `i64` tensor on the CPU. Operations that are made of others are seen with all of them,
    /// down to the one whose kernel runs.
    Operand {
        /// Its name, as in `aten::embedding`.
        operation: String,
        /// Where the tensor's first element lies.
        address: usize,
        /// Bytes of its elements.
        bytes: usize,
    },
    /// The CPU allocator gave a tensor its storage.
    Allocation {
        /// Of so many bytes; at least one.
        bytes: usize,
    },
}

impl Seen {
    /// Bytes allocated, of an allocation.
    pub fn allocated(&self) -> Option<usize> {
        match self {
            Self::Allocation { bytes } => Some(*bytes),
            Self::Operand { .. } => None,
        }
    }
}

/// Runs `work` and tells what libtorch did meanwhile on this thread, in order. Observations do not nest.
///
/// From the first one on, an observer stands before libtorch's CPU allocator, for the rest of the process; it is idle
/// otherwise.
///
/// # Errors
/// libtorch refuses to be observed.
pub fn observe<R>(work: impl FnOnce() -> R) -> Result<(R, Vec<Seen>), ShimError> {
    // SAFETY: takes nothing. libtorch allows its allocator to be replaced at any time: each storage remembers its own
    // deleter.
    checked(unsafe { ffi::lyceum_shim_observe_begin() })?;
    let observation = Observation;
    let result = work();
    Ok((result, observation.end()))
}

/// Ends with this value, whatever becomes of the work.
struct Observation;

impl Observation {
    fn end(self) -> Vec<Seen> {
        let mut seen = Vec::new();
        // SAFETY: `add` is called during this call only, with the vector.
        unsafe { ffi::lyceum_shim_observe_end(Some(add), (&raw mut seen).cast()) };
        std::mem::forget(self);
        seen
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        // SAFETY: without a function nothing is told.
        unsafe { ffi::lyceum_shim_observe_end(None, std::ptr::null_mut()) };
    }
}

/// # Safety
/// `seen` is the vector that was handed in; `operation` is null or NUL-terminated.
unsafe extern "C" fn add(seen: *mut c_void, operation: *const c_char, address: *const c_void, bytes: u64) {
    // SAFETY: the caller's contract.
    let seen = unsafe { &mut *seen.cast::<Vec<Seen>>() };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    seen.push(if operation.is_null() {
        Seen::Allocation { bytes }
    } else {
        // SAFETY: as above.
        let operation = unsafe { CStr::from_ptr(operation) }.to_string_lossy().into_owned();
        Seen::Operand { operation, address: address.addr(), bytes }
    });
}
