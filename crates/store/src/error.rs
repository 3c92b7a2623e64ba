//! What can go wrong, in words that a process and its agent share.

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
    #[error("object {id} is lost: node {node}: {reason}")]
    ObjectLost {
        /// The object.
        id: ObjectId,
        /// The node whose copy the reference named.
        node: String,
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
         by {objects} objects; drop objects sooner or raise the store's capacity_bytes"
    )]
    Full {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes in use when the wait ended.
        in_use: u64,
        /// Bytes the store has in all.
        capacity: u64,
        /// Objects in the store when the wait ended.
        objects: u64,
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

    pub(crate) fn lost(id: ObjectId, node: &str, reason: impl std::fmt::Display) -> StoreError {
        StoreError::ObjectLost { id, node: node.to_owned(), reason: bounded(reason.to_string()) }
    }
}

/// A reason short enough for one packet: foreign error chains can be of any length.
fn bounded(mut text: String) -> String {
    const LONGEST: usize = 512;
    if text.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}
