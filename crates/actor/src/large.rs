//! Payloads too large for the lane: they lie in the node's store, and what travels is a description.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lyceum_store::{ObjectRef, Receiver, StoreClient, StoreError};
use lyceum_wire::{AlignedBytes, access_checked};
use rkyv::{Archived, rancor};

use crate::{address::ProcessAddress, message::encode};

/// From this size on, in bytes, messages and replies for another process travel through the store.
pub const LARGE: usize = 64 * 1024;

/// How long a payload waits for room in the store: whatever stands behind it in the order waits too.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// A place for payloads above [`LARGE`]: the node's store, by its [`StoreClient`].
pub trait LargePayloads: Send + Sync + 'static {
    /// Puts `payload` in for `receiver` and returns a description of it that `receiver` can
    /// [`open`](Self::open), once.
    fn put(
        &self,
        payload: AlignedBytes,
        receiver: &ProcessAddress,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    /// The payload that `description` describes.
    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>>;
    /// Takes back what this process put in and what will not be delivered; nothing where it was opened already.
    fn revoke(&self, description: &[u8]);
    /// Gives up what was put in for this process and what it will not open.
    fn discard(&self, description: &[u8]);
}

impl LargePayloads for StoreClient {
    fn put(
        &self,
        payload: AlignedBytes,
        receiver: &ProcessAddress,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let store = self.clone();
        let receiver = Receiver { node: receiver.node.clone(), process: receiver.process };
        Box::pin(async move {
            let said = |error: StoreError| error.to_string();
            let mut object = store.create_within(payload.len(), ROOM_WITHIN).await.map_err(said)?;
            object.copy_from_slice(&payload);
            let reference = object.send_to(receiver).await.map_err(said)?;
            encode(&reference).map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
        })
    }

    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>> {
        let store = self.clone();
        Box::pin(async move {
            let reference = read(&description)?;
            let object = StoreClient::open(&store, &reference).await.map_err(|error| error.to_string())?;
            // The mapping is read where it lies; the lease ends with the last clone of these bytes.
            Ok(AlignedBytes::from_bytes(Bytes::from_owner(object)))
        })
    }

    fn revoke(&self, description: &[u8]) {
        if let Ok(reference) = read(&AlignedBytes::copy_from(description)) {
            StoreClient::revoke(self, &reference);
        }
    }

    fn discard(&self, description: &[u8]) {
        if let Ok(reference) = read(&AlignedBytes::copy_from(description)) {
            StoreClient::discard(self, &reference);
        }
    }
}

fn read(description: &[u8]) -> Result<ObjectRef, String> {
    let archived = access_checked::<Archived<ObjectRef>>(description).map_err(|error| error.to_string())?;
    rkyv::deserialize::<ObjectRef, rancor::Error>(archived).map_err(|error| error.to_string())
}

/// A payload that lies in the store, and whose it is: with the last clone of this it is given back, unless somebody
/// else has [taken it over](Parcel::hand_over) or it was [opened](Parcel::open). So nothing stays in the store
/// whichever way a call ends.
#[derive(Clone)]
pub(crate) struct Parcel(Arc<Inner>);

struct Inner {
    /// `None` where another process names a store and this one has none.
    large: Option<Arc<dyn LargePayloads>>,
    description: AlignedBytes,
    side: Side,
    settled: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

impl Parcel {
    /// What this process has put in.
    pub(crate) fn sent(large: Arc<dyn LargePayloads>, description: Vec<u8>) -> Self {
        let description = AlignedBytes::copy_from(&description);
        Self::new(Some(large), description, Side::Sender)
    }

    /// What has come for this process.
    pub(crate) fn received(large: Option<Arc<dyn LargePayloads>>, description: AlignedBytes) -> Self {
        Self::new(large, description, Side::Receiver)
    }

    fn new(large: Option<Arc<dyn LargePayloads>>, description: AlignedBytes, side: Side) -> Self {
        Parcel(Arc::new(Inner { large, description, side, settled: AtomicBool::new(false) }))
    }

    pub(crate) fn description(&self) -> &AlignedBytes {
        &self.0.description
    }

    /// It is somebody else's to open or to give back from now on.
    pub(crate) fn hand_over(&self) {
        self.0.settled.store(true, Ordering::Release);
    }

    /// The payload. Dropped before it is there, it will not be opened any more.
    pub(crate) async fn open(self) -> Result<AlignedBytes, String> {
        let Some(large) = &self.0.large else {
            return Err("it lies in a store, and this process has none".to_owned());
        };
        let opened = large.open(self.0.description.clone()).await;
        if opened.is_ok() {
            self.hand_over();
        }
        opened
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(large) = self.large.as_ref().filter(|_| !*self.settled.get_mut()) else { return };
        match self.side {
            Side::Sender => large.revoke(&self.description),
            Side::Receiver => large.discard(&self.description),
        }
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({} bytes describe it)", self.0.description.len())
    }
}

/// The bytes of a message on its way, or where in the store they lie.
#[derive(Debug)]
pub(crate) enum Payload {
    Inline(AlignedBytes),
    Stored(Parcel),
}

impl Payload {
    /// What travels on the lane.
    pub(crate) fn bytes(&self) -> &AlignedBytes {
        match self {
            Payload::Inline(bytes) => bytes,
            Payload::Stored(parcel) => parcel.description(),
        }
    }

    /// Bytes that travel on the lane, which is what credits count.
    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }
}
