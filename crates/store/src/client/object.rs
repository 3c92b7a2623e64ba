//! A sealed object, open in this process.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Client;
use super::link::{Granted, Then};
use crate::error::Result;
use crate::memory::{Mapping, SealedBytes};
use crate::object::{ObjectId, ObjectRef, Receiver};
use crate::pool::Place;
use crate::protocol::{Ask, Tell};

/// A sealed object: immutable bytes, mapped read-only, page-aligned. A lease, which ends with the last clone.
///
/// It derefs to its bytes. `bytes::Bytes::from_owner(object)` makes shared bytes of it without a copy.
#[derive(Clone)]
pub struct Object {
    lease: Arc<Lease>,
}

struct Lease {
    client: Arc<Client>,
    id: ObjectId,
    bytes: Option<SealedBytes>,
}

impl Object {
    /// Takes over a lease that the agent granted. On failure it is given back.
    pub(super) fn new(
        client: Arc<Client>,
        id: ObjectId,
        mapping: Arc<Mapping>,
        place: Place,
    ) -> Result<Object> {
        let mut lease = Lease { client, id, bytes: None };
        lease.bytes = Some(SealedBytes::new(mapping, place)?);
        Ok(Object { lease: Arc::new(lease) })
    }

    /// Its name, the same on every node.
    pub fn id(&self) -> ObjectId {
        self.lease.id
    }

    /// A reference for one receiver, to be sent in a message. It holds a lease of its own, in transit, so this object
    /// may be dropped once the reference is made. See [`ObjectRef`].
    ///
    /// # Errors
    /// [`StoreError::Limit`](crate::StoreError::Limit) when 16,384 references of this process are in transit.
    pub async fn share(&self) -> Result<ObjectRef> {
        self.make_reference(None).await
    }

    /// As [`share`](Self::share), for that process, on whatever node: when this node's agent learns
    /// that it has ended, the lease in transit ends at once.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    pub async fn share_with(&self, receiver: Receiver) -> Result<ObjectRef> {
        self.make_reference(Some(receiver)).await
    }

    async fn make_reference(&self, receiver: Option<Receiver>) -> Result<ObjectRef> {
        let (client, id) = (&self.lease.client, self.lease.id);
        let ask = Ask::Share { id, receiver };
        match Client::ask(client, ask, Then::Share(self.clone())).await? {
            Granted::Ticket(ticket) => Ok(ticket.send(self.len())),
            other => Err(other.unexpected()),
        }
    }

    /// The ticket that answers [`make_reference`](Self::make_reference).
    pub(super) fn ticket(&self, number: u64) -> Ticket {
        Ticket::new(self.lease.client.clone(), self.lease.id, number)
    }
}

impl Deref for Object {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.lease.bytes.as_ref().map_or(&[], SealedBytes::as_slice)
    }
}

impl AsRef<[u8]> for Object {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({}, {} bytes)", self.lease.id, self.len())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // First the address, then the lease that kept its bytes.
        self.bytes = None;
        self.client.link.tell(Tell::Release { id: self.id });
    }
}

/// A lease in transit that is not in a message yet. Dropped, it is taken back.
#[derive(Debug)]
pub(super) struct Ticket {
    client: Arc<Client>,
    id: ObjectId,
    number: u64,
    sent: bool,
}

impl Ticket {
    pub fn new(client: Arc<Client>, id: ObjectId, number: u64) -> Ticket {
        Ticket { client, id, number, sent: false }
    }

    /// The reference, to an object of `len` bytes, which its receiver is answerable for from now on.
    pub fn send(mut self, len: usize) -> ObjectRef {
        self.sent = true;
        let node = self.client.link.node.clone();
        ObjectRef { id: self.id, node, len: len as u64, ticket: self.number }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.sent {
            self.client.link.tell(Tell::Revoke { id: self.id, ticket: self.number });
        }
    }
}
