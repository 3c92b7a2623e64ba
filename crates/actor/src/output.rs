//! Where a message is archived to.
//!
//! As a rule into memory of its own. One that turns out to be large, and is for another process of this node, goes on in
//! the memory that its receiver will read it from: so it is written once.

use std::fmt;
use std::sync::Arc;

use lyceum_wire::AlignedBytes;
use rkyv::{
    rancor,
    ser::{Positional, Writer},
    util::AlignedVec,
};

use crate::{
    ProcessAddress,
    large::{LARGE, LargePayloads, Parcel, Payload, Room},
    link::Link,
};

/// What a small message is given to begin with, in bytes.
const SMALL: usize = 64;
/// Asked for beyond what is written: the end of an archive is small.
const SLACK: usize = 1024;

/// What a message is archived into: memory of its own, or, for a large one to another process of this node, the memory
/// that its receiver reads.
#[derive(Default)]
pub struct Output {
    bytes: AlignedVec,
    /// Where it goes on, and how much of that is written.
    room: Option<(Box<dyn Room>, usize)>,
    /// Gives room, if it can.
    source: Option<Source>,
}

/// For whom it is, and whose memory both have.
pub(crate) struct Source {
    pub(crate) large: Arc<dyn LargePayloads>,
    pub(crate) link: Arc<Link>,
}

impl Source {
    fn room(&self, bytes: usize) -> Option<Box<dyn Room>> {
        self.large.room(bytes, self.receiver())
    }

    fn receiver(&self) -> &ProcessAddress {
        &self.link.peer
    }
}

impl Output {
    pub(crate) fn from(source: Option<Source>) -> Self {
        Output { source, ..Output::default() }
    }

    /// What was written, where nothing else gave room.
    pub(crate) fn into_bytes(self) -> AlignedVec {
        let mut output = self;
        output.come_back();
        output.bytes
    }

    pub(crate) fn into_payload(mut self) -> Payload {
        match (self.room.take(), self.source) {
            (Some((room, len)), Some(source)) => Payload::Stored(Parcel::sent(source.large, room.send(len))),
            _ => Payload::Inline(AlignedBytes::from(self.bytes)),
        }
    }

    /// Goes on where there is room for `more` bytes beyond what is written, if somewhere there is.
    fn move_on(&mut self, more: usize) {
        let written = self.pos();
        let wanted = written.saturating_add(more).saturating_add(SLACK);
        // As vectors do, so that what comes in small parts is moved seldom.
        let wanted = if self.room.is_some() { wanted.max(2 * written) } else { wanted };
        let Some(mut room) = self.source.as_ref().and_then(|source| source.room(wanted)) else {
            self.come_back();
            self.source = None;
            return;
        };
        let before: &[u8] = match &mut self.room {
            Some((room, written)) => &room.bytes()[..*written],
            None => &self.bytes,
        };
        room.bytes()[..before.len()].copy_from_slice(before);
        self.room = Some((room, written));
    }

    /// Goes on in memory of its own.
    fn come_back(&mut self) {
        if let Some((mut room, written)) = self.room.take() {
            self.bytes.clear();
            self.bytes.extend_from_slice(&room.bytes()[..written]);
        }
    }
}

impl Positional for Output {
    fn pos(&self) -> usize {
        self.room.as_ref().map_or(self.bytes.len(), |(_, written)| *written)
    }
}

impl Writer<rancor::Error> for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<(), rancor::Error> {
        if self.source.is_some() {
            let end = self.pos().saturating_add(bytes.len());
            let holds = self.room.as_mut().map_or(LARGE - 1, |(room, _)| room.bytes().len());
            if end > holds {
                self.move_on(bytes.len());
            }
        }
        match &mut self.room {
            Some((room, written)) => {
                room.bytes()[*written..*written + bytes.len()].copy_from_slice(bytes);
                *written += bytes.len();
            }
            None => {
                if self.bytes.capacity() == 0 {
                    // Memory that is smaller than its alignment is slow to get.
                    self.bytes.reserve(bytes.len().max(SMALL));
                }
                self.bytes.extend_from_slice(bytes);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.pos())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{ProcessKind, message::encode_to};

    /// Gives rooms of twice what is asked for, up to so many bytes, and keeps what was sent.
    #[derive(Default)]
    struct Rooms {
        most: usize,
        given: AtomicUsize,
        sent: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    struct Kept(Vec<u8>, Arc<Mutex<Vec<Vec<u8>>>>);

    impl Room for Kept {
        fn bytes(&mut self) -> &mut [u8] {
            &mut self.0
        }

        fn send(self: Box<Self>, len: usize) -> Vec<u8> {
            self.1.lock().unwrap_or_else(|_| unreachable!()).push(self.0[..len].to_vec());
            b"it was sent".to_vec()
        }
    }

    impl LargePayloads for Rooms {
        fn room(&self, len: usize, _: &ProcessAddress) -> Option<Box<dyn Room>> {
            self.given.fetch_add(1, Ordering::Relaxed);
            (len <= self.most).then(|| Box::new(Kept(vec![0; 2 * len], self.sent.clone())) as Box<dyn Room>)
        }
        fn put(&self, _: AlignedBytes, _: &ProcessAddress) -> BoxFuture<'static, Result<Vec<u8>, String>> {
            unreachable!()
        }
        fn open(&self, _: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>> {
            unreachable!()
        }
        fn revoke(&self, _: &[u8]) {}
        fn discard(&self, _: &[u8]) {}
    }

    fn receiver() -> Arc<Link> {
        let addr = ([127, 0, 0, 1], 1).into();
        let peer = ProcessAddress { kind: ProcessKind::Worker, node: "n".into(), process: 2, addr };
        Link::new(1, peer, Weak::new())
    }

    #[test]
    fn a_message_of_many_parts_is_whole_wherever_it_ends() {
        for (parts, most) in [(1, 1 << 20), (100, 1 << 20), (1000, 10 << 20), (1000, 300 << 10), (1000, 0)] {
            let message: Vec<Vec<u8>> = (0..parts).map(|part| vec![part as u8; 1000]).collect();
            let rooms = Arc::new(Rooms { most, ..Rooms::default() });
            let source = Source { large: rooms.clone(), link: receiver() };
            let plain = crate::encode(&message).unwrap_or_else(|error| panic!("{error}"));
            let output = encode_to(&message, Output::from(Some(source)));
            let payload = output.unwrap_or_else(|error| panic!("{error}")).into_payload();
            let sent = rooms.sent.lock().unwrap_or_else(|_| unreachable!());
            match payload {
                Payload::Inline(bytes) => assert!(bytes[..] == plain[..], "{parts} parts"),
                Payload::Stored(parcel) => {
                    assert_eq!(&parcel.description()[..], b"it was sent");
                    assert!(sent[0] == plain[..], "{parts} parts");
                }
            }
            assert_eq!(sent.len(), usize::from(plain.len() >= LARGE && most >= 2 * plain.len()), "{parts}");
            assert!(rooms.given.load(Ordering::Relaxed) <= 6, "moved as vectors are");
        }
    }
}
