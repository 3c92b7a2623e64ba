//! The thread that owns a rank's NCCL communicator: it joins, launches, watches and ends it.
//!
//! NCCL knows no timeout and no membership, so nothing is left to it that the host's plane can do:
//! - an operation is launched only when **every rank has announced the same one** in host memory or over QUIC. A rank
//!   that is late, gone, or elsewhere in its program is named there, and no kernel spins for it;
//! - while operations are under way, NCCL and the stream are asked every [`TICK`] whether they have failed, and the
//!   epoch whether it has: then the communicator is aborted, once, here, and its kernels end.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use cudarc::nccl::sys::ncclUniqueId;

use super::comm::{Comm, Span, Trouble};
use super::device::{CudaDevice, Event, Stream};
use super::library::NcclLibrary;
use crate::epoch::{Epoch, Plane};
use crate::worker::Guard;
use crate::{CollectiveError, Keeper, Operation};

/// How soon a failure is noticed while operations are under way.
const TICK: Duration = Duration::from_millis(25);

/// How long the ranks may take to leave a communicator in good order.
const FAREWELL: Duration = Duration::from_secs(5);

/// An operation to launch.
pub(super) struct Job {
    /// Its number on the host's plane, where it is announced.
    pub(super) ticket: u64,
    pub(super) operation: Operation,
    pub(super) span: Span,
    /// Keeps the device's memory until the operation is over.
    pub(super) keeper: Keeper,
    /// Everything that the buffer's owner put on the default stream before.
    pub(super) ready: Event,
}

/// What the owner of a rank's communicator needs.
pub(super) struct Owner {
    pub(super) epoch: Arc<Epoch>,
    pub(super) library: Arc<NcclLibrary>,
    pub(super) device: Arc<CudaDevice>,
    pub(super) id: ncclUniqueId,
    pub(super) world_size: usize,
    /// When every rank must have joined.
    pub(super) deadline: Instant,
}

/// A joined communicator and what is under way on it.
struct Joined {
    epoch: Arc<Epoch>,
    comm: Comm,
    stream: Stream,
    /// Launched and perhaps not done: number, and what keeps the memory.
    under_way: VecDeque<(u64, Keeper)>,
}

impl Owner {
    /// Joins, reports how that went, then carries jobs out until their sender is gone or the epoch has failed.
    pub(super) fn run(self, jobs: Receiver<Job>, joined: mpsc::SyncSender<Result<(), CollectiveError>>) {
        let _guard = Guard::new(Arc::clone(&self.epoch));
        let epoch = Arc::clone(&self.epoch);
        let mut owned = match self.join() {
            Ok(owned) => owned,
            // The former waits for this.
            Err(error) => return drop(joined.send(Err(epoch.fail(error)))),
        };
        let _ = joined.send(Ok(()));
        if let Err(error) = owned.serve(&jobs) {
            epoch.fail(error);
        }
        owned.end();
    }

    fn join(self) -> Result<Joined, CollectiveError> {
        let Self { epoch, library, device, id, world_size, deadline } = self;
        let began = Instant::now();
        let stream = Stream::new(device).map_err(|reason| unavailable(&epoch, "open its stream", reason))?;
        let alive = || {
            epoch.alive()?;
            if Instant::now() < deadline {
                return Ok(());
            }
            let (rank, epoch, waited) = (epoch.rank, epoch.number, began.elapsed());
            Err(CollectiveError::Deadline { rank, epoch, operation: "joining of NCCL".into(), waited })
        };
        let comm = Comm::join(library, id, (epoch.rank, world_size), &alive)
            .map_err(|trouble| explain(trouble, &epoch, "join its gang over NCCL"))?;
        Ok(Joined { epoch, comm, stream, under_way: VecDeque::new() })
    }
}

impl Joined {
    fn serve(&mut self, jobs: &Receiver<Job>) -> Result<(), CollectiveError> {
        let mut open = true;
        while open || !self.under_way.is_empty() {
            let next = match (open, self.under_way.is_empty()) {
                (true, true) => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (true, false) => jobs.recv_timeout(TICK),
                (false, _) => {
                    std::thread::sleep(TICK);
                    Err(RecvTimeoutError::Timeout)
                }
            };
            match next {
                Ok(job) => self.launch(job)?,
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            self.forget_what_is_done();
        }
        Ok(())
    }

    fn launch(&mut self, job: Job) -> Result<(), CollectiveError> {
        while !self.epoch.is_done_within(Plane::Host, job.ticket, TICK)? {
            self.check()?;
        }
        self.epoch.alive()?;
        let what = || format!("launch the {}", job.operation);
        let epoch = Arc::clone(&self.epoch);
        let of_driver = |reason| unavailable(&epoch, &what(), reason);
        self.stream.wait_for(&job.ready).map_err(of_driver)?;
        // From here on the device may be at it, whatever comes of the call.
        self.under_way.push_back((job.ticket, job.keeper));
        self.comm
            .enqueue(job.operation, job.span, &self.stream, &|| epoch.alive())
            .map_err(|trouble| explain(trouble, &epoch, &what()))?;
        let (finished, ticket) = (Arc::clone(&self.epoch), job.ticket);
        self.stream.then(move || finished.finished(Plane::Device, ticket)).map_err(of_driver)
    }

    fn check(&self) -> Result<(), CollectiveError> {
        self.epoch.alive()?;
        let what = "carry out its operations";
        self.comm.check().map_err(|error| unavailable(&self.epoch, what, error.to_string()))?;
        self.stream.check().map_err(|reason| unavailable(&self.epoch, what, reason))
    }

    fn forget_what_is_done(&mut self) {
        while let Some((ticket, _)) = self.under_way.front()
            && self.epoch.is_finished(Plane::Device, *ticket)
        {
            self.under_way.pop_front();
        }
    }

    /// Leaves where all is well, else aborts; only then is memory let go that operations were under way on.
    fn end(self) {
        let Self { epoch, comm, stream, under_way } = self;
        if epoch.alive().is_ok() {
            let began = Instant::now();
            let patience = || {
                epoch.alive()?;
                let (rank, waited) = (epoch.rank, began.elapsed());
                let operation = String::from("leaving of NCCL");
                let late = CollectiveError::Deadline { rank, epoch: epoch.number, operation, waited };
                if waited < FAREWELL { Ok(()) } else { Err(late) }
            };
            if let Err(trouble) = comm.leave(&patience) {
                let error = explain(trouble, &epoch, "leave its gang over NCCL");
                tracing::warn!(%error, "an NCCL communicator was aborted where it should have been left");
            }
        } else {
            // Aborts.
            drop(comm);
        }
        drop((under_way, stream));
    }
}

/// NCCL's or the driver's failure, seen by this rank.
pub(super) fn unavailable(epoch: &Epoch, what: &str, reason: String) -> CollectiveError {
    CollectiveError::Unavailable { rank: epoch.rank, what: what.into(), reason }
}

fn explain(trouble: Trouble, epoch: &Epoch, what: &str) -> CollectiveError {
    match trouble {
        Trouble::Nccl(error) => unavailable(epoch, what, error.to_string()),
        Trouble::Epoch(error) => error,
    }
}
