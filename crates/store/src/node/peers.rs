//! How stores of different nodes speak: the bulk streams' headers and answers, and the trait that finds a peer.
//!
//! A stream's header is 4 bytes of tag, 1 of version, 1 that says what is wished for, then six little-endian u64: object
//! origin and sequence, and four that depend on the wish.
//!
//! To *fetch*, they are ticket, length, and how many of the object's first bytes are wanted on this stream. The server
//! answers with one byte. [`WAIT`]: another byte follows, when it is this peer's turn, or to say that it is not yet.
//! [`HERE`]: then a u64 that names the upload, and the bytes. [`ELSEWHERE`]: then the name of a node that has the object
//! too, up to the stream's end; whoever comes back from there *insists*. [`NOT_HERE`]: then a u64, when the object was lost
//! (milliseconds since 1970), and how, at most 1 KiB, up to the stream's end.
//!
//! The other bytes of a large object come as *parts*, on streams of other connections: upload, offset and length; the
//! server answers with [`HERE`] and the bytes, or [`NOT_HERE`] as above.
//!
//! When the fetcher's agent has its own lease it sends [`ACKNOWLEDGED`] on the first stream, and the lease in transit ends;
//! the server finishes the stream when it has heard that, not before. To *acknowledge* a ticket (the third u64) without
//! fetching, the header is all; the server answers [`ACKNOWLEDGED`].

use std::error::Error;
use std::future::Future;
use std::pin::Pin;

use lyceum_wire::Connection;

use crate::object::ObjectId;

pub(super) const HERE: u8 = 1;
pub(super) const NOT_HERE: u8 = 2;
pub(super) const ACKNOWLEDGED: u8 = 3;
pub(super) const WAIT: u8 = 4;
pub(super) const ELSEWHERE: u8 = 5;

/// The longest reason of a refusal, in bytes.
pub(super) const LONGEST_REASON: usize = 1024;

const TAG: [u8; 4] = *b"LYst";
const VERSION: u8 = 2;
const FIELDS: usize = 6;
const HEADER: usize = 6 + FIELDS * 8;

/// Why a peer cannot be reached.
pub type PeerError = Box<dyn Error + Send + Sync>;

/// A connection to come.
pub type PeerFuture<'a> = Pin<Box<dyn Future<Output = Result<Connection, PeerError>> + Send + 'a>>;

/// How a node's store reaches the agents of other nodes. The agent implements it.
pub trait StorePeers: Send + Sync + 'static {
    /// A connection to the agent of `node` that may carry bulk, a kept one where there is one that lives. `line` counts
    /// the connections to one node, from 0: a large object comes over several. The store gives up after its `stall`
    /// time; it asks again, once, when a connection breaks while it fetches.
    fn connect(&self, node: &str, line: usize) -> PeerFuture<'_>;
}

/// What a store wants from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Fetch { id: ObjectId, ticket: u64, len: u64, first: u64, insists: bool },
    Acknowledge { id: ObjectId, ticket: u64 },
    Part { id: ObjectId, upload: u64, offset: u64, len: u64 },
}

impl Wish {
    pub fn is_ours(header: &[u8]) -> bool {
        header.starts_with(&TAG)
    }

    pub fn encode(self) -> [u8; HEADER] {
        let (kind, id, rest) = match self {
            Wish::Fetch { id, ticket, len, first, insists: false } => (1, id, [ticket, len, first, 0]),
            Wish::Acknowledge { id, ticket } => (2, id, [ticket, 0, 0, 0]),
            Wish::Part { id, upload, offset, len } => (3, id, [upload, offset, len, 0]),
            Wish::Fetch { id, ticket, len, first, insists: true } => (4, id, [ticket, len, first, 0]),
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&TAG);
        header[4..6].copy_from_slice(&[VERSION, kind]);
        let fields = [id.origin, id.sequence].into_iter().chain(rest);
        for (field, value) in header[6..].chunks_exact_mut(8).zip(fields) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        header
    }

    pub fn decode(header: &[u8]) -> Result<Wish, String> {
        let Ok(header) = <&[u8; HEADER]>::try_from(header) else {
            return Err(format!("a header of {} bytes, {HEADER} expected", header.len()));
        };
        let mut fields = [0; FIELDS];
        for (value, field) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *value = field.try_into().map(u64::from_le_bytes).unwrap_or_default();
        }
        let [origin, sequence, a, b, c, _] = fields;
        let id = ObjectId { origin, sequence };
        match (Wish::is_ours(header), header[4], header[5]) {
            (true, VERSION, kind @ (1 | 4)) => {
                Ok(Wish::Fetch { id, ticket: a, len: b, first: c, insists: kind == 4 })
            }
            (true, VERSION, 2) => Ok(Wish::Acknowledge { id, ticket: a }),
            (true, VERSION, 3) => Ok(Wish::Part { id, upload: a, offset: b, len: c }),
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
        let fetch = |insists| Wish::Fetch { id, ticket: 3, len: 4, first: 2, insists };
        let part = Wish::Part { id, upload: 7, offset: 8, len: 9 };
        for wish in [fetch(false), fetch(true), Wish::Acknowledge { id, ticket: 5 }, part] {
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
