//! What a call can come to, the same for local and remote actors.

use std::fmt;

use crate::DeathReport;

/// Why an [`ask`](crate::ActorRef::ask) or [`tell`](crate::ActorRef::tell) of a message `M` did not succeed.
///
/// Only [`CallError::NotSent`] and [`CallError::Refused`] promise that the message was not executed.
pub enum CallError<M> {
    /// The message never left: here it is again, with the reason. Safe to send again.
    NotSent(M, String),
    /// The connection was lost before the answer came: it may or may not have been executed.
    Unknown(String),
    /// The receiver's node has fallen silent: it may or may not have been executed. The node is not given up yet and may
    /// come back, but an answer to this call no longer comes; see [`Ask::through_silence`](crate::Ask::through_silence).
    Unreachable(String),
    /// The actor, or its process, or its node, is gone. It may have executed the message before.
    Dead(Box<DeathReport>),
    /// The deadline passed first. The message may have been, or may yet be, executed.
    Deadline,
    /// The actor was stopping and dropped the message before it ran, or whoever kept the
    /// [`Responder`](crate::Responder) dropped it.
    Cancelled,
    /// The handler returned an error: its chain, outermost first.
    Failed(Vec<String>),
    /// The receiver does not take this message from this sender: why, and what to do. It was not executed.
    Refused(String),
}

impl<M> CallError<M> {
    /// The same error without the message, so that errors of several kinds of messages can be kept together.
    pub fn erase(self) -> CallError<()> {
        match self {
            CallError::NotSent(_, why) => CallError::NotSent((), why),
            CallError::Unknown(why) => CallError::Unknown(why),
            CallError::Unreachable(why) => CallError::Unreachable(why),
            CallError::Dead(report) => CallError::Dead(report),
            CallError::Deadline => CallError::Deadline,
            CallError::Cancelled => CallError::Cancelled,
            CallError::Failed(chain) => CallError::Failed(chain),
            CallError::Refused(why) => CallError::Refused(why),
        }
    }

    /// The report, when the receiver is dead.
    pub fn death(&self) -> Option<&DeathReport> {
        match self {
            CallError::Dead(report) => Some(report),
            _ => None,
        }
    }
}

impl<M> fmt::Display for CallError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotSent(_, why) => write!(f, "message not sent: {why}"),
            CallError::Unknown(why) => write!(f, "no answer, it may or may not have been executed: {why}"),
            CallError::Unreachable(why) => {
                write!(f, "no answer for now, it may or may not have been executed: {why}")
            }
            CallError::Dead(report) => write!(f, "{report}"),
            CallError::Deadline => f.write_str("the deadline passed before an answer came"),
            CallError::Cancelled => f.write_str("the receiver dropped the call without an answer"),
            CallError::Failed(chain) => write!(f, "{}", chain.join(": ")),
            CallError::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

impl<M> fmt::Debug for CallError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            CallError::NotSent(..) => "NotSent",
            CallError::Unknown(_) => "Unknown",
            CallError::Unreachable(_) => "Unreachable",
            CallError::Dead(_) => "Dead",
            CallError::Deadline => "Deadline",
            CallError::Cancelled => "Cancelled",
            CallError::Failed(_) => "Failed",
            CallError::Refused(_) => "Refused",
        };
        write!(f, "{name}({self})")
    }
}

impl<M> std::error::Error for CallError<M> {}
