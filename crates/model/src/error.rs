//! What can go wrong between a directory on disk and a tensor.

use std::path::Path;

use lyceum_model_files::ModelFilesError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A model's directory, or what its `config.json` says of its parameters, is at fault.
    #[error(transparent)]
    Files(#[from] ModelFilesError),
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
        ModelFilesError::io(path, source).into()
    }

    pub(crate) fn file(path: &Path, reason: impl Into<String>) -> Self {
        ModelFilesError::file(path, reason).into()
    }

    pub(crate) fn parameter(name: &str, reason: impl Into<String>) -> Self {
        ModelFilesError::parameter(name, reason).into()
    }
}
