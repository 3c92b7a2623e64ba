//! What libtorch threw, as an error.

use std::ffi::{CStr, c_char};

/// A call that libtorch or the loader refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShimError {
    /// libtorch's own message.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A library could not be loaded.
    #[error("cannot load {path}: {reason}")]
    Load {
        /// The library asked for.
        path: String,
        /// The loader's message.
        reason: String,
    },
    /// Memory that does not fit the tensor that was asked for.
    #[error("memory for a tensor: {0}")]
    Memory(String),
}

/// The message a shim function returned, freed; `None` where it returned null.
pub(crate) fn take_message(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: the shim's messages are NUL-terminated, malloc'ed and handed over to the caller.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        crate::ffi::free(message.cast());
        Some(text)
    }
}

pub(crate) fn checked(message: *mut c_char) -> Result<(), ShimError> {
    take_message(message).map_or(Ok(()), |text| Err(ShimError::Torch(text)))
}
