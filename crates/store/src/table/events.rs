//! What the table is told, and what it wants done.

use super::Looked;
use crate::error::Loss;
use crate::moment::Moment;
use crate::node::TransitRules;
use crate::object::{ObjectId, Receiver};
use crate::pool::Place;
use crate::protocol::{Ask, Reply, Tell};

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A process is attached.
    Attached { holder: u64 },
    /// A process asks. `fresh` is an unguessable number, used if the ask needs a ticket.
    Asked { holder: u64, number: u64, ask: Ask, fresh: u64 },
    /// A process says something that needs no answer.
    Told { holder: u64, tell: Tell },
    /// A process, of this node or another, has ended.
    HolderGone { holder: u64 },
    /// A process of another node has ended: nothing need stay in transit for it.
    ReceiverGone { receiver: Receiver },
    /// The bytes of a fetch are all in place; its writer is done with them.
    FetchLanded { fetch: u64, id: ObjectId },
    /// A fetch has ended without them; its writer no longer touches the place.
    FetchFailed { fetch: u64, id: ObjectId, loss: Loss },
    /// The agent of node `peer` wants the object's bytes, and `insists` on having them from here.
    Serve { serve: u64, id: ObjectId, peer: String, insists: bool },
    /// The peer's agent holds its own lease (`acknowledged`), or broke off.
    ServeEnded { serve: u64, ticket: u64, acknowledged: bool },
    /// The agent of node `peer` holds a lease of its own without having fetched from here.
    Acknowledged { id: ObjectId, ticket: u64, peer: String },
    /// The object's bytes are in the spill's file.
    Spilled { spill: u64, id: ObjectId },
    /// They are not, and nothing is left of the file.
    SpillFailed { spill: u64, id: ObjectId, reason: String },
    /// The bytes of the spill's file are all in place.
    Restored { spill: u64, id: ObjectId },
    /// They cannot be read; nothing touches the place any more.
    RestoreFailed { spill: u64, id: ObjectId, reason: String },
    /// The agent has a region that it wanted.
    RegionFree { slot: u32 },
    /// Nobody has used the region for a while.
    RegionIdle { slot: u32 },
    /// Time has passed.
    Tick,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Reply {
        holder: u64,
        number: u64,
        reply: Reply,
    },
    /// The process broke the protocol: listen to it no more.
    Condemn {
        holder: u64,
        reason: String,
    },
    StartFetch {
        fetch: u64,
        id: ObjectId,
        place: Place,
        node: String,
        ticket: u64,
    },
    /// Ends in `FetchFailed` (or `FetchLanded`) once nothing writes to the place any more.
    StopFetch {
        fetch: u64,
    },
    /// Tell the node's agent that the ticket is claimed.
    Acknowledge {
        node: String,
        id: ObjectId,
        ticket: u64,
    },
    /// The answer to `Serve`, now or later.
    Served {
        serve: u64,
        served: Served,
    },
    /// Write the bytes at `place` to a new file. Ends in `Spilled` or `SpillFailed`.
    Spill {
        spill: u64,
        id: ObjectId,
        place: Place,
    },
    /// Read the file to `place`. Ends in `Restored` or `RestoreFailed`.
    Restore {
        spill: u64,
        id: ObjectId,
        place: Place,
    },
    /// Nobody needs the file any more, except those who have it open.
    DropSpill {
        spill: u64,
    },
    /// The region is its keeper's: before that hears of it.
    GiveRegion {
        slot: u32,
        place: Place,
    },
    /// The region is wanted back. Ends in `RegionFree`, at once or when it is free.
    WantRegion {
        slot: u32,
        keeper_has_ended: bool,
    },
    /// What was sent to `receiver` in any of these is free.
    RegionReceiverGone {
        receiver: u64,
        slots: Vec<u32>,
    },
    /// Look which are not used, and in which there is something that nobody opens.
    LookAtRegions(Vec<Looked>),
}

/// What a peer that wants an object is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Served {
    /// Here it is, until `ServeEnded`.
    Memory(Place),
    /// Here it is, in a file, until `ServeEnded`.
    Disk { spill: u64, len: u64 },
    /// That node has it too.
    Elsewhere(String),
    /// It is not to be had here.
    Refused(Loss),
}

/// What a table is made for.
#[derive(Debug, Clone)]
pub(crate) struct TableOptions {
    pub node: String,
    pub incarnation: u64,
    /// When the time that [`Table::apply`](super::Table::apply) is given began.
    pub began: Moment,
    pub rules: TransitRules,
    /// Bytes of objects that may be on disk.
    pub spill_bytes: u64,
}
