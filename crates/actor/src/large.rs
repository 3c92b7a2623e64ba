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
use lyceum_store::{ObjectRef, Receiver, RegionRef, RegionWriter, StoreClient, StoreError};
use lyceum_wire::{AlignedBytes, access_checked};
use rkyv::{Archived, rancor};

use crate::{ProcessAddress, message::encode};

/// From this size on, in bytes, messages and replies for another process travel through the store.
pub const LARGE: usize = 64 * 1024;

/// How long a payload waits for room in the store: whatever stands behind it in the order waits too.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// A place for payloads above [`LARGE`]: the node's store, by its [`StoreClient`].
pub trait LargePayloads: Send + Sync + 'static {
    /// Room for a payload of `len` bytes for `receiver`, where there is some at once and nobody need be asked.
    fn room(&self, len: usize, receiver: &ProcessAddress) -> Option<Box<dyn Room>>;
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

/// Where a payload for one receiver is written. Dropped, it was not sent.
pub trait Room: Send {
    /// All of it.
    fn bytes(&mut self) -> &mut [u8];
    /// The first `len` bytes are the payload: returns a description as [`LargePayloads::put`] does.
    fn send(self: Box<Self>, len: usize) -> Vec<u8>;
}

/// How payloads in a node's store are described.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum Description {
    Object(ObjectRef),
    /// For a process of the same node.
    Region(RegionRef),
}

impl Description {
    fn encode(&self) -> Vec<u8> {
        // It has no field that could refuse.
        encode(self).map(|bytes| bytes.to_vec()).unwrap_or_default()
    }
}

/// Room in a region, for one process.
struct RegionRoom {
    region: RegionWriter,
    receiver: u64,
}

impl Room for RegionRoom {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.region
    }

    fn send(self: Box<Self>, len: usize) -> Vec<u8> {
        let Self { region, receiver } = *self;
        Description::Region(region.send_to(receiver, len)).encode()
    }
}

impl LargePayloads for StoreClient {
    fn room(&self, len: usize, receiver: &ProcessAddress) -> Option<Box<dyn Room>> {
        if receiver.node != self.node() {
            return None;
        }
        let region = self.region(len)?;
        Some(Box::new(RegionRoom { region, receiver: receiver.process }))
    }

    fn put(
        &self,
        payload: AlignedBytes,
        receiver: &ProcessAddress,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let store = self.clone();
        let near = receiver.node == self.node();
        let receiver = Receiver { node: receiver.node.clone(), process: receiver.process };
        Box::pin(async move {
            let said = |error: StoreError| error.to_string();
            if near && let Some(mut region) = store.keep_region(payload.len()).await {
                region[..payload.len()].copy_from_slice(&payload);
                return Ok(Description::Region(region.send_to(receiver.process, payload.len())).encode());
            }
            let mut object = store.create_within(payload.len(), ROOM_WITHIN).await.map_err(said)?;
            object.copy_from_slice(&payload);
            let reference = object.send_to(receiver).await.map_err(said)?;
            Ok(Description::Object(reference).encode())
        })
    }

    fn open(&self, description: AlignedBytes) -> BoxFuture<'static, Result<AlignedBytes, String>> {
        let store = self.clone();
        Box::pin(async move {
            let said = |error: StoreError| error.to_string();
            // The mapping is read where it lies; the lease ends with the last clone of these bytes.
            Ok(AlignedBytes::from_bytes(match read(&description)? {
                Description::Object(reference) => {
                    Bytes::from_owner(StoreClient::open(&store, &reference).await.map_err(said)?)
                }
                Description::Region(reference) => {
                    Bytes::from_owner(store.open_region(&reference).await.map_err(said)?)
                }
            }))
        })
    }

    fn revoke(&self, description: &[u8]) {
        match read(&AlignedBytes::copy_from(description)) {
            Ok(Description::Object(reference)) => StoreClient::revoke(self, &reference),
            Ok(Description::Region(reference)) => self.give_up_region(&reference),
            Err(_) => {}
        }
    }

    fn discard(&self, description: &[u8]) {
        match read(&AlignedBytes::copy_from(description)) {
            Ok(Description::Object(reference)) => StoreClient::discard(self, &reference),
            Ok(Description::Region(reference)) => self.give_up_region(&reference),
            Err(_) => {}
        }
    }
}

fn read(description: &[u8]) -> Result<Description, String> {
    let archived = access_checked::<Archived<Description>>(description).map_err(|error| error.to_string())?;
    rkyv::deserialize::<Description, rancor::Error>(archived).map_err(|error| error.to_string())
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
#[derive(Debug, Clone)]
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
