//! Documents, tokenizer, order, packing and mixing: the way of the data, without libtorch and without a network.
//!
//! In the order in which a document meets them:
//!
//! 1. [`document`] reads entries from files and counts what it skips; [`order`] forms [`chain::Chain`]s of them,
//!    window by window; [`lease`] says who is working on which.
//! 2. [`tokenizer`] turns texts into ids. What was made of a chain is a [`chain::ChainRecord`].
//! 3. [`assembly`] takes records in any order through a bounded window ([`reorder`]), makes them durable ([`record`]),
//!    draws them in chain order as the mixture says ([`mix`]), lays them into rows ([`pack`]) and logs every batch
//!    ([`batch_log`]) before it hands it out. [`journal`] is the file format under both.
//!    [`fingerprint`] says whether the files are still those of the run that is resumed.
//! 4. [`batch`] writes the logged batch as one archive into lent memory, and reads it there.
//!
//! Every decision is a function of (seed, document, decision): [`random`]. Everything but `document`, `journal` and
//! what stands on them is pure: no clock, no I/O.
#![deny(missing_docs)]

pub mod assembly;
pub mod batch;
pub mod batch_log;
pub mod chain;
pub mod document;
pub mod fingerprint;
#[cfg(test)]
mod fuzz;
pub mod journal;
pub mod lease;
pub mod mix;
pub mod order;
pub mod pack;
pub mod random;
pub mod record;
pub mod reorder;
pub mod tokenizer;
