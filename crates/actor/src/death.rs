//! What is known when an actor or a process is gone.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::ActorId;

/// How an actor or its process ended.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
#[non_exhaustive]
pub enum Cause {
    /// The process exited with this code.
    Exited(i32),
    /// The process was ended by this signal.
    Signal(i32),
    /// The process was ended by the kernel for want of memory; the evidence in words.
    OutOfMemory(String),
    /// Somebody ended it on purpose; who.
    OrderedBy(String),
    /// A handler panicked with this text; only the actor is gone.
    Panicked(String),
    /// The actor could not start, or gave up; the chain of errors, outermost first.
    Failed(Vec<String>),
    /// The actor came to its end and had nothing more to do.
    Finished,
    /// The whole node is gone; the evidence in words.
    NodeLost(String),
    /// Nobody knows; the evidence in words.
    Unknown(String),
}

impl Cause {
    /// Whether nobody wanted it: neither an order nor an end in good order.
    pub fn is_a_fault(&self) -> bool {
        !matches!(self, Cause::Finished | Cause::Exited(0) | Cause::OrderedBy(_))
    }

    /// Whether the process came to its end by itself, in good order, its connections too.
    pub(crate) fn is_by_itself(&self) -> bool {
        match self {
            Cause::Finished | Cause::Failed(_) | Cause::Panicked(_) | Cause::OrderedBy(_) => true,
            Cause::Exited(_)
            | Cause::Signal(_)
            | Cause::OutOfMemory(_)
            | Cause::NodeLost(_)
            | Cause::Unknown(_) => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Exited(code) => write!(f, "exited with code {code}"),
            Cause::Signal(signal) => write!(f, "ended by signal {signal}{}", signal_name(*signal)),
            Cause::OutOfMemory(evidence) => write!(f, "out of memory: {evidence}"),
            Cause::OrderedBy(who) => write!(f, "ended as ordered by {who}"),
            Cause::Panicked(text) => write!(f, "panicked: {text}"),
            Cause::Failed(chain) => write!(f, "failed: {}", chain.join(": ")),
            Cause::Finished => f.write_str("finished"),
            Cause::NodeLost(evidence) => write!(f, "lost with its node: {evidence}"),
            Cause::Unknown(evidence) => write!(f, "cause unknown: {evidence}"),
        }
    }
}

/// Who died, how, where, with its last log lines (L3).
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct DeathReport {
    /// The role of the actor that was waited for; empty when only the process is known.
    pub role: String,
    /// The actor that was waited for, where one was.
    pub actor: Option<ActorId>,
    /// The number of its process.
    pub process: u64,
    /// The node it ran on.
    pub node: String,
    /// How it ended.
    pub cause: Cause,
    /// The last lines of its process's log, oldest first.
    pub log_tail: Vec<String>,
}

impl fmt::Display for DeathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.actor {
            Some(actor) => write!(f, "{} {actor} in process {}", self.role, self.process)?,
            None => write!(f, "process {}", self.process)?,
        }
        write!(f, " on node {} {}", self.node, self.cause)?;
        for line in &self.log_tail {
            write!(f, "\n  | {line}")?;
        }
        Ok(())
    }
}

/// The verdict on a process, told to [`System::process_died`](crate::System::process_died).
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ProcessDeath {
    /// The process's number.
    pub process: u64,
    /// The node it ran on.
    pub node: String,
    /// How it ended.
    pub cause: Cause,
    /// The last lines of its log, oldest first.
    pub log_tail: Vec<String>,
}

impl ProcessDeath {
    /// The report for one who waited for `actor` in that process.
    pub fn report(&self, role: &str, actor: Option<ActorId>) -> DeathReport {
        DeathReport {
            role: role.to_owned(),
            actor,
            process: self.process,
            node: self.node.clone(),
            cause: self.cause.clone(),
            log_tail: self.log_tail.clone(),
        }
    }
}

/// The usual signals by name, so that a reader need not look them up.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}
