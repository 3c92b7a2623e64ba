//! The communicator of ranks in host memory: shared within a host, QUIC between hosts.
//!
//! Each rank has a worker thread that carries operations out in the order of their starts, while the caller computes.
//! Within a host the ranks share the work: each sums (or copies) its own part, straight in the buffers. Between hosts
//! the first rank of each, its *leader*, passes running sums along the [`Chain`] of hosts.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::chain::Chain;
use crate::epoch::{Epoch, Plane};
use crate::shared::{Descriptor, Region, Segment};
use crate::worker::{Job, Worker};
use crate::{AbortHandle, Buffer, CollectiveError, Communicator, Location, Operation, Pending};

/// One rank of a gang in host memory. Made by [`form`](crate::form).
pub struct HostCommunicator {
    epoch: Arc<Epoch>,
    world_size: usize,
    segment: Segment,
    /// By the address of this rank's buffer. Kept for the epoch: peers read and write there.
    regions: HashMap<usize, Region>,
    started: u64,
    jobs: Option<mpsc::Sender<Job>>,
    worker: Option<JoinHandle<()>>,
}

impl HostCommunicator {
    pub(crate) fn new(
        epoch: Arc<Epoch>,
        segment: Segment,
        groups: Vec<std::ops::Range<usize>>,
        chain: Option<Chain>,
    ) -> Result<Self, CollectiveError> {
        let (jobs, queue) = mpsc::channel();
        let world_size = groups.last().map_or(0, |group| group.end);
        let worker = Worker { epoch: epoch.clone(), groups, chain };
        let thread = std::thread::Builder::new().name("lyceum-coll-work".into());
        let worker =
            thread.spawn(move || worker.run(queue)).map_err(|error| CollectiveError::Unavailable {
                rank: epoch.rank,
                what: "start its worker".into(),
                reason: error.to_string(),
            })?;
        let (regions, worker) = (HashMap::new(), Some(worker));
        Ok(Self { epoch, world_size, segment, regions, started: 0, jobs: Some(jobs), worker })
    }

    /// What the threads of this rank share.
    pub(crate) fn shared(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// Tells the other ranks that this one has come to `operation` on `bytes` bytes that lie elsewhere. The number that
    /// is given is done on the host's plane once all have come to the same.
    pub(crate) fn announce(&mut self, operation: Operation, bytes: usize) -> u64 {
        self.enqueue(Some(operation), None, bytes)
    }

    /// Hands the worker its next operation.
    fn enqueue(&mut self, operation: Option<Operation>, region: Option<Region>, bytes: usize) -> u64 {
        self.started += 1;
        let place = region.as_ref().map_or(0, Region::place);
        let descriptor = Descriptor { operation, bytes: bytes as u64, place };
        if let Some(jobs) = &self.jobs {
            // A worker that has ended has failed the epoch; the wait will say so.
            let _ = jobs.send(Job { ticket: self.started, descriptor, region });
        }
        self.started
    }
}

impl Communicator for HostCommunicator {
    fn rank(&self) -> usize {
        self.epoch.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn epoch(&self) -> u64 {
        self.epoch.number
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer, CollectiveError> {
        self.epoch.alive()?;
        let region = self.segment.allocate(bytes, self.epoch.group.len()).map_err(|error| {
            let what = format!("allocate {bytes} bytes");
            CollectiveError::Unavailable { rank: self.epoch.rank, what, reason: error.to_string() }
        })?;
        let buffer = region.buffer(self.epoch.local());
        self.regions.insert(buffer.as_ptr().addr(), region);
        Ok(buffer)
    }

    fn start(&mut self, operation: Operation, buffer: Buffer) -> Result<Pending, CollectiveError> {
        self.epoch.alive()?;
        operation.check(self.epoch.rank, self.world_size, buffer.len())?;
        operation.check_location(self.epoch.rank, buffer.location(), Location::Host)?;
        let region = self.regions.get(&buffer.as_ptr().addr()).cloned();
        let ours = region.as_ref().is_some_and(|region| region.holds(&buffer, self.epoch.local()));
        if !ours {
            let (rank, what) = (self.epoch.rank, format!("start the {operation}"));
            let reason = "the buffer was not allocated by this communicator".into();
            return Err(CollectiveError::Unavailable { rank, what, reason });
        }
        let ticket = self.enqueue(Some(operation), region, buffer.len());
        Ok(Pending::new(operation, ticket, buffer))
    }

    fn wait(&mut self, pending: Pending, timeout: Duration) -> Result<Buffer, CollectiveError> {
        self.epoch.wait(Plane::Host, pending.ticket(), &pending.operation().to_string(), timeout)?;
        Ok(pending.into_buffer())
    }

    fn barrier(&mut self, timeout: Duration) -> Result<(), CollectiveError> {
        self.epoch.alive()?;
        let ticket = self.enqueue(None, None, 0);
        self.epoch.wait(Plane::Host, ticket, "barrier", timeout)
    }

    fn abort_handle(&self) -> AbortHandle {
        let epoch = Arc::clone(&self.epoch);
        AbortHandle::new(move |reason| {
            let (rank, number) = (epoch.rank, epoch.number);
            epoch.fail(CollectiveError::Aborted { rank, epoch: number, reason: reason.to_owned() });
        })
    }
}

impl Drop for HostCommunicator {
    fn drop(&mut self) {
        if self.epoch.alive().is_ok() && !self.epoch.is_finished(Plane::Host, self.started) {
            self.epoch.leave_under_way();
        }
        self.epoch.leave();
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has broken the epoch already.
            let _ = worker.join();
        }
        self.epoch.close();
    }
}

impl fmt::Debug for HostCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch { rank, number, .. } = *self.epoch;
        write!(f, "HostCommunicator(rank {rank} of {}, epoch {number})", self.world_size)
    }
}
