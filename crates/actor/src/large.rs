//! Payloads too large for the lane.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lyceum_store::{ObjectRef, StoreClient};
use lyceum_wire::{AlignedBytes, access_checked};
use rkyv::{Archived, rancor};

use crate::message::encode;

/// From this size on, in bytes, messages and replies for another process travel through the store.
pub const LARGE: usize = 64 * 1024;

/// A place for payloads above [`LARGE`]: the node's store, by its [`StoreClient`].
pub trait LargePayloads: Send + Sync + 'static {
    /// Puts `payload` in and returns a description of it that another process can [`open`](Self::open), once.
    fn put(&self, payload: AlignedBytes) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    /// The payload that `description` describes.
    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>>;
}

impl LargePayloads for StoreClient {
    fn put(&self, payload: AlignedBytes) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let store = self.clone();
        Box::pin(async move {
            let object = store.put(&payload).await.map_err(|error| error.to_string())?;
            let reference = object.share().await.map_err(|error| error.to_string())?;
            encode(&reference).map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
        })
    }

    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>> {
        let store = self.clone();
        Box::pin(async move {
            let archived =
                access_checked::<Archived<ObjectRef>>(&description).map_err(|error| error.to_string())?;
            let reference =
                rkyv::deserialize::<ObjectRef, rancor::Error>(archived).map_err(|error| error.to_string())?;
            let object = store.open(&reference).await.map_err(|error| error.to_string())?;
            // The mapping is read where it lies; the lease ends with the last clone of these bytes.
            Ok(AlignedBytes::from_bytes(Bytes::from_owner(object)))
        })
    }
}
