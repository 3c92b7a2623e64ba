//! Names of objects: what a message carries instead of the bytes.

use std::fmt;

/// An object's name, unique in the cluster for all time.
///
/// Copies on several nodes share it: a sealed object never changes, so all copies are equal.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct ObjectId {
    /// The incarnation of the node store in which the object was created.
    pub origin: u64,
    /// Counts the objects created there, from 1.
    pub sequence: u64,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.origin, self.sequence)
    }
}

/// The process that a reference is made for, wherever it runs. A number alone would not do: whoever has a wrong address
/// names a process of another node by it, and what is said of that one must not touch this one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Receiver {
    /// The node it runs on.
    pub node: String,
    /// Its number, which its node's store knows it by as a holder.
    pub process: u64,
}

/// A reference to a sealed object, to be sent in a message. Plain data: it archives with rkyv.
///
/// It comes from [`Object::share`](crate::Object::share) and is worth one [`open`](crate::StoreClient::open): its
/// ticket is a lease in transit, which keeps the copy on `node` alive until the receiver's agent has acknowledged a
/// lease of its own. A reference that will not be delivered is taken back by its sender with
/// [`revoke`](crate::StoreClient::revoke), one that came and will not be opened is given up by its receiver with
/// [`discard`](crate::StoreClient::discard); one that is forgotten expires by the rules of
/// [`TransitRules`](crate::TransitRules).
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct ObjectRef {
    /// The object.
    pub id: ObjectId,
    /// The node whose store holds the copy and the ticket.
    pub node: String,
    /// Length of the object in bytes.
    pub len: u64,
    /// The lease in transit: a number that only the sender and the receiver know.
    pub ticket: u64,
}
