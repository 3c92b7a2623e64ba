//! A Hugging Face model directory before any tensor is made: what its `config.json` says, which parameters follow from
//! that, and whether its weights are those parameters.
//!
//! Without libtorch, so that a run file is refused for its models before anything starts. `lyceum-model` makes tensors
//! of what is found here.
//!
//! ```no_run
//! use lyceum_model_files::{LlamaConfig, Weights};
//!
//! # fn main() -> Result<(), lyceum_model_files::ModelFilesError> {
//! let directory = "examples/debian/base".as_ref();
//! let config = LlamaConfig::load(directory)?;
//! let weights = Weights::open(directory, &config)?; // headers only: 16 GB of shards take milliseconds
//! # Ok(())
//! # }
//! ```
//!
//! Nothing read from a file panics: sizes, kinds and names are untrusted until they have been checked here.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod config;
mod error;
mod groups;
mod json;
mod weights;

pub use config::{LlamaConfig, ModelType, RopeScaling};
pub use error::ModelFilesError;
pub use groups::{EMBEDDING, FINAL_NORM, HEAD, ParameterGroup, ParameterSpec};
pub use weights::{StoredTensor, StoredType, WeightFile, Weights};
