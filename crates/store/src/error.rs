//! What can go wrong, in words that a process and its agent share.

use crate::moment::Moment;
use crate::object::ObjectId;

/// The result of every operation of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a store operation did not do what was asked.
///
/// The same value travels from the agent to the process that asked, so it holds no foreign error types.
#[derive(
    Debug, Clone, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum StoreError {
    /// The copy that a reference named is gone or out of reach. No retry brings it back.
    #[error("object {id} is lost: node {node}, {when}: {reason}")]
    ObjectLost {
        /// The object.
        id: ObjectId,
        /// The node whose copy the reference named.
        node: String,
        /// When it was lost there; where that is not known, when this was found out.
        when: Moment,
        /// What happened to it, as far as is known.
        reason: String,
    },

    /// The object can never fit, however long one waits.
    #[error(
        "an object of {wanted} bytes cannot fit: a segment of this node's store holds {largest} bytes; \
         raise the store's segment_bytes and capacity_bytes or split the object"
    )]
    TooLarge {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes of the largest object this store can hold.
        largest: u64,
    },

    /// There was no room in time.
    #[error(
        "no room for {wanted} bytes within {waited_ms} ms: {in_use} of {capacity} bytes are in use \
         by {objects} objects, and {held} of those by what is open or on its way; {disk}; drop objects sooner or raise \
         the store's capacity_bytes"
    )]
    Full {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes in use when the wait ended.
        in_use: u64,
        /// Bytes the store has in all.
        capacity: u64,
        /// Objects in the store when the wait ended, those on disk too.
        objects: u64,
        /// Bytes of objects that must stay in memory: open in a process, being written, fetched or sent.
        held: u64,
        /// Why no more went to disk.
        disk: String,
        /// Milliseconds waited.
        waited_ms: u64,
    },

    /// The process asked for something that only the object's holder (or, before the seal, its creator) may do.
    #[error("object {id} is not held by the process that asked to {action} it")]
    NotHeld {
        /// The object.
        id: ObjectId,
        /// What the process asked for.
        action: String,
    },

    /// A bound of the store is reached (invariant L2).
    #[error(
        "process {holder} has {limit} {what} in this store, which is the most it may have; drop some first"
    )]
    Limit {
        /// The process.
        holder: u64,
        /// What there are too many of.
        what: String,
        /// The bound.
        limit: u64,
    },

    /// The caller went away while its request waited.
    #[error("the request was cancelled")]
    Cancelled,

    /// The agent closed the attachment, or died. Objects already open stay readable.
    #[error("the node's store is gone: {reason}")]
    AgentLost {
        /// How it ended.
        reason: String,
    },

    /// A setting or an argument that cannot be right.
    #[error("{0}")]
    Invalid(String),

    /// The operating system refused.
    #[error("cannot {doing}: {reason}")]
    System {
        /// What was tried.
        doing: String,
        /// The system's answer.
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn system(doing: impl Into<String>, reason: impl std::fmt::Display) -> StoreError {
        StoreError::System { doing: doing.into(), reason: reason.to_string() }
    }

    pub(crate) fn lost(id: ObjectId, node: &str, loss: Loss) -> StoreError {
        StoreError::ObjectLost { id, node: node.to_owned(), when: loss.when, reason: bounded(loss.reason) }
    }
}

/// When a copy was lost, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub when: Moment,
    pub reason: String,
}

impl Loss {
    /// One that is found out now.
    pub fn now(reason: impl Into<String>) -> Loss {
        Loss { when: Moment::now(), reason: reason.into() }
    }
}

/// A reason short enough for one packet: foreign error chains can be of any length.
pub(crate) fn bounded(text: String) -> String {
    const LONGEST: usize = 512;
    if text.len() <= LONGEST {
        return text;
    }
    format!("{}...", cut(&text, LONGEST))
}

/// The first characters of a text, in at most `longest` bytes.
pub(crate) fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}
