//! What readers of logs and agents say to each other, on a connection's lane.
//!
//! A client asks for one thing at a time, and is owed no more bytes than it has said it can take ([`ClientToAgent::More`]);
//! a frame counts with its whole length.

use lyceum_wire::{Frame, WireError};
use rkyv::{Archive, Deserialize, Serialize};

use super::{LogEntry, LogLabel};
use crate::kinds::{Kinds, kinds};
use crate::message::Message;

/// Most bytes that a client is owed, in frames. It bounds what waits for a slow reader, wherever it waits.
pub(crate) const WINDOW: u64 = 256 << 10;
/// Bytes of a log that are sent in one word.
pub(crate) const PIECE: u64 = 32 << 10;
/// Most actors or processes that one question names.
pub(crate) const MAX_NAMED: usize = 4096;
/// Most logs that one answer lists: the newest.
pub(crate) const MAX_LISTED: usize = 4096;

/// Which of a node's logs are meant.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum LogSelector {
    /// Whatever is called so: by a number or name of its actor, process or job.
    Called(String),
    /// Those of all incarnations of these actors.
    Actors(Vec<u64>),
    /// Those of these processes; 0: the agent's own.
    Processes(Vec<u64>),
    /// Those of a job.
    Job(u64),
    /// All of the node.
    Node,
}

impl LogSelector {
    pub(crate) fn means(&self, label: &LogLabel) -> bool {
        match self {
            LogSelector::Called(text) => label.is_called(text),
            LogSelector::Actors(actors) => label.actor != 0 && actors.contains(&label.actor),
            LogSelector::Processes(processes) => processes.contains(&label.process),
            LogSelector::Job(job) => label.process != 0 && label.job == *job,
            LogSelector::Node => true,
        }
    }

    /// May there be more of them later?
    pub(crate) fn may_grow(&self) -> bool {
        !matches!(self, LogSelector::Processes(_))
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            LogSelector::Actors(numbers) | LogSelector::Processes(numbers) if numbers.len() > MAX_NAMED => {
                Err(format!("{} logs are asked for together, expected at most {MAX_NAMED}", numbers.len()))
            }
            _ => Ok(()),
        }
    }
}

/// A reader of logs to an agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ClientToAgent {
    /// Which are there? Answered by a [`AgentToClient::Log`] each and [`AgentToClient::Done`].
    List { of: LogSelector },
    /// What is in them? Answered by words of each, and [`AgentToClient::Done`] when no more will come.
    Read(ReadLogs),
    /// So many bytes more can be taken.
    More { bytes: u64 },
    /// No need to wait for more: what is there, and then the end.
    Finish,
}

/// What is to be read of logs.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct ReadLogs {
    /// Which.
    pub(crate) of: LogSelector,
    /// Places in some of them, by process, from which to go on.
    pub(crate) from: Vec<(u64, u64)>,
    /// Only so many lines, the last, of each.
    pub(crate) tail: Option<u64>,
    /// Only what was written in the last so many milliseconds.
    pub(crate) within_ms: Option<u64>,
    /// Does whatever is written from now on follow?
    pub(crate) follow: bool,
}

/// An agent to a reader of logs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AgentToClient {
    /// A log that was asked for; said before anything in it, with the place from which it is read, and again when its process
    /// has ended and all of it was said.
    Log { entry: LogEntry, place: u64 },
    /// A part of a log.
    Piece { process: u64, place: u64, bytes: Vec<u8> },
    /// So much of a log was cut before it was read.
    Lost { process: u64, bytes: u64 },
    /// That was all.
    Done,
    /// Not done, and why; nothing more comes.
    Refused { why: String },
}

kinds! { ClientToAgent:
    0x0701 = List { of },
    0x0702 = Read(read),
    0x0703 = More { bytes },
    0x0704 = Finish,
}

kinds! { AgentToClient:
    0x0801 = Log { entry, place },
    0x0802 = Piece { process, place, bytes },
    0x0803 = Lost { process, bytes },
    0x0804 = Done,
    0x0805 = Refused { why },
}

impl Message for ClientToAgent {
    fn into_frame(self) -> Result<Frame, WireError> {
        Ok(self.seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        Self::open(frame.header.kind, &frame.payload)
    }
}

impl Message for AgentToClient {
    fn into_frame(self) -> Result<Frame, WireError> {
        Ok(self.seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        Self::open(frame.header.kind, &frame.payload)
    }
}
