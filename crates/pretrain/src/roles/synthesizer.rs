//! The Synthesizer's role.

use lyceum_actor::{Accepts, ActorRef, Role};
use rkyv::{Archive, Deserialize, Serialize};

use super::{CorpusReader, Packer, Settings};

/// Turns leased chains into texts until none is left.
#[derive(Debug)]
pub struct Synthesizer;

impl Role for Synthesizer {
    const NAME: &'static str = "synthesizer";
    type Args = SynthesizerArgs;
    type Messages = (Synthesize, Turn, Drain);
}

/// What a synthesizer is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct SynthesizerArgs {
    /// The run.
    pub settings: Settings,
    /// Where chains come from.
    pub reader: ActorRef<CorpusReader>,
    /// Where what was made of them goes.
    pub packer: ActorRef<Packer>,
}

/// Works until no chain is left or it is told to drain; the answer comes then.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Synthesize;

/// What a synthesizer has done.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct SynthesisReport {
    /// Chains answered.
    pub chains: u64,
}

impl Accepts<Synthesize> for Synthesizer {
    type Reply = SynthesisReport;
}

/// What a synthesizer tells itself: take the next chains. Between two turns it hears [`Drain`].
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Turn;

impl Accepts<Turn> for Synthesizer {
    type Reply = ();
}

/// Ends the work after the chains in hand.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Drain;

impl Accepts<Drain> for Synthesizer {
    type Reply = ();
}
