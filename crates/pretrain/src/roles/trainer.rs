//! The Trainer's role.

use lyceum_actor::{Accepts, ActorRef, Role};
use lyceum_collective::{Gang, Member};
use rkyv::{Archive, Deserialize, Serialize};

use super::{Controller, Packer, Settings};

/// One rank of the gang that trains.
#[derive(Debug)]
pub struct Trainer;

impl Role for Trainer {
    const NAME: &'static str = "trainer";
    type Args = TrainerArgs;
    type Messages = (Join, Form, Evaluate, Train);
}

/// What a trainer is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct TrainerArgs {
    /// The run.
    pub settings: Settings,
    /// Who is told of every step.
    pub controller: ActorRef<Controller>,
}

/// Asks a trainer where its gang can reach it.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Join;

impl Accepts<Join> for Trainer {
    type Reply = Member;
}

/// Forms the gang and loads the newest checkpoint, or the first weights.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Form {
    /// All members, in rank order.
    pub gang: Gang,
    /// The trainer's own rank.
    pub rank: u32,
}

/// Where a gang begins.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Formed {
    /// Steps done before.
    pub step: u64,
    /// Number of the batch that comes next.
    pub log_position: u64,
}

impl Accepts<Form> for Trainer {
    type Reply = Formed;
}

/// Measures the model on held-out data. Every rank is asked; each measures its share, and the results are summed.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Evaluate;

/// Sums that become means over all ranks.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct Evaluation {
    /// Sum of the loss of all held-out tokens.
    pub heldout_loss: f64,
    /// Held-out tokens.
    pub heldout_tokens: u64,
    /// Multiple-choice items answered rightly.
    pub choices_right: u64,
    /// Multiple-choice items.
    pub choices: u64,
}

impl Accepts<Evaluate> for Trainer {
    type Reply = Evaluation;
}

/// Trains until the last step or the end of data; the answer comes then, after the last checkpoint.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Train {
    /// Where batches come from.
    pub packer: ActorRef<Packer>,
}

/// How a rank has stopped.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub enum Trained {
    /// At the last step, or at the end of the data: so many steps are done, those before a resumption included.
    To(u64),
    /// Another rank is lost: who, where, and how that was noticed. Nothing is wrong with this one.
    PeerLost(String),
}

impl Accepts<Train> for Trainer {
    type Reply = Trained;
}
