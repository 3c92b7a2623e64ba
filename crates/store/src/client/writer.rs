//! An object being made.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Client;
use super::link::{Granted, Then};
use super::object::Object;
use crate::error::Result;
use crate::memory::{Mapping, OwnedBytes};
use crate::object::{ObjectId, ObjectRef, Receiver};
use crate::pool::Place;
use crate::protocol::{Ask, Tell};

/// An object being made: writable, page-aligned shared memory that nobody else can see yet.
///
/// Its first contents are whatever lay there before. Dropped unsealed, the object never was.
#[derive(Debug)]
pub struct ObjectWriter {
    unsealed: Unsealed,
    bytes: OwnedBytes,
}

impl ObjectWriter {
    /// Opens the pages for writing. On failure the object is abandoned.
    pub(super) fn new(unsealed: Unsealed) -> Result<ObjectWriter> {
        let bytes = OwnedBytes::new(unsealed.mapping.clone(), unsealed.place)?;
        unsealed.mapping.protect(unsealed.place, true)?;
        Ok(ObjectWriter { unsealed, bytes })
    }

    /// The object's name, should the writer want to know it early.
    pub fn id(&self) -> ObjectId {
        self.unsealed.id
    }

    /// Makes the object immutable, in this process's page tables too, and readable by others.
    ///
    /// # Errors
    /// [`StoreError::AgentLost`](crate::StoreError::AgentLost) when the agent has gone.
    pub async fn seal(self) -> Result<Object> {
        let unsealed = self.finished()?;
        let (client, id) = (unsealed.client.clone(), unsealed.id);
        match Client::ask(&client, Ask::Seal { id }, Then::Seal(unsealed)).await? {
            Granted::Object(object) => Ok(object),
            other => Err(other.unexpected()),
        }
    }

    /// Seals the object for the process of that incarnation alone, on whatever node: what [`seal`](Self::seal) and then
    /// [`share_with`](Object::share_with) would, in one round trip to the agent, and without an object here. The page
    /// tables of this process follow while the receiver reads already.
    ///
    /// # Errors
    /// As those of both; the object is gone then.
    pub async fn send_to(self, receiver: Receiver) -> Result<ObjectRef> {
        let len = self.len();
        // Nobody here has a reference to the bytes any more.
        let ObjectWriter { unsealed, bytes } = self;
        drop(bytes);
        let (client, id) = (unsealed.client.clone(), unsealed.id);
        match Client::ask(&client, Ask::Send { id, receiver }, Then::Send(unsealed)).await? {
            Granted::Ticket(ticket) => Ok(ticket.send(len)),
            other => Err(other.unexpected()),
        }
    }

    /// The bytes are as they will be: nobody can write them here any more.
    fn finished(self) -> Result<Unsealed> {
        let ObjectWriter { unsealed, bytes } = self;
        drop(bytes);
        unsealed.mapping.protect(unsealed.place, false)?;
        Ok(unsealed)
    }
}

impl Deref for ObjectWriter {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl DerefMut for ObjectWriter {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }
}

/// The right to write an object and seal it. Dropped, it gives the object up.
#[derive(Debug)]
pub(super) struct Unsealed {
    pub client: Arc<Client>,
    pub id: ObjectId,
    pub place: Place,
    pub mapping: Arc<Mapping>,
    given_up: bool,
}

impl Unsealed {
    pub fn new(client: Arc<Client>, id: ObjectId, place: Place, mapping: Arc<Mapping>) -> Unsealed {
        Unsealed { client, id, place, mapping, given_up: true }
    }

    /// The agent has taken the seal, or says that the object is not ours: there is nothing to give up any more.
    pub fn settled(mut self) -> (Arc<Client>, ObjectId, Place, Arc<Mapping>) {
        self.given_up = false;
        (self.client.clone(), self.id, self.place, self.mapping.clone())
    }
}

impl Drop for Unsealed {
    fn drop(&mut self) {
        if self.given_up {
            // Failing that, the pages stay writable in this process alone, which no longer has a reference to them.
            let _ = self.mapping.protect(self.place, false);
            self.client.link.tell(Tell::Abandon { id: self.id });
        }
    }
}
