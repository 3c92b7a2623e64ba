//! The communicator of ranks on CUDA devices.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cudarc::nccl::sys::ncclUniqueId;

use super::comm::Span;
use super::device::{CudaDevice, Event};
use super::library::NcclLibrary;
use super::owner::{Job, Owner, unavailable};
use crate::epoch::{Epoch, Plane};
use crate::host::HostCommunicator;
use crate::{AbortHandle, Allocator, Buffer, CollectiveError, Communicator, Location, Operation, Pending};

/// Above what joining and leaving take by their own deadlines, before the owner's thread is left to itself.
const GRACE: Duration = Duration::from_secs(10);

/// One rank of a gang on CUDA devices. Made by [`form`](crate::form). The module's page says how it works.
pub struct NcclCommunicator {
    ordinal: usize,
    device: Arc<CudaDevice>,
    allocator: Allocator,
    /// The last operation's number.
    started: u64,
    jobs: Option<mpsc::Sender<Job>>,
    owner: Option<JoinHandle<()>>,
    /// Disconnected when the owner's thread is at its end.
    ended: mpsc::Receiver<()>,
    /// The same ranks in host memory: dropped after the owner has gone.
    host: HostCommunicator,
}

impl NcclCommunicator {
    /// Brings the ranks of `host`, each on a device of its own, together over NCCL too. `allocator` gives memory on this
    /// rank's device, the one with the number `ordinal`.
    pub(crate) fn form(
        mut host: HostCommunicator,
        ordinal: usize,
        allocator: Allocator,
        deadline: Instant,
    ) -> Result<Self, CollectiveError> {
        let epoch = Arc::clone(host.shared());
        let formed = Self::prepare(&mut host, ordinal, deadline);
        // Whoever cannot is named to all the others at once.
        let (library, device, id) = formed.map_err(|error| epoch.fail(error))?;
        let owner = Owner {
            epoch: Arc::clone(&epoch),
            library,
            device: Arc::clone(&device),
            id,
            world_size: host.world_size(),
            deadline,
        };
        let (jobs, queue) = mpsc::channel();
        let (report, joined) = mpsc::sync_channel(1);
        let (alive, ended) = mpsc::sync_channel(0);
        let run = move || {
            let _alive: mpsc::SyncSender<()> = alive;
            owner.run(queue, report);
        };
        let thread = std::thread::Builder::new().name("lyceum-coll-nccl".into()).spawn(run);
        let thread = thread
            .map_err(|error| epoch.fail(unavailable(&epoch, "start its NCCL thread", error.to_string())))?;
        let communicator = Self {
            ordinal,
            device,
            allocator,
            started: 0,
            jobs: Some(jobs),
            owner: Some(thread),
            ended,
            host,
        };
        let patience = deadline.saturating_duration_since(Instant::now()) + GRACE;
        match joined.recv_timeout(patience) {
            Ok(outcome) => outcome.map(|()| communicator),
            Err(_) => {
                let reason = format!("NCCL has not answered for {} s", patience.as_secs());
                Err(epoch.fail(unavailable(&epoch, "join its gang over NCCL", reason)))
            }
        }
    }

    /// The library, the device, and the id that the first rank makes and the host's plane carries: inside TLS between
    /// hosts, in the gang's own memory within one (L6).
    fn prepare(
        host: &mut HostCommunicator,
        ordinal: usize,
        deadline: Instant,
    ) -> Result<(Arc<NcclLibrary>, Arc<CudaDevice>, ncclUniqueId), CollectiveError> {
        let epoch = Arc::clone(host.shared());
        let failed = |what: &str, reason: String| unavailable(&epoch, what, reason);
        let library = NcclLibrary::find().map_err(|error| failed("load NCCL", error.to_string()))?;
        let device = CudaDevice::open(ordinal)
            .and_then(|device| device.bind().map(|()| device))
            .map_err(|reason| failed(&format!("open CUDA device {ordinal}"), reason))?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        let mut buffer = host.allocate(id.internal.len())?;
        if host.rank() == 0 {
            id = library.unique_id().map_err(|error| failed("make NCCL's id", error.to_string()))?;
            let bytes = buffer.as_mut_slice::<u8>();
            bytes.iter_mut().zip(id.internal).for_each(|(byte, value)| *byte = value as u8);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut buffer = host.run(Operation::Broadcast { root: 0 }, buffer, left)?;
        let bytes = buffer.as_mut_slice::<u8>();
        id.internal.iter_mut().zip(&*bytes).for_each(|(value, byte)| *value = *byte as _);
        // It is a secret, and the host's memory outlives its use.
        bytes.fill(0);
        tracing::info!(rank = host.rank(), ?library, ordinal, "a rank goes over NCCL");
        Ok((Arc::new(library), device, id))
    }

    fn shared(&self) -> &Arc<Epoch> {
        self.host.shared()
    }
}

impl Communicator for NcclCommunicator {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn world_size(&self) -> usize {
        self.host.world_size()
    }

    fn epoch(&self) -> u64 {
        self.host.epoch()
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer, CollectiveError> {
        self.shared().alive()?;
        (self.allocator)(bytes).map_err(|reason| {
            unavailable(
                self.shared(),
                &format!("allocate {bytes} bytes on CUDA device {}", self.ordinal),
                reason,
            )
        })
    }

    fn start(&mut self, operation: Operation, buffer: Buffer) -> Result<Pending, CollectiveError> {
        self.shared().alive()?;
        operation.check(self.rank(), self.world_size(), buffer.len())?;
        operation.check_location(self.rank(), buffer.location(), Location::Cuda(self.ordinal))?;
        let ready = Event::of_default_stream(&self.device)
            .map_err(|reason| unavailable(self.shared(), &format!("start the {operation}"), reason))?;
        let ticket = self.host.announce(operation, buffer.len());
        self.started = ticket;
        let span = Span { address: buffer.as_ptr().addr(), bytes: buffer.len() };
        if let Some(jobs) = &self.jobs {
            // An owner that has ended has failed the epoch; the wait will say so.
            let _ = jobs.send(Job { ticket, operation, span, keeper: buffer.keeper(), ready });
        }
        Ok(Pending::new(operation, ticket, buffer))
    }

    fn wait(&mut self, pending: Pending, timeout: Duration) -> Result<Buffer, CollectiveError> {
        let what = pending.operation().to_string();
        self.shared().wait(Plane::Device, pending.ticket(), &what, timeout)?;
        Ok(pending.into_buffer())
    }

    fn barrier(&mut self, timeout: Duration) -> Result<(), CollectiveError> {
        let began = Instant::now();
        self.shared().wait(Plane::Device, self.started, "barrier", timeout)?;
        self.host.barrier(timeout.saturating_sub(began.elapsed()))
    }

    fn abort_handle(&self) -> AbortHandle {
        self.host.abort_handle()
    }
}

impl Drop for NcclCommunicator {
    fn drop(&mut self) {
        let epoch = self.shared();
        if epoch.alive().is_ok() && !epoch.is_finished(Plane::Device, self.started) {
            epoch.leave_under_way();
        }
        self.jobs = None;
        if self.ended.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
            // NCCL hangs in its own abort: the memory that it may still write to stays with that thread.
            tracing::error!(rank = self.rank(), "NCCL does not end: its thread is left behind");
        } else if let Some(owner) = self.owner.take() {
            // One that panicked has failed the epoch already.
            let _ = owner.join();
        }
    }
}

impl fmt::Debug for NcclCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch { rank, number, .. } = **self.shared();
        write!(f, "NcclCommunicator(rank {rank} of {}, epoch {number})", self.world_size())
    }
}
