//! Instruction synthesis: prompt, parse, chains, formats and the engine trait. No libtorch.
#![deny(missing_docs)]

pub mod engine;
