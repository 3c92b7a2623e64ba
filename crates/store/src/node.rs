//! API shape; bodies follow within the hour.
use std::{os::fd::OwnedFd, time::Duration};
use crate::Result;

/// When leases in transit end that nobody claimed.
#[derive(Debug, Clone, Copy)]
pub struct TransitRules {
    /// After this long without a claim, while nothing is known to be wrong.
    pub unclaimed: Duration,
    /// After this long once the sender died or a fetch broke off.
    pub orphaned: Duration,
}
/// Settings of a [`NodeStore`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Name of the node.
    pub node: String,
    /// Unique in the cluster for each start of this store.
    pub incarnation: u64,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes of one segment, which is also the largest object.
    pub segment_bytes: u64,
    /// Fault the pages in ahead of use, in the background.
    pub prefault: bool,
    /// When leases in transit end that nobody claimed.
    pub transit: TransitRules,
    /// A fetch without a byte of progress for this long has failed.
    pub fetch_stall: Duration,
}
impl StoreOptions {
    /// Defaults: one segment (at most 4 GiB each), prefault, 10 min and 10 s in transit, 10 s stall.
    pub fn new(_node: &str, _incarnation: u64, _capacity_bytes: u64) -> StoreOptions { todo!() }
}
/// What is in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes the store has.
    pub capacity_bytes: u64,
    /// Bytes in use, whole pages.
    pub bytes_in_use: u64,
    /// Objects, sealed or not.
    pub objects: u64,
    /// Leases of processes.
    pub leases: u64,
    /// Leases in transit.
    pub in_transit: u64,
    /// Requests that wait for room.
    pub waiting: u64,
}
/// A node's store: lives in the node's agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeStore { _private: () }
impl NodeStore {
    /// Makes the segments.
    pub fn new(_options: StoreOptions) -> Result<NodeStore> { todo!() }
    /// Serves the process `holder` (its incarnation) over `socket`, until that ends.
    pub fn attach(&self, _holder: u64, _socket: OwnedFd) -> Result<()> { todo!() }
    /// Frees what the process, which has ended, held; also what was in transit to it. Local or remote.
    pub fn release_holder(&self, _holder: u64) { todo!() }
    /// What is in the store now.
    pub fn usage(&self) -> Usage { todo!() }
}
/// The socket pair between an agent and a process: both close-on-exec, first for [`NodeStore::attach`].
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> { todo!() }
