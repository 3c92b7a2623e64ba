//! Large arguments and replies travel through the node's store.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_actor::LargePayloads;
use lyceum_store::{ObjectRef, StoreClient};
use lyceum_wire::AlignedBytes;

use crate::message;

/// The node's store as the actor system uses it.
pub(super) struct StorePayloads {
    client: StoreClient,
}

impl StorePayloads {
    pub(super) fn new(client: StoreClient) -> StorePayloads {
        StorePayloads { client }
    }
}

impl LargePayloads for StorePayloads {
    fn put(&self, payload: AlignedBytes) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let client = self.client.clone();
        async move {
            let object = client.put(&payload).await.map_err(|error| error.to_string())?;
            let reference = object.share().await.map_err(|error| error.to_string())?;
            let description = message::encode(&reference).map_err(|error| error.to_string())?;
            Ok(description.to_vec())
        }
        .boxed()
    }

    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>> {
        let client = self.client.clone();
        async move {
            let reference: ObjectRef = message::decode(&description).map_err(|error| error.to_string())?;
            let object = client.open(&reference).await.map_err(|error| error.to_string())?;
            // The object's own memory, page-aligned; its lease ends with the last clone of these bytes.
            Ok(AlignedBytes::from_bytes(Bytes::from_owner(object)))
        }
        .boxed()
    }
}
