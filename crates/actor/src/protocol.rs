//! Actors' frames: what their headers mean and how ends of calls are written down.

use std::any::TypeId;

use lyceum_wire::{AlignedBytes, Frame, FrameHeader, access_checked};
use rkyv::{Archive, Archived, Deserialize, Serialize, rancor};

use crate::{DeathReport, kept::CallKey, message::encode, slot::Outcome};

/// What a frame is. On the lane: [`FrameHeader::kind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum Kind {
    /// A message, or its first piece.
    Call = 1,
    /// A further piece of the message that is on its way.
    CallPiece = 2,
    /// The caller no longer waits. With a key: nor does the call come again, of which it has the answer or wants none.
    Cancel = 3,
    /// The end of a call, or its first piece.
    Reply = 4,
    /// A further piece of the reply that is on its way.
    ReplyPiece = 5,
    /// "I give back this much and want to send a message of that size."
    Request = 6,
    /// "You may send this much more."
    Grant = 7,
    /// "Nothing can be sent to this actor", and why.
    Refuse = 8,
    /// "Give back what you have not spent."
    Reclaim = 9,
    /// The answer to it.
    Return = 10,
    /// "Tell me when this actor is dead."
    Watch = 11,
    /// "This actor is dead", and how it died.
    Death = 12,
    /// Nothing: something that the peer's end of the connection must acknowledge.
    Probe = 13,
}

impl Kind {
    pub(crate) fn of(number: u16) -> Option<Kind> {
        const ALL: [Kind; 13] = [
            Kind::Call,
            Kind::CallPiece,
            Kind::Cancel,
            Kind::Reply,
            Kind::ReplyPiece,
            Kind::Request,
            Kind::Grant,
            Kind::Refuse,
            Kind::Reclaim,
            Kind::Return,
            Kind::Watch,
            Kind::Death,
            Kind::Probe,
        ];
        ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Actors' own header, in a frame's extension: 48 bytes, little-endian; what a kind does not use is 0. What concerns a
/// call with a key has 16 more, for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extension {
    /// The actor that is called or talked about.
    pub(crate) actor: u64,
    /// The caller's number for the call; 0 for a `tell`.
    pub(crate) call: u64,
    /// `Call`: the message type's number. `Request`, `Watch`: the role's fingerprint, as the sender knows it.
    pub(crate) message: u64,
    /// Credits: messages.
    pub(crate) count: u32,
    /// `Call`: [`STORED`]. `Reply`, `Refuse`: the [`status`]. `Grant`: [`ANSWER`].
    pub(crate) flags: u32,
    /// Credits: bytes. `Call`: the time left until the deadline, in microseconds; 0 is none.
    pub(crate) amount: u64,
    /// `Call`, `Reply`: bytes of all pieces together. `Request`: bytes of the message that waits.
    /// `Refuse`: bytes of the one message that is refused; 0 is all.
    pub(crate) total: u64,
    /// `Call`, `Cancel`: what makes it the same call when it comes again.
    pub(crate) key: Option<CallKey>,
}

/// In [`Extension::flags`] of a call: the payload describes where in the store the message is.
pub(crate) const STORED: u32 = 1;
/// In [`Extension::flags`] of a grant: it answers a request.
pub(crate) const ANSWER: u32 = 1;

const EXTENSION: usize = 48;
const KEYED_EXTENSION: usize = 64;

impl Extension {
    fn encode(&self) -> AlignedBytes {
        let CallKey { key, lowest } = self.key.unwrap_or(CallKey { key: 0, lowest: 0 });
        let count_and_flags = u64::from(self.count) | u64::from(self.flags) << 32;
        let words =
            [self.actor, self.call, self.message, count_and_flags, self.amount, self.total, key, lowest];
        let mut bytes = [0; KEYED_EXTENSION];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        AlignedBytes::copy_from(&bytes[..if self.key.is_some() { KEYED_EXTENSION } else { EXTENSION }])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if ![EXTENSION, KEYED_EXTENSION].contains(&bytes.len()) {
            return Err(format!(
                "an actor frame's extension has {} bytes instead of {EXTENSION}",
                bytes.len()
            ));
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Ok(Extension {
            actor: word(0),
            call: word(8),
            message: word(16),
            count: word(24) as u32,
            flags: (word(24) >> 32) as u32,
            amount: word(32),
            total: word(40),
            key: (bytes.len() == KEYED_EXTENSION).then(|| CallKey { key: word(48), lowest: word(56) }),
        })
    }
}

/// A frame of `kind` about the actor in `incarnation`.
pub(crate) fn frame(
    kind: Kind,
    incarnation: u64,
    job: u64,
    trace: u64,
    extension: &Extension,
    payload: AlignedBytes,
) -> Frame {
    let header = FrameHeader { kind: kind as u16, job, trace, incarnation };
    let mut frame = Frame::new(header, payload);
    frame.extension = extension.encode();
    frame
}

/// The numbers of the ends of a call, in [`Extension::flags`].
pub(crate) mod status {
    pub(crate) const REPLY: u32 = 0;
    pub(crate) const STORED: u32 = 1;
    pub(crate) const NOT_SENT: u32 = 2;
    pub(crate) const UNKNOWN: u32 = 3;
    pub(crate) const DEAD: u32 = 4;
    pub(crate) const DEADLINE: u32 = 5;
    pub(crate) const CANCELLED: u32 = 6;
    pub(crate) const FAILED: u32 = 7;
    pub(crate) const REFUSED: u32 = 8;
}

/// What goes with a status that is no reply.
#[derive(Archive, Serialize, Deserialize, Default)]
struct Evidence {
    lines: Vec<String>,
    death: Option<Box<DeathReport>>,
}

/// Where in the store the payload of `frame` lies, if it does.
pub(crate) fn stored_payload(frame: &Frame) -> Option<&[u8]> {
    let extension = Extension::decode(&frame.extension).ok()?;
    let stored = match Kind::of(frame.header.kind)? {
        Kind::Call => extension.flags & STORED != 0,
        Kind::Reply => extension.flags == status::STORED,
        _ => false,
    };
    stored.then_some(&frame.payload[..])
}

/// An end of a call as status and payload. What no actor answers with, and what lies in the store, is not written so.
pub(crate) fn encode_outcome(outcome: Outcome) -> (u32, AlignedBytes) {
    let evidence = |lines| Evidence { lines, death: None };
    let (status, evidence) = match outcome {
        Outcome::Reply { bytes, .. } => return (status::REPLY, bytes),
        Outcome::NotSent(why) => (status::NOT_SENT, evidence(vec![why])),
        Outcome::Unknown(why) | Outcome::Unreachable(why) => (status::UNKNOWN, evidence(vec![why])),
        Outcome::Dead(report) => (status::DEAD, Evidence { lines: Vec::new(), death: Some(report) }),
        Outcome::Deadline => (status::DEADLINE, Evidence::default()),
        Outcome::Cancelled | Outcome::Sent | Outcome::Stored(_) => (status::CANCELLED, Evidence::default()),
        Outcome::Failed(chain) => (status::FAILED, evidence(chain)),
        Outcome::Refused(why) => (status::REFUSED, evidence(vec![why])),
    };
    // Strings and numbers archive without failing; if they ever did, the status alone still tells.
    (status, encode(&evidence).map(AlignedBytes::from).unwrap_or_default())
}

/// The opposite of [`encode_outcome`].
pub(crate) fn decode_outcome(status: u32, payload: AlignedBytes) -> Result<Outcome, String> {
    match status {
        status::REPLY => return Ok(Outcome::Reply { bytes: payload, origin: None::<TypeId> }),
        status::DEADLINE => return Ok(Outcome::Deadline),
        status::CANCELLED => return Ok(Outcome::Cancelled),
        _ => {}
    }
    let archived = access_checked::<Archived<Evidence>>(&payload).map_err(|error| error.to_string())?;
    let mut evidence =
        rkyv::deserialize::<Evidence, rancor::Error>(archived).map_err(|error| error.to_string())?;
    let text = evidence.lines.join(": ");
    Ok(match (status, evidence.death.take()) {
        (status::NOT_SENT, _) => Outcome::NotSent(text),
        (status::UNKNOWN, _) => Outcome::Unknown(text),
        (status::DEAD, Some(report)) => Outcome::Dead(report),
        (status::FAILED, _) => Outcome::Failed(evidence.lines),
        (status::REFUSED, _) => Outcome::Refused(text),
        _ => return Err(format!("a reply has the unknown status {status}")),
    })
}

/// A death report as a payload, for [`Kind::Death`].
pub(crate) fn encode_death(report: &DeathReport) -> AlignedBytes {
    encode(report).map(AlignedBytes::from).unwrap_or_default()
}

/// The opposite of [`encode_death`].
pub(crate) fn decode_death(payload: &[u8]) -> Result<Box<DeathReport>, String> {
    let archived = access_checked::<Archived<DeathReport>>(payload).map_err(|error| error.to_string())?;
    rkyv::deserialize::<DeathReport, rancor::Error>(archived).map(Box::new).map_err(|error| error.to_string())
}
