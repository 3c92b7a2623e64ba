//! The frame: what a lane carries, and its codec, without any I/O.
//!
//! On the wire a frame is a head of 32 bytes, little endian (payload length u32, extension length u16, kind u16, job u64,
//! trace u64, incarnation u64), then the payload, then the extension.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use rkyv::util::AlignedVec;

use crate::AlignedBytes;

/// The longest payload, in bytes. Larger things travel through the object store.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// The longest extension, in bytes.
pub const MAX_EXTENSION: usize = 4 * 1024;

/// Length of a frame's head on the wire.
pub(crate) const FRAME_HEAD: usize = 32;

/// A payload up to this length is copied beside its neighbours, so that many frames make one write; a longer one is
/// handed on as it lies.
const GATHER_LIMIT: usize = 8 * 1024;

/// The fixed part of a frame that the upper layer fills in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FrameHeader {
    /// What the frame is; the upper layer's numbers.
    pub kind: u16,
    /// The job it belongs to.
    pub job: u64,
    /// The trace it belongs to.
    pub trace: u64,
    /// The incarnation of whom it is meant for.
    pub incarnation: u64,
}

/// Payload and extension up to this length together are copied out of the input as they lie there.
const SMALL_BODY: usize = 1024;

/// One message of a lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The fixed part.
    pub header: FrameHeader,
    /// The upper layer's own header, at most [`MAX_EXTENSION`] bytes.
    pub extension: AlignedBytes,
    /// The message, at most [`MAX_PAYLOAD`] bytes, aligned for [`access_checked`](crate::access_checked).
    pub payload: AlignedBytes,
}

impl Frame {
    /// A frame without an extension.
    pub fn new(header: FrameHeader, payload: AlignedBytes) -> Self {
        Self { header, extension: AlignedBytes::default(), payload }
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        FRAME_HEAD + self.extension.len() + self.payload.len()
    }

    /// Whether the frame is within the limits.
    ///
    /// # Errors
    /// [`FrameError`] naming the part that is too long.
    pub fn check(&self) -> Result<(), FrameError> {
        check_lengths(self.payload.len(), self.extension.len())
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is too long.
    #[error("a payload of {0} bytes is above {MAX_PAYLOAD}")]
    Payload(usize),
    /// The extension is too long.
    #[error("an extension of {0} bytes is above {MAX_EXTENSION}")]
    Extension(usize),
    /// The stream ended within a frame.
    #[error("the lane ended within a frame")]
    Truncated,
}

fn check_lengths(payload: usize, extension: usize) -> Result<(), FrameError> {
    if payload > MAX_PAYLOAD {
        return Err(FrameError::Payload(payload));
    }
    if extension > MAX_EXTENSION {
        return Err(FrameError::Extension(extension));
    }
    Ok(())
}

/// Turns frames into few large pieces of bytes.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    gathered: BytesMut,
    pieces: Vec<Bytes>,
    len: usize,
}

impl FrameEncoder {
    /// Appends a frame.
    ///
    /// # Errors
    /// [`FrameError`] when it is above the limits; nothing has been appended then.
    pub fn push(&mut self, frame: &Frame) -> Result<(), FrameError> {
        frame.check()?;
        let FrameHeader { kind, job, trace, incarnation } = frame.header;
        let mut head = [0; FRAME_HEAD];
        head[..4].copy_from_slice(&(frame.payload.len() as u32).to_le_bytes());
        head[4..6].copy_from_slice(&(frame.extension.len() as u16).to_le_bytes());
        head[6..8].copy_from_slice(&kind.to_le_bytes());
        head[8..16].copy_from_slice(&job.to_le_bytes());
        head[16..24].copy_from_slice(&trace.to_le_bytes());
        head[24..].copy_from_slice(&incarnation.to_le_bytes());
        self.gathered.extend_from_slice(&head);
        if frame.payload.len() <= GATHER_LIMIT {
            self.gathered.extend_from_slice(&frame.payload);
        } else {
            self.pieces.push(self.gathered.split().freeze());
            self.pieces.push(frame.payload.clone().into_bytes());
        }
        self.gathered.extend_from_slice(&frame.extension);
        self.len += frame.wire_len();
        Ok(())
    }

    /// Bytes pushed since the last [`take`](Self::take).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was pushed since the last [`take`](Self::take).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces to write, in order.
    pub fn take(&mut self) -> Vec<Bytes> {
        if !self.gathered.is_empty() {
            self.pieces.push(self.gathered.split().freeze());
        }
        self.len = 0;
        std::mem::take(&mut self.pieces)
    }
}

/// Turns a stream of bytes, cut anywhere, back into frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    input: VecDeque<Bytes>,
    head: [u8; FRAME_HEAD],
    /// Bytes of `head` that have come.
    head_len: usize,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    header: FrameHeader,
    payload: usize,
    extension: usize,
    /// Payload, then extension, in memory as on the wire.
    bytes: AlignedVec<16>,
}

impl FrameDecoder {
    /// Appends what was read.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.input.push_back(bytes);
        }
    }

    /// The next whole frame, if it has come.
    ///
    /// # Errors
    /// [`FrameError`] when the head promises more than the limits. The stream cannot be read on then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.body.is_none() {
            if let Some(frame) = self.whole_frame()? {
                return Ok(Some(frame));
            }
            while self.head_len < FRAME_HEAD {
                let Some(piece) = self.take_at_most(FRAME_HEAD - self.head_len) else { return Ok(None) };
                self.head[self.head_len..self.head_len + piece.len()].copy_from_slice(&piece);
                self.head_len += piece.len();
            }
            self.body = Some(Body::begin(&self.head, usize::MAX)?);
        }
        loop {
            let Some(missing) = self.body.as_ref().map(Body::missing) else { return Ok(None) };
            if missing == 0 {
                self.head_len = 0;
                return Ok(self.body.take().map(Body::finish));
            }
            let Some(piece) = self.take_at_most(missing) else { return Ok(None) };
            if let Some(body) = &mut self.body {
                body.bytes.extend_from_slice(&piece);
            }
        }
    }

    /// A small frame that lies in one piece of the input, as most do.
    fn whole_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(first) = self.input.front_mut().filter(|_| self.head_len == 0) else { return Ok(None) };
        let Some((head, rest)) = first.split_first_chunk() else { return Ok(None) };
        let Body { header, payload, extension, .. } = Body::begin(head, 0)?;
        if payload + extension > SMALL_BODY || rest.len() < payload + extension {
            return Ok(None);
        }
        let frame = Frame {
            header,
            payload: AlignedBytes::copy_from(&rest[..payload]),
            extension: AlignedBytes::copy_from(&rest[payload..payload + extension]),
        };
        first.advance(FRAME_HEAD + payload + extension);
        if first.is_empty() {
            self.input.pop_front();
        }
        Ok(Some(frame))
    }

    /// What the end of the stream means now.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] within a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.head_len == 0 && self.input.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }

    fn take_at_most(&mut self, len: usize) -> Option<Bytes> {
        let first = self.input.front_mut()?;
        if first.len() > len { Some(first.split_to(len)) } else { self.input.pop_front() }
    }
}

impl Body {
    /// With room for the body, at most `room` bytes of it.
    fn begin(head: &[u8; FRAME_HEAD], room: usize) -> Result<Self, FrameError> {
        fn number<const N: usize>(head: &[u8; FRAME_HEAD], at: usize) -> [u8; N] {
            std::array::from_fn(|i| head[at + i])
        }
        let payload = u32::from_le_bytes(number(head, 0)) as usize;
        let extension = usize::from(u16::from_le_bytes(number(head, 4)));
        check_lengths(payload, extension)?;
        let header = FrameHeader {
            kind: u16::from_le_bytes(number(head, 6)),
            job: u64::from_le_bytes(number(head, 8)),
            trace: u64::from_le_bytes(number(head, 16)),
            incarnation: u64::from_le_bytes(number(head, 24)),
        };
        let bytes = AlignedVec::with_capacity((payload + extension).min(room));
        Ok(Self { header, payload, extension, bytes })
    }

    fn missing(&self) -> usize {
        self.payload + self.extension - self.bytes.len()
    }

    fn finish(self) -> Frame {
        if self.bytes.is_empty() {
            return Frame { header: self.header, ..Frame::default() };
        }
        let mut payload = Bytes::from_owner(self.bytes);
        let extension = AlignedBytes::copy_from(&payload.split_off(self.payload));
        Frame { header: self.header, extension, payload: AlignedBytes::from_bytes(payload) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let length = prop_oneof![0usize..40, 0usize..3000, GATHER_LIMIT - 2..GATHER_LIMIT + 3];
        let frame = (any::<[u64; 3]>(), any::<u16>(), length, 0usize..200, any::<u8>()).prop_map(
            |([job, trace, incarnation], kind, payload, extension, fill)| Frame {
                header: FrameHeader { kind, job, trace, incarnation },
                extension: vec![fill; extension].into(),
                payload: AlignedBytes::copy_from(&vec![fill.wrapping_add(1); payload]),
            },
        );
        prop::collection::vec(frame, 0..12)
    }

    fn encoded(frames: &[Frame]) -> Vec<u8> {
        let mut encoder = FrameEncoder::default();
        frames.iter().for_each(|frame| encoder.push(frame).unwrap());
        let len = encoder.len();
        let bytes = encoder.take().concat();
        assert_eq!(bytes.len(), len);
        bytes
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_and_come_back_aligned(
            frames in frames(), cuts in prop::collection::vec(1usize..5000, 1..40),
        ) {
            let bytes = Bytes::from(encoded(&frames));
            let mut decoder = FrameDecoder::default();
            let (mut seen, mut at) = (vec![], 0);
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(bytes.len());
                decoder.push(bytes.slice(at..end));
                while let Some(frame) = decoder.next_frame().unwrap() {
                    prop_assert!(frame.payload.is_empty() || frame.payload.as_ptr().addr() % 16 == 0);
                    seen.push(frame);
                }
                at = end;
                if at == bytes.len() { break }
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(decoder.end(), Ok(()));
        }

        #[test]
        fn garbage_is_refused_or_waits_for_more_and_never_panics(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let mut decoder = FrameDecoder::default();
            'pieces: for piece in pieces {
                decoder.push(piece.into());
                loop {
                    match decoder.next_frame() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'pieces,
                    }
                }
            }
        }

        #[test]
        fn a_stream_that_ends_within_a_frame_is_truncated(frames in frames(), cut: prop::sample::Index) {
            prop_assume!(!frames.is_empty());
            let bytes = encoded(&frames);
            let borders: Vec<usize> = frames
                .iter()
                .scan(0, |at, frame| { *at += frame.wire_len(); Some(*at) })
                .collect();
            let cut = cut.index(bytes.len());
            let mut decoder = FrameDecoder::default();
            decoder.push(bytes[..cut].to_vec().into());
            while decoder.next_frame().unwrap().is_some() {}
            let whole = cut == 0 || borders.contains(&cut);
            prop_assert_eq!(decoder.end(), if whole { Ok(()) } else { Err(FrameError::Truncated) });
        }
    }

    #[test]
    fn l2_lengths_are_refused_before_memory_is_taken() {
        let head = |payload: u32, extension: u16| {
            let mut head = [0u8; FRAME_HEAD];
            head[..4].copy_from_slice(&payload.to_le_bytes());
            head[4..6].copy_from_slice(&extension.to_le_bytes());
            let mut decoder = FrameDecoder::default();
            decoder.push(head.to_vec().into());
            decoder.next_frame()
        };
        assert_eq!(head(MAX_PAYLOAD as u32, MAX_EXTENSION as u16), Ok(None));
        assert_eq!(head(MAX_PAYLOAD as u32 + 1, 0), Err(FrameError::Payload(MAX_PAYLOAD + 1)));
        assert_eq!(head(u32::MAX, 0), Err(FrameError::Payload(u32::MAX as usize)));
        assert_eq!(head(0, MAX_EXTENSION as u16 + 1), Err(FrameError::Extension(MAX_EXTENSION + 1)));
    }

    #[test]
    fn a_frame_above_the_limits_is_not_encoded() {
        let mut encoder = FrameEncoder::default();
        let frame = Frame { extension: vec![0; MAX_EXTENSION + 1].into(), ..Frame::default() };
        assert_eq!(encoder.push(&frame), Err(FrameError::Extension(MAX_EXTENSION + 1)));
        assert!(encoder.is_empty() && encoder.take().is_empty());
    }
}
