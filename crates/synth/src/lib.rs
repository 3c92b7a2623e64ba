//! Instruction synthesis: raw text becomes instruction-augmented text. No libtorch; the model is behind a trait.
//!
//! - [`pair`] is what is made, [`prompt`] the exact language in which it is asked for, [`parse`] how the answer is read.
//! - [`rounds`] is the state machine of one chain; [`engine`] answers its prompts ([`deterministic`] without a model);
//!   [`mod@format`] puts documents and pairs into words.
//! - [`synthesize`] ties these together: leased chains in, [`lyceum_corpus::chain::ChainRecord`]s out.
//! - [`tuning`] makes the sequences that a synthesizer is tuned on. [`accounts`] counts pairs.
#![deny(missing_docs)]

pub mod accounts;
pub mod deterministic;
pub mod engine;
pub mod format;
pub mod pair;
pub mod parse;
pub mod prompt;
pub mod rounds;
pub mod synthesize;
pub mod tuning;
