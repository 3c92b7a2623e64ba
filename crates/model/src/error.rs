//! What can go wrong between a directory on disk and a tensor.

use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or directory could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A model's configuration is impossible or not supported here.
    #[error("model configuration: {0}")]
    Config(String),
    /// A parameter is missing, unknown, or of another shape or kind than its configuration says.
    #[error("parameter {name}: {reason}")]
    Parameter {
        /// Hugging Face's name of it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An input does not fit the model: token ids, labels, lengths.
    #[error("model input: {0}")]
    Input(String),
    /// No usable device.
    #[error("device: {0}")]
    Device(String),
    /// libtorch refused a call.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The shim refused a call.
    #[error(transparent)]
    Shim(#[from] lyceum_torch_shim::ShimError),
}

impl ModelError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn parameter(name: &str, reason: impl Into<String>) -> Self {
        Self::Parameter { name: name.to_owned(), reason: reason.into() }
    }
}
