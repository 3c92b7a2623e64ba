//! A process's side.

mod copy;
mod link;
mod object;
mod region;
mod writer;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use self::object::Object;
pub use self::region::{RegionBytes, RegionRef, RegionWriter};
pub use self::writer::ObjectWriter;

use self::link::{Granted, Link, Then};
use crate::error::{Result, StoreError};
use crate::object::ObjectRef;
use crate::protocol::{Ask, Tell};

/// How long [`StoreClient::create`] and [`StoreClient::open`] wait for room.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// A process's attachment to its node's store. Cheap to clone.
///
/// All methods work on any executor: one small thread reads the agent's answers. The attachment lasts until the last
/// clone and the last object are dropped.
#[derive(Debug, Clone)]
pub struct StoreClient {
    client: Arc<Client>,
}

/// What clients, writers and objects share: with the last of them the attachment ends.
#[derive(Debug)]
pub(crate) struct Client {
    link: Arc<Link>,
    kept: region::Kept,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl StoreClient {
    /// Attaches over the process's end of the [socket pair](crate::socket_pair) that it inherited from the agent. Waits
    /// for the agent's welcome, blocking, at most 10 s.
    ///
    /// # Errors
    /// [`StoreError::AgentLost`] when no welcome comes, [`StoreError::Invalid`] when the agent speaks another version.
    pub fn attach(socket: OwnedFd) -> Result<StoreClient> {
        let link = Link::open(socket)?;
        Ok(StoreClient { client: Arc::new(Client { link, kept: region::Kept::default() }) })
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.client.link.node
    }

    /// This process's incarnation, as the agent named it.
    pub fn holder(&self) -> u64 {
        self.client.link.holder
    }

    /// Makes room for an object of `len` bytes, as [`create_within`](Self::create_within) 60 s.
    pub async fn create(&self, len: usize) -> Result<ObjectWriter> {
        self.create_within(len, DEFAULT_WAIT).await
    }

    /// Makes room for an object of `len` bytes, to be written in place. When the store is full, waits in turn.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] at once, [`StoreError::Full`] after `wait`.
    pub async fn create_within(&self, len: usize, wait: Duration) -> Result<ObjectWriter> {
        let ask = Ask::Create { len: len as u64, wait_ms: milliseconds(wait) };
        match Client::ask(&self.client, ask, Then::Create).await? {
            Granted::Writer(writer) => Ok(writer),
            other => Err(other.unexpected()),
        }
    }

    /// Copies `bytes` into a new object and seals it, as [`put_within`](Self::put_within) 60 s.
    pub async fn put(&self, bytes: &[u8]) -> Result<Object> {
        self.put_within(bytes, DEFAULT_WAIT).await
    }

    /// Copies `bytes` into a new object, with several threads where that is faster, and seals it. Prefer [`create`](Self::create) where the bytes can be made in
    /// place.
    ///
    /// # Errors
    /// As [`create_within`](Self::create_within).
    pub async fn put_within(&self, bytes: &[u8], wait: Duration) -> Result<Object> {
        let mut writer = self.create_within(bytes.len(), wait).await?;
        copy::copy(&mut writer, bytes);
        writer.seal().await
    }

    /// The object that a reference names, as [`open_within`](Self::open_within) 60 s.
    pub async fn open(&self, reference: &ObjectRef) -> Result<Object> {
        self.open_within(reference, DEFAULT_WAIT).await
    }

    /// Takes a lease of this process's own on the object that a reference names, which ends the lease in transit. If
    /// this node does not have the object, it is fetched first, which needs room here: `wait` bounds the wait for that.
    ///
    /// Open a reference when it arrives rather than when it is used: until then it is in transit.
    ///
    /// # Errors
    /// [`StoreError::ObjectLost`] when the copy that the reference names is gone or out of reach; `TooLarge` and `Full`
    /// as for [`create_within`](Self::create_within).
    pub async fn open_within(&self, reference: &ObjectRef, wait: Duration) -> Result<Object> {
        let ask = Ask::Open { reference: reference.clone(), wait_ms: milliseconds(wait) };
        match Client::ask(&self.client, ask, Then::Open { id: reference.id }).await? {
            Granted::Object(object) => Ok(object),
            other => Err(other.unexpected()),
        }
    }

    /// Takes back a reference that this process [shared](Object::share) and that will not be delivered. One that was
    /// opened already, or that another process shared, is left alone.
    pub fn revoke(&self, reference: &ObjectRef) {
        self.client.link.tell(Tell::Revoke { id: reference.id, ticket: reference.ticket });
    }

    /// Gives up a reference that came in a message and will not be opened: its lease in transit ends, wherever it was
    /// made.
    pub fn discard(&self, reference: &ObjectRef) {
        self.client.link.tell(Tell::Discard { reference: reference.clone() });
    }
}

impl Granted {
    fn unexpected(self) -> StoreError {
        StoreError::AgentLost { reason: format!("its answer does not fit what was asked: {self:?}") }
    }
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
