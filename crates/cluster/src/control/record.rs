//! What the head writes down before its effects are released: enough to go on from after a restart.

use lyceum_actor::{ProcessDeath, SpawnRequest};
use rkyv::{Archive, Deserialize, Serialize};

use super::offer::Offer;
use super::resources::Allotment;
use super::vocabulary::Origin;

/// One change of the head's durable state.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What changed.
    pub key: Key,
    /// What it is now; `None`: it is no more.
    pub value: Option<Value>,
}

/// Names a piece of the head's durable state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub enum Key {
    /// The next number to allot.
    Next,
    /// A job.
    Job(u64),
    /// An actor.
    Actor(u64),
    /// A process.
    Process(u64),
    /// A node, by name.
    Node(String),
    /// A gang.
    Gang(u64),
    /// What an actor has saved for its next life.
    Saved(u64),
    /// What a node has, as its agent says, where the manifest does not.
    Offer(String),
}

/// A piece of the head's durable state.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum Value {
    /// Of [`Key::Next`].
    Next(u64),
    /// Of [`Key::Job`].
    Job(JobState),
    /// Of [`Key::Actor`].
    Actor(ActorState),
    /// Of [`Key::Process`].
    Process(ProcessState),
    /// Of [`Key::Node`].
    Node(NodeState),
    /// Of [`Key::Gang`].
    Gang(GangState),
    /// Of [`Key::Saved`].
    Saved(Vec<u8>),
    /// Of [`Key::Offer`].
    Offer(Offer),
}

/// What is remembered of a node.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeState {
    /// The newest incarnation of its agent that has joined.
    pub incarnation: u64,
    /// Why it takes nothing new, if it does not.
    pub closure: Option<Closure>,
}

/// A node takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Closure {
    /// Why, for people.
    pub why: String,
    /// So many milliseconds after the order, or after a start of the head since, its processes are ended; without, they stay.
    pub empty_within_ms: Option<u64>,
}

/// A job: everything that is started in it ends with it.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct JobState {
    /// Its name, for people.
    pub name: String,
    /// The client connection that it ends with.
    pub bound_to: Option<u64>,
    /// Who ended it, once somebody has.
    pub ended_by: Option<String>,
}

/// An actor with a process of its own, or on its way to one.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct ActorState {
    /// What was asked for.
    pub request: SpawnRequest,
    /// Who asked for it first.
    pub spawner: Origin,
    /// How often it may be started again in all its life.
    pub restarts_left: u32,
    /// Its process; `None` while it waits for room.
    pub process: Option<u64>,
    /// Has it started once? Until then a failure is the spawner's, and it is not started again.
    pub started: bool,
    /// Its place in its gang, if it is of one.
    pub seat: Option<Seat>,
}

/// A member's place in its gang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Seat {
    /// Its gang.
    pub gang: u64,
    /// Its number in it, from 0.
    pub rank: u32,
    /// Members that the gang began with.
    pub size: u32,
}

/// Actors that are placed, started again and ended together.
#[derive(Debug, Clone, PartialEq, Default, Archive, Serialize, Deserialize)]
pub struct GangState {
    /// Have all of them started once? Until then a failure is the spawner's, and it is not started again.
    pub started: bool,
    /// Why what runs of it is being ended, if it is.
    pub ending: Option<GangEnding>,
}

/// A gang is being ended, or moved.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct GangEnding {
    /// Who orders it, for the death reports of all but the first to fail.
    pub by: String,
    /// The first of its actors to fail, and how; without one it is moved, which costs no restart.
    pub first: Option<(u64, ProcessDeath)>,
}

/// A process that holds something of a node.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its actor; `None` for one that the head did not expect to find and has told to stop.
    pub actor: Option<u64>,
    /// Its job; 0, which no job has, where that is not known.
    pub job: u64,
    /// Its node.
    pub node: String,
    /// Incarnation of the agent that runs it.
    pub node_incarnation: u64,
    /// What it holds.
    pub allotment: Allotment,
    /// Its endpoint and its number on its machine, once its actor has started.
    pub ready: Option<(std::net::SocketAddr, u32)>,
    /// Who ordered its end, once somebody has.
    pub stopped_by: Option<String>,
    /// Is its actor to be started again elsewhere when it has ended, whatever it has left of restarts?
    pub moves: bool,
}
