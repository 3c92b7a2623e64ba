//! Payloads too large for the lane.

use futures_util::future::BoxFuture;
use lyceum_wire::AlignedBytes;

/// From this size on, in bytes, arguments and replies for another process travel through the store.
pub const LARGE: usize = 64 * 1024;

/// A place for payloads above [`LARGE`]: the node's store.
pub trait LargePayloads: Send + Sync + 'static {
    /// Puts `payload` in and returns a description of it that another process can [`open`](Self::open), once.
    fn put(&self, payload: AlignedBytes) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    /// The payload that `description` describes.
    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>>;
}
