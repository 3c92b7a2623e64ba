//! What comes to the cluster's processes, and what lies in their files, given as anything at all.

mod files;
mod machines;
mod words;

use bytes::Bytes;
use lyceum_wire::{Frame, FrameDecoder, FrameEncoder};

/// Frames as they lie on the wire.
fn to_bytes<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<u8> {
    let mut encoder = FrameEncoder::default();
    frames.into_iter().for_each(|frame| encoder.push(frame).unwrap());
    encoder.take().concat()
}

/// The whole frames at the beginning of `bytes`.
fn to_frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::default();
    decoder.push(Bytes::copy_from_slice(bytes));
    std::iter::from_fn(|| decoder.next_frame().ok().flatten()).collect()
}
