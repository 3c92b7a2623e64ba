//! Who and where: identifiers that are unique in a cluster and can travel in messages.

use std::{fmt, net::SocketAddr};

use lyceum_wire::PeerRole;
use rkyv::{Archive, Deserialize, Serialize};

/// An actor's number, unique in its cluster and never used twice.
///
/// The head allots numbers with the top bit clear. A process allots its local actors' numbers itself: top bit
/// set, then 31 bits of the process's number, then 32 bits of a counter.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[rkyv(derive(Clone, Copy, PartialEq, Eq, Debug))]
pub struct ActorId(pub u64);

impl ActorId {
    /// The number of the `count`th actor that process `process` started by itself.
    pub(crate) fn local(process: u64, count: u32) -> Self {
        ActorId(1 << 63 | (process & 0x7fff_ffff) << 32 | u64::from(count))
    }

    /// Was it allotted by a process, and not by the head?
    pub(crate) fn is_local(self) -> bool {
        self.0 >> 63 == 1
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_local() {
            write!(f, "{}.{}", self.0 >> 32 & 0x7fff_ffff, self.0 & 0xffff_ffff)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// What kind of process hosts an actor; its certificate says the same.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[rkyv(derive(Debug))]
pub enum ProcessKind {
    /// The head of the cluster.
    Head,
    /// A node's agent.
    Agent,
    /// A process that the cluster started for an actor.
    Worker,
    /// A person's program.
    Client,
}

impl From<PeerRole> for ProcessKind {
    fn from(role: PeerRole) -> Self {
        match role {
            PeerRole::Head => ProcessKind::Head,
            PeerRole::Agent => ProcessKind::Agent,
            PeerRole::Worker => ProcessKind::Worker,
            PeerRole::Client => ProcessKind::Client,
        }
    }
}

impl From<ProcessKind> for PeerRole {
    fn from(kind: ProcessKind) -> Self {
        match kind {
            ProcessKind::Head => PeerRole::Head,
            ProcessKind::Agent => PeerRole::Agent,
            ProcessKind::Worker => PeerRole::Worker,
            ProcessKind::Client => PeerRole::Client,
        }
    }
}

/// Where a process is and which one it is.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[rkyv(derive(Debug))]
pub struct ProcessAddress {
    /// What kind of process it is.
    pub kind: ProcessKind,
    /// The node it runs on.
    pub node: String,
    /// The process's number, unique in the cluster: the incarnation in its certificate.
    pub process: u64,
    /// Where its endpoint listens.
    pub addr: SocketAddr,
}

impl fmt::Display for ProcessAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on node {} at {}", self.process, self.node, self.addr)
    }
}

/// Everything that is needed to call an actor, without its role's type.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[rkyv(derive(Debug))]
pub struct ActorAddress {
    /// The actor's number.
    pub actor: ActorId,
    /// Which life of this actor is meant: a restart has a higher one, and receivers reject all others.
    pub incarnation: u64,
    /// The name of its role, [`Role::NAME`](crate::Role::NAME).
    pub role: String,
    /// The process it lives in.
    pub process: ProcessAddress,
    /// The job it belongs to.
    pub job: u64,
}

impl fmt::Display for ActorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (incarnation {}, {})", self.role, self.actor, self.incarnation, self.process)
    }
}
