//! Documents, tokenizer, order, packing and mixing: the way of the data, without libtorch and without a network.
#![deny(missing_docs)]

pub mod assembly;
pub mod batch;
pub mod batch_log;
pub mod chain;
pub mod document;
pub mod journal;
pub mod lease;
pub mod mix;
pub mod order;
pub mod pack;
pub mod random;
pub mod record;
pub mod reorder;
pub mod tokenizer;
