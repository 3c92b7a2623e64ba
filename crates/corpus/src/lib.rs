//! Documents, tokenizer, order, packing and mixing: the way of the data, without libtorch and without a network.
#![deny(missing_docs)]

pub mod batch;
pub mod chain;
pub mod document;
pub mod mix;
pub mod order;
pub mod pack;
pub mod random;
pub mod tokenizer;
