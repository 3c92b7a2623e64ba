//! The shared-memory object store of a node.
//!
//! Large things travel between processes as *objects*: bytes that one process writes in place, seals, and that others
//! map read-only. On one node nothing is copied; from another node an object comes once, from the decrypted stream
//! straight into the local store (invariant L4).
//!
//! **Memory.** The agent of a node owns a few large memfd segments, sealed against resize and faulted in ahead of use,
//! and cuts page-aligned extents out of them. A process maps a segment once. It has no name in any file
//! system: whatever crashes, the kernel frees it with the last process that maps it.
//!
//! **Leases.** An object lives as long as somebody has a lease on it. A process's leases are its open [`Object`]s; the
//! end of the process, seen as end-of-file on its socket, ends them all. A reference in a message is a *lease in
//! transit*: [`Object::share`] makes an [`ObjectRef`] with a ticket, and the sender's agent keeps its copy until the
//! receiver's agent has a lease of its own ([`StoreClient::open`]), by the [`TransitRules`] where nobody comes.
//!
//! **Regions.** What is sent to another process of the same node and is neither small nor huge need not be an object: a
//! process keeps a few places for it, writes one message after the other there, and nobody is asked on the way. They go
//! back to the store when somebody waits for room. See [`StoreClient::region`].
//!
//! **Bounds.** Capacity is fixed. [`StoreClient::create`] waits in turn for room, at most as long as it says, and an
//! object that can never fit is refused at once (L2). Objects in transit that nobody has open make room by going to disk
//! ([`SpillOptions`]) and come back when they are opened. A copy that is gone is [`StoreError::ObjectLost`], never a wait
//! without end (L3).
//!
//! **Spreading.** A node sends a large object to few others at a time and tells those who wait of a node that has it since,
//! so that one object reaches many nodes along a tree.
//!
//! The decisions are a pure state machine (`table`), the rest carries them out: [`NodeStore`] in the agent,
//! [`StoreClient`] in the other processes.
//!
//! ```
//! use lyceum_store::{NodeStore, Result, StoreClient, StoreOptions, socket_pair};
//!
//! # fn main() -> Result<()> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
//! // In the agent; the other end of the socket is inherited by a process, here this one.
//! let store = NodeStore::new(StoreOptions::new("n1", 1, 16 << 20))?;
//! let (agents_end, processes_end) = socket_pair()?;
//! store.attach(7, agents_end)?;
//!
//! // In the process, on any executor.
//! let client = StoreClient::attach(processes_end)?;
//! # runtime.block_on(async {
//! let mut writer = client.create(5).await?;
//! writer.copy_from_slice(b"hello");
//! let object = writer.seal().await?;
//!
//! let reference = object.share().await?; // goes into a message
//! let received = client.open(&reference).await?; // where the message arrives
//! assert_eq!(&received[..], b"hello");
//! # Ok(()) })
//! # }
//! ```

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod client;
mod error;
mod extents;
#[cfg(test)]
mod fuzz;
mod memory;
mod moment;
mod node;
mod object;
mod pool;
mod protocol;
mod region;
mod socket;
mod table;

pub use client::{Object, ObjectWriter, RegionBytes, RegionRef, RegionWriter, StoreClient};
pub use error::{Result, StoreError};
pub use moment::Moment;
pub use node::{
    NodeStore, PeerError, PeerFuture, SpillOptions, StoreOptions, StorePeers, TransitRules, Usage,
};
pub use object::{ObjectId, ObjectRef, Receiver};
pub use socket::socket_pair;
