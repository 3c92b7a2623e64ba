//! What can be wrong with a model's directory.

use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelFilesError {
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
    /// A file is not the JSON that its name says.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Json {
        /// The file at fault.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in bytes.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A directory has no weights.
    #[error("{}: there are no weights: expected model.safetensors, or model.safetensors.index.json with its shards", directory.display())]
    NoWeights {
        /// Where they were looked for.
        directory: PathBuf,
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
}

impl ModelFilesError {
    /// The system's word on `path`.
    #[must_use]
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// What is wrong with `path`.
    #[must_use]
    pub fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), reason: reason.into() }
    }

    /// What is wrong with the parameter `name`.
    #[must_use]
    pub fn parameter(name: &str, reason: impl Into<String>) -> Self {
        Self::Parameter { name: name.to_owned(), reason: reason.into() }
    }

    /// Where and why `path` is not the JSON it should be.
    pub(crate) fn json(path: &Path, error: &serde_json::Error) -> Self {
        let said = error.to_string();
        // The place is told once, and at the front.
        let reason = said.rsplit_once(" at line ").map_or(said.as_str(), |(reason, _)| reason).to_owned();
        let (line, column) = (error.line().max(1), error.column().max(1));
        Self::Json { path: path.to_owned(), line, column, reason }
    }
}
