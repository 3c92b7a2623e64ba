//! Llama and Mistral on tch: Hugging Face in, Hugging Face out, generation.
//!
//! A model is three things, kept apart: a [`LlamaConfig`] (what a `config.json` says, checked), named
//! [`Parameters`] (tensors, wherever their memory lies) and a [`Llama`] (the mathematics over them). Training walks a
//! [`Llama`] one block at a time, in the order of [`LlamaConfig::groups`]; the [`generate`] module runs it with a key-value cache.
//!
//! ```no_run,standalone_crate
//! use lyceum_model::{Llama, Placement, load_directory};
//!
//! # fn main() -> Result<(), lyceum_model::ModelError> {
//! let placement = Placement::choose()?;
//! let (config, parameters) = load_directory("examples/debian/base".as_ref(), &placement)?;
//! let llama = Llama::from_parameters(config, |name| parameters.get(name).map(tch::Tensor::shallow_clone))?;
//! let ids = tch::Tensor::from_slice(&[1i64, 5, 9]).view([1, 3]);
//! let logits = llama.logits(&llama.hidden(&ids)?)?; // [1, 3, vocabulary], fp32
//! # Ok(())
//! # }
//! ```
//!
//! Nothing read from a file panics: sizes, kinds and names are checked before libtorch sees them, and every libtorch
//! call on such input is its fallible form.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod attention;
mod device;
mod error;
pub mod generate;
mod initial;
mod llama;
mod load;
mod loss;
mod rotary;
mod save;

pub use attention::Positions;
pub use device::Placement;
pub use error::ModelError;
pub use initial::initial_parameters;
pub use llama::Llama;
pub use load::{Parameters, load_directory, load_parameters};
pub use loss::IGNORED_LABEL;
pub use lyceum_model_files::{
    LlamaConfig, ModelFilesError, ModelType, ParameterGroup, ParameterSpec, RopeScaling,
};
pub use save::{StoredKind, save_directory};
