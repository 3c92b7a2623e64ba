//! Generation with a key-value cache: batched, greedy or sampled, rows replaced as they finish.
//!
//! A [`Generator`] holds a model's weights in the shape that single tokens want, and one cache. Prompts wait in the
//! order given; as many as there are free rows are run through the model at once (right-padded: under causal attention
//! no token sees what follows it, so padding changes nothing), then all rows go on token by token. A row that ends is
//! given to the next prompt; where none waits the last row moves into its place, so that the batch stays dense and
//! every attention reads one contiguous range of rows.
//!
//! Memory is bounded by [`GenerationLimits`], stated in tokens.

mod cache;
mod cached_attention;
mod decoder;
mod engine;
mod generator;
mod projection;
mod sample;
mod stop;

pub use engine::TorchEngine;
pub use generator::{Completion, GenerationLimits, Generator, Request};
pub use sample::Choice;
pub use stop::Stop;
