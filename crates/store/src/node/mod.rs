//! The agent's side: the store itself.

mod attachment;
mod core;
mod fetch;
mod peers;
mod regions;
mod serve;
mod service;
mod spill;
mod uploads;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lyceum_wire::{BulkReceiver, BulkSender};

use self::core::Core;
pub use self::peers::{PeerError, PeerFuture, StorePeers};
use crate::error::{Result, StoreError};
use crate::memory::page_size;
use crate::object::Receiver;
#[cfg(test)]
pub(crate) use peers::Wish;

const MIB: u64 = 1 << 20;

/// Segments are of at most this many bytes unless the options say otherwise.
const DEFAULT_SEGMENT_BYTES: u64 = 4096 * MIB;

/// The longest name of a node, in bytes.
const LONGEST_NODE_NAME: usize = 255;

/// When leases in transit end that nobody claimed.
///
/// One ends at once when it is claimed, when the sender takes it back, and when the receiver it was made for has ended.
/// These are the rules for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransitRules {
    /// After this long without a claim while nothing is known to be wrong. Raise it where messages wait longer than
    /// that between being sent and being opened.
    pub unclaimed: Duration,
    /// After this long once the sender has ended, or once a fetch broke off (its agent may try again).
    pub orphaned: Duration,
}

impl Default for TransitRules {
    fn default() -> Self {
        TransitRules { unclaimed: Duration::from_secs(600), orphaned: Duration::from_secs(10) }
    }
}

/// Where a [`NodeStore`] keeps what it has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillOptions {
    /// A folder for this store alone, on a disk. What another has left there is deleted; it is gone when the store ends.
    pub folder: PathBuf,
    /// Most bytes of objects in it.
    pub bytes: u64,
}

/// Settings of a [`NodeStore`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Name of the node, at most 255 bytes.
    pub node: String,
    /// A number that no other start of a store in this cluster has or had: it makes object names unique.
    pub incarnation: u64,
    /// Bytes of all segments together. This memory is given to the store for its life.
    pub capacity_bytes: u64,
    /// Bytes of one segment, which is also the largest object. The last segment may be smaller.
    pub segment_bytes: u64,
    /// Fault all pages in ahead of use, on a thread in the background. Without it the first writer of each page pays
    /// (1.0-1.3 GB/s against about 10).
    pub prefault: bool,
    /// When leases in transit end that nobody claimed.
    pub transit: TransitRules,
    /// Where objects that nobody has open go when there is no room.
    pub spill: Option<SpillOptions>,
    /// Connecting to a peer, or a fetch from it, that makes no progress for this long has failed (L3).
    pub stall: Duration,
}

impl StoreOptions {
    /// Defaults: segments of 4 GiB or the capacity, pre-faulted; [`TransitRules::default`]; nothing goes to disk; a stall
    /// of 10 s.
    pub fn new(node: &str, incarnation: u64, capacity_bytes: u64) -> StoreOptions {
        StoreOptions {
            node: node.to_owned(),
            incarnation,
            capacity_bytes,
            segment_bytes: capacity_bytes.min(DEFAULT_SEGMENT_BYTES),
            prefault: true,
            transit: TransitRules::default(),
            spill: None,
            stall: Duration::from_secs(10),
        }
    }

    /// The bytes of each segment.
    fn segments(&self) -> Result<Vec<u64>> {
        let page = page_size() as u64;
        let name = self.node.len();
        if name == 0 || name > LONGEST_NODE_NAME {
            return Err(StoreError::Invalid(format!(
                "a node's name takes {name} bytes and may take 1 to {LONGEST_NODE_NAME}"
            )));
        }
        let (capacity, segment) = (self.capacity_bytes / page * page, self.segment_bytes / page * page);
        if segment == 0 || segment > capacity {
            return Err(StoreError::Invalid(format!(
                "a store of {} bytes in segments of {} bytes: capacity_bytes must be at least segment_bytes, and that \
                 at least a page of {page} bytes",
                self.capacity_bytes, self.segment_bytes
            )));
        }
        let count = capacity.div_ceil(segment);
        if count > 4096 {
            return Err(StoreError::Invalid(format!(
                "a store of {count} segments: raise segment_bytes ({}) so that there are at most 4096",
                self.segment_bytes
            )));
        }
        Ok((0..count).map(|i| segment.min(capacity - i * segment)).collect())
    }
}

/// What is in a store at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes the store has.
    pub capacity_bytes: u64,
    /// Bytes in use, whole pages.
    pub bytes_in_use: u64,
    /// Bytes that processes keep for their next messages, and that are theirs for as long as nobody waits for room.
    pub bytes_kept: u64,
    /// Bytes of objects on disk, whole pages.
    pub bytes_on_disk: u64,
    /// Objects: being written, on their way here, or sealed, in memory or on disk.
    pub objects: u64,
    /// Leases of this node's processes: what they have open.
    pub leases: u64,
    /// Leases in transit.
    pub in_transit: u64,
    /// Requests that wait for room.
    pub waiting: u64,
}

/// The object store of a node. It lives in the node's agent; when the agent ends, however, the kernel frees all of its
/// memory as soon as the last process that maps it has ended too.
///
/// Cheap to clone. The last clone ends the store: attached processes see [`StoreError::AgentLost`], objects that they
/// have open stay readable.
#[derive(Debug, Clone)]
pub struct NodeStore {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    core: Arc<Core>,
}

impl NodeStore {
    /// Makes the segments and starts the thread that serves this node's processes.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for options that cannot be, [`StoreError::System`] when the memory or the thread cannot
    /// be had.
    pub fn new(options: StoreOptions) -> Result<NodeStore> {
        let segments = options.segments()?;
        let prefault = options.prefault;
        let core = Arc::new(Core::new(options, &segments)?);
        // From here on dropping `running` ends the threads.
        let running = Running { core: core.clone() };
        service::start(core.clone())?;
        core.start_spilling()?;
        if prefault {
            service::start_prefault(core)?;
        }
        Ok(NodeStore { running: Arc::new(running) })
    }

    /// Serves the process `holder` (its incarnation) over the agent's end of its [socket pair](crate::socket_pair),
    /// until the process ends: end-of-file on the socket frees all that it held. The agent must keep no copy of the
    /// process's own end.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when that process is attached already.
    pub fn attach(&self, holder: u64, socket: OwnedFd) -> Result<()> {
        self.running.core.attach(holder, socket)
    }

    /// Frees what the process of this node held and what was in transit to it. To be called once the process *has ended*:
    /// its memory may be given to others at once. Calling it for an unknown process does nothing.
    pub fn release_holder(&self, holder: u64) {
        self.running.core.release_holder(holder);
    }

    /// Frees what was in transit to a process of another node, which has ended.
    pub fn release_receiver(&self, receiver: Receiver) {
        self.running.core.release_receiver(receiver);
    }

    /// Says how other nodes are reached. Fetches run on the tokio runtime in which this is called; a large object comes over
    /// as many connections as that has worker threads, four at most.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] outside of a runtime, or the second time.
    pub fn set_peers(&self, peers: Arc<dyn StorePeers>) -> Result<()> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| {
            StoreError::Invalid(format!("set_peers must be called within a tokio runtime: {e}"))
        })?;
        self.running.core.set_peers(peers, runtime)
    }

    /// Whether a bulk stream that begins with this header is for [`serve_bulk`](Self::serve_bulk).
    pub fn is_store_stream(header: &[u8]) -> bool {
        peers::Wish::is_ours(header)
    }

    /// Answers a bulk stream that the agent of node `peer` opened. Call it, as a task, only for connections whose
    /// certificate says that the peer is an agent, and of which node (L6). A stream that asks for anything odd is
    /// refused and logged.
    pub async fn serve_bulk(&self, peer: &str, header: Bytes, sender: BulkSender, receiver: BulkReceiver) {
        let core = self.running.core.clone();
        if let Err(reason) = serve::serve(core, peer, &header, sender, receiver).await {
            tracing::debug!(%reason, "serving an object to a peer broke off");
        }
    }

    /// What is in the store now.
    pub fn usage(&self) -> Usage {
        self.running.core.usage()
    }

    /// Objects that were sent to other nodes since the store began.
    pub fn uploaded(&self) -> u64 {
        self.running.core.uploads.ended()
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.running.core.options.node
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.core.stop();
    }
}
