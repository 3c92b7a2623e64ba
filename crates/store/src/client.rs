//! API shape; bodies follow within the hour.
use std::{os::fd::OwnedFd, time::Duration};
use crate::{ObjectId, ObjectRef, Result};

/// A process's attachment to the store of its node. Cheap to clone; works on any executor.
#[derive(Debug, Clone)]
pub struct StoreClient { _private: () }
impl StoreClient {
    /// Attaches over the socket inherited from the agent; waits (blocking, at most 10 s) for the agent's welcome.
    pub fn attach(_socket: OwnedFd) -> Result<StoreClient> { todo!() }
    /// Name of the node.
    pub fn node(&self) -> &str { todo!() }
    /// This process's incarnation, as the agent named it.
    pub fn holder(&self) -> u64 { todo!() }
    /// Makes room for `len` bytes; waits in turn, at most 60 s.
    pub async fn create(&self, len: usize) -> Result<ObjectWriter> { self.create_within(len, Duration::from_secs(60)).await }
    /// As [`create`](Self::create), with the longest wait stated.
    pub async fn create_within(&self, _len: usize, _wait: Duration) -> Result<ObjectWriter> { todo!() }
    /// Creates, copies, seals.
    pub async fn put(&self, _bytes: &[u8]) -> Result<Object> { todo!() }
    /// Takes a lease of its own on what the reference names, fetched from its node where needed.
    pub async fn open(&self, _reference: &ObjectRef) -> Result<Object> { todo!() }
    /// Takes back a reference that will not be delivered.
    pub fn revoke(&self, _reference: &ObjectRef) { todo!() }
}
/// An object being made: writable memory, page-aligned. Dropped unsealed, it is gone.
#[derive(Debug)]
pub struct ObjectWriter { _private: () }
impl ObjectWriter {
    /// Makes the object immutable and readable by others.
    pub async fn seal(self) -> Result<Object> { todo!() }
}
impl std::ops::Deref for ObjectWriter { type Target = [u8]; fn deref(&self) -> &[u8] { todo!() } }
impl std::ops::DerefMut for ObjectWriter { fn deref_mut(&mut self) -> &mut [u8] { todo!() } }
/// A sealed object, mapped read-only: a lease, released with the last clone.
#[derive(Debug, Clone)]
pub struct Object { _private: () }
impl Object {
    /// Its name.
    pub fn id(&self) -> ObjectId { todo!() }
    /// A reference for one receiver, with a lease in transit.
    pub async fn share(&self) -> Result<ObjectRef> { todo!() }
    /// As [`share`](Self::share), for the process of that incarnation: its death frees the lease in transit.
    pub async fn share_with(&self, _receiver: u64) -> Result<ObjectRef> { todo!() }
}
impl std::ops::Deref for Object { type Target = [u8]; fn deref(&self) -> &[u8] { todo!() } }
impl AsRef<[u8]> for Object { fn as_ref(&self) -> &[u8] { self } }
