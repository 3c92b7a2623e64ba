//! What an agent and a process say to each other: one message per packet of their socket pair.

use lyceum_wire::AlignedBytes;

use crate::error::StoreError;
use crate::object::{ObjectId, ObjectRef, Receiver};
use crate::pool::Place;

/// Changes with every change of the messages below.
pub(crate) const VERSION: u32 = 4;

/// Bytes of the longest packet. All messages are small: names, numbers and one bounded reason.
pub(crate) const MAX_PACKET: usize = 4096;

/// Asks of one process that may wait for an answer at a time (L2). Their answers fit the socket's buffer, so that the
/// agent never has to wait for a process.
pub(crate) const MAX_OUTSTANDING: usize = 64;

/// From a process to the agent.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Request {
    /// Answered exactly once, under the same number.
    Ask { number: u64, ask: Ask },
    /// Not answered.
    Tell(Tell),
}

#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Ask {
    Create {
        len: u64,
        wait_ms: u64,
    },
    Seal {
        id: ObjectId,
    },
    Share {
        id: ObjectId,
        receiver: Option<Receiver>,
    },
    /// Seal and share in one, for a creator that keeps nothing.
    Send {
        id: ObjectId,
        receiver: Receiver,
    },
    Open {
        reference: ObjectRef,
        wait_ms: u64,
    },
    /// A region for messages of so many bytes.
    Keep {
        len: u64,
    },
    /// A descriptor of the segment.
    Segment {
        segment: u32,
    },
}

#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Tell {
    /// The unsealed object will not be finished.
    Abandon { id: ObjectId },
    /// One lease less.
    Release { id: ObjectId },
    /// The reference will not be delivered.
    Revoke { id: ObjectId, ticket: u64 },
    /// The reference was delivered and will not be opened.
    Discard { reference: ObjectRef },
    /// A region that the agent wants is free.
    Freed { slot: u32 },
    /// Nobody waits for this ask any more. It is still answered.
    Cancel { number: u64 },
}

/// From the agent to a process.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Answer {
    /// The first packet of an attachment, with a descriptor of the board of regions.
    Welcome {
        version: u32,
        node: String,
        holder: u64,
        /// The incarnation of the store.
        origin: u64,
    },
    Reply {
        number: u64,
        reply: Reply,
    },
    /// The last packet of an attachment that the agent ends.
    Goodbye {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Reply {
    /// Comes with a writable descriptor of the segment when the process has none yet.
    Created {
        id: ObjectId,
        place: Place,
    },
    Sealed,
    /// To a send too.
    Shared {
        ticket: u64,
    },
    /// Comes with a read-only descriptor of the segment when the process has none yet.
    Opened {
        place: Place,
    },
    /// Comes with a writable descriptor of the segment when the process has none yet.
    Kept {
        slot: u32,
        place: Place,
    },
    /// Comes with a read-only descriptor of the segment when the process has none yet.
    Segment {
        segment: u32,
        segment_bytes: u64,
    },
    Failed(StoreError),
}

/// A packet, aligned for access in place.
pub(crate) fn encode<T>(message: &T) -> Result<Vec<u8>, StoreError>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(message)
        .map_err(|e| StoreError::system("archive a message to the store", e))?;
    if bytes.len() > MAX_PACKET {
        return Err(StoreError::Invalid(format!(
            "a message to the store takes {} bytes and may take {MAX_PACKET}: use a shorter node name",
            bytes.len()
        )));
    }
    Ok(bytes.to_vec())
}

/// Reads a request that may be anything at all.
pub(crate) fn decode_request(packet: &[u8]) -> Result<Request, String> {
    rkyv::from_bytes::<Request, rkyv::rancor::Error>(&AlignedBytes::copy_from(packet))
        .map_err(|e| e.to_string())
}

/// Reads an answer of the agent.
pub(crate) fn decode_answer(packet: &[u8]) -> Result<Answer, String> {
    rkyv::from_bytes::<Answer, rkyv::rancor::Error>(&AlignedBytes::copy_from(packet))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Loss;

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let id = ObjectId { origin: 7, sequence: 3 };
        let reference = ObjectRef { id, node: "n1".into(), len: 5, ticket: 9 };
        let request = Request::Ask { number: 1, ask: Ask::Open { reference, wait_ms: 10 } };
        assert_eq!(decode_request(&encode(&request).unwrap()).unwrap(), request);
        let answer =
            Answer::Reply { number: 1, reply: Reply::Failed(StoreError::lost(id, "n1", Loss::now("gone"))) };
        assert_eq!(decode_answer(&encode(&answer).unwrap()).unwrap(), answer);
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_decoded_or_refused(mut packet in prop::collection::vec(any::<u8>(), 0..256), at in any::<usize>(), bit in 0..8u32) {
            let _ = decode_request(&packet);
            let good = encode(&Request::Tell(Tell::Revoke { id: ObjectId { origin: 1, sequence: 2 }, ticket: 3 })).unwrap();
            packet = good;
            let at = at % packet.len();
            packet[at] ^= 1 << bit;
            let _ = decode_request(&packet);
        }
    }
}
