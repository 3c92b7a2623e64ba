//! How stores of different nodes speak: the bulk streams' headers and answers, and the trait that finds a peer.
//!
//! A stream's header is 4 bytes of tag, 1 of version, 1 that says what is wished for, then object origin, sequence,
//! ticket and length as little-endian u64. To *fetch*, the server answers with one byte: [`HERE`], then the object's
//! bytes, exactly `length` of them; or [`NOT_HERE`], then a reason, at most 1 KiB, up to the stream's end. When the
//! fetcher's agent has its own lease it sends [`ACKNOWLEDGED`], and the lease in transit ends; the server finishes the
//! stream when it has heard that, not before. To *acknowledge* without fetching, the header is all; the server answers
//! [`ACKNOWLEDGED`].

use std::error::Error;
use std::future::Future;
use std::pin::Pin;

use lyceum_wire::Connection;

use crate::object::ObjectId;

pub(super) const HERE: u8 = 1;
pub(super) const NOT_HERE: u8 = 2;
pub(super) const ACKNOWLEDGED: u8 = 3;

/// The longest reason of a refusal, in bytes.
pub(super) const LONGEST_REASON: usize = 1024;

const TAG: [u8; 4] = *b"LYst";
const VERSION: u8 = 1;
const HEADER: usize = 6 + 4 * 8;

/// Why a peer cannot be reached.
pub type PeerError = Box<dyn Error + Send + Sync>;

/// A connection to come.
pub type PeerFuture<'a> = Pin<Box<dyn Future<Output = Result<Connection, PeerError>> + Send + 'a>>;

/// How a node's store reaches the agents of other nodes. The agent implements it.
pub trait StorePeers: Send + Sync + 'static {
    /// A connection to the agent of `node` that may carry bulk, a kept one where there is one that lives. The store
    /// gives up after its `stall` time; it asks again, once, when a connection breaks while it fetches.
    fn connect(&self, node: &str) -> PeerFuture<'_>;
}

/// What a store wants from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Fetch { id: ObjectId, ticket: u64, len: u64 },
    Acknowledge { id: ObjectId, ticket: u64 },
}

impl Wish {
    pub fn is_ours(header: &[u8]) -> bool {
        header.starts_with(&TAG)
    }

    pub fn encode(self) -> [u8; HEADER] {
        let (kind, id, ticket, len) = match self {
            Wish::Fetch { id, ticket, len } => (1, id, ticket, len),
            Wish::Acknowledge { id, ticket } => (2, id, ticket, 0),
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&TAG);
        header[4..6].copy_from_slice(&[VERSION, kind]);
        for (field, value) in header[6..].chunks_exact_mut(8).zip([id.origin, id.sequence, ticket, len]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        header
    }

    pub fn decode(header: &[u8]) -> Result<Wish, String> {
        let Ok(header) = <&[u8; HEADER]>::try_from(header) else {
            return Err(format!("a header of {} bytes, {HEADER} expected", header.len()));
        };
        let mut fields = [0; 4];
        for (value, field) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *value = field.try_into().map(u64::from_le_bytes).unwrap_or_default();
        }
        let [origin, sequence, ticket, len] = fields;
        let id = ObjectId { origin, sequence };
        match (Wish::is_ours(header), header[4], header[5]) {
            (true, VERSION, 1) => Ok(Wish::Fetch { id, ticket, len }),
            (true, VERSION, 2) => Ok(Wish::Acknowledge { id, ticket }),
            (ours, version, kind) => {
                Err(format!("a header with tag {ours}, version {version} (ours is {VERSION}), wish {kind}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_written_and_anything_else_is_refused() {
        let id = ObjectId { origin: u64::MAX, sequence: 2 };
        for wish in [Wish::Fetch { id, ticket: 3, len: 4 }, Wish::Acknowledge { id, ticket: 5 }] {
            let header = wish.encode();
            assert_eq!(Wish::decode(&header), Ok(wish));
            assert!(Wish::decode(&header[..HEADER - 1]).is_err());
            for at in 0..6 {
                let mut broken = header;
                broken[at] ^= 0x40;
                assert!(Wish::decode(&broken).is_err());
            }
        }
    }
}
