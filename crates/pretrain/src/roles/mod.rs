//! The five roles of a run and what they say to each other.
//!
//! ```text
//!                    Controller: starts, watches, scales, ends
//!                  /       |            |             \
//!      CorpusReader --> Synthesizer --> Packer <-- Trainer (ranks)
//!            \_______ raw chains ________/ \__ sealed batches __/
//! ```
//!
//! All pull: a synthesizer leases chains, the Packer asks for raw ones, a trainer asks for a batch. The Packer tells the
//! CorpusReader how far each source may go ([`Allowance`]), so a slow trainer slows the synthesizers and nothing grows
//! (L2). What was made of a chain is always taken: nobody who has it in hand keeps back another that is waited for.
//!
//! Nobody can wait in a circle: of any two actors only one ever waits for the other inside of a handler. The Packer
//! waits for the CorpusReader's mailbox, and the CorpusReader for nobody; the Controller and the trainers ask the Packer,
//! which never asks them; synthesizers ask both and are asked by neither.

mod controller;
mod corpus_reader;
mod packer;
mod synthesizer;
mod trainer;

use lyceum_actor::Accepts;
use rkyv::{Archive, Deserialize, Serialize};

pub use controller::*;
pub use corpus_reader::*;
pub use packer::*;
pub use synthesizer::*;
pub use trainer::*;

/// What every actor of a run is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Settings {
    /// The checked run file, as JSON ([`crate::run_file::RunFile`]).
    pub run: String,
    /// The run's folder, absolute.
    pub directory: String,
    /// Grows with every attempt at this run: outside effects (log appends, checkpoint commits) of older epochs are
    /// refused.
    pub epoch: u64,
    /// The program that hosts what needs libtorch: beside the agents' own, or one that was brought, by its hash.
    pub worker: String,
}

/// Answered never, but with an error: when the actor cannot go on, or is dead. So its starter learns of it at once (L3).
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Attend;

impl Accepts<Attend> for CorpusReader {
    type Reply = ();
}

impl Accepts<Attend> for Packer {
    type Reply = ();
}
