use bytes::Bytes;

use crate::{Frame, FrameDecoder, FrameEncoder};

/// Frames as they lie on the wire.
pub fn to_bytes<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<u8> {
    let mut encoder = FrameEncoder::default();
    for frame in frames {
        encoder.push(frame).expect("a test's frames are no longer than frames may be");
    }
    encoder.take().concat()
}

/// The whole frames at the beginning of `bytes`.
pub fn to_frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::default();
    decoder.push(Bytes::copy_from_slice(bytes));
    std::iter::from_fn(|| decoder.next_frame().ok().flatten()).collect()
}
