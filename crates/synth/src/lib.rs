//! Instruction synthesis: prompt, parse, chains, formats and the engine trait. No libtorch.
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
