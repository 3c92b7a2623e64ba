//! One rank's share in an epoch: how it stands, and how all of it ends at once.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::CollectiveError;
use crate::chain::Closer;
use crate::shared::{ControlPage, Seen, Watch};

/// Where operations are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    /// In host memory: by the worker.
    Host,
    /// On a CUDA device: by NCCL, once the host's plane has done the operation's announcement of the same number.
    Device,
}

/// What the caller, the worker, the watcher and the abort handles of one rank share.
pub(crate) struct Epoch {
    pub(crate) number: u64,
    pub(crate) rank: usize,
    /// The ranks of this host.
    pub(crate) group: Range<usize>,
    pub(crate) control: ControlPage,
    /// The first failure that this rank knows of.
    failure: OnceLock<CollectiveError>,
    /// The last operation that is done, of each plane.
    done: Mutex<Done>,
    progress: Condvar,
    watch: OnceLock<Watch>,
    /// The leader's connections to other hosts.
    closer: OnceLock<Closer>,
}

#[derive(Default)]
struct Done {
    host: u64,
    device: u64,
}

impl Done {
    fn of(&mut self, plane: Plane) -> &mut u64 {
        match plane {
            Plane::Host => &mut self.host,
            Plane::Device => &mut self.device,
        }
    }
}

impl Epoch {
    pub(crate) fn new(number: u64, rank: usize, group: Range<usize>, control: ControlPage) -> Arc<Self> {
        Arc::new(Self {
            number,
            rank,
            group,
            control,
            failure: OnceLock::new(),
            done: Mutex::default(),
            progress: Condvar::new(),
            watch: OnceLock::new(),
            closer: OnceLock::new(),
        })
    }

    /// This rank's number on its host.
    pub(crate) fn local(&self) -> usize {
        self.rank - self.group.start
    }

    /// Whether this rank speaks with the other hosts.
    pub(crate) fn leads(&self) -> bool {
        self.local() == 0
    }

    /// Begins to watch this host's peers.
    pub(crate) fn watch(
        self: &Arc<Self>,
        peers: Vec<(usize, std::os::unix::net::UnixStream)>,
    ) -> std::io::Result<()> {
        let epoch = Arc::downgrade(self);
        let watch = Watch::start(peers, move |seen| {
            let Some(epoch) = epoch.upgrade() else { return };
            match seen {
                Seen::Gone(rank) if epoch.control.has_left(rank - epoch.group.start) => {}
                Seen::Gone(rank) => {
                    let reason = "its process has ended".into();
                    epoch.fail(CollectiveError::Lost { rank, epoch: epoch.number, reason });
                }
                Seen::Failure => epoch.spread(),
            }
        })?;
        // Set once, here.
        let _ = self.watch.set(watch);
        Ok(())
    }

    /// The connections to close when the epoch fails.
    pub(crate) fn set_closer(&self, closer: Closer) {
        // Set once, when the gang is formed.
        let _ = self.closer.set(closer);
    }

    /// Ends the epoch for all ranks, and says how it ended: by `error`, or by what came before it.
    pub(crate) fn fail(&self, error: CollectiveError) -> CollectiveError {
        if self.failure.get().is_none() && self.control.failure().is_none() {
            // Another thread of this rank may be first by a hair; one of the two stands.
            let _ = self.failure.set(error.clone());
        }
        self.control.fail(&error, self.rank);
        self.spread();
        self.failure().unwrap_or(error)
    }

    /// Carries a failure that this host knows of to everybody who does not.
    pub(crate) fn spread(&self) {
        let Some(failure) = self.failure() else { return };
        if let Some(closer) = self.closer.get() {
            closer.close(&failure, self.rank);
        }
        if let Some(watch) = self.watch.get() {
            watch.tell();
        }
        self.control.ring();
        drop(self.lock());
        self.progress.notify_all();
    }

    /// The first failure of the epoch that this rank knows of.
    pub(crate) fn failure(&self) -> Option<CollectiveError> {
        if let Some(failure) = self.failure.get() {
            return Some(failure.clone());
        }
        let failure = self.control.failure()?;
        Some(self.failure.get_or_init(|| failure).clone())
    }

    /// # Errors
    /// The first failure, once there is one.
    pub(crate) fn alive(&self) -> Result<(), CollectiveError> {
        self.failure().map_or(Ok(()), Err)
    }

    /// The operation `ticket` is done on `plane`.
    pub(crate) fn finished(&self, plane: Plane, ticket: u64) {
        *self.lock().of(plane) = ticket;
        self.progress.notify_all();
    }

    pub(crate) fn is_finished(&self, plane: Plane, ticket: u64) -> bool {
        *self.lock().of(plane) >= ticket
    }

    /// Sleeps until `ticket` is done on `plane`, at most for `timeout`; then the epoch fails.
    pub(crate) fn wait(
        &self,
        plane: Plane,
        ticket: u64,
        what: &str,
        timeout: Duration,
    ) -> Result<(), CollectiveError> {
        let began = Instant::now();
        if self.is_done_within(plane, ticket, timeout)? {
            return Ok(());
        }
        let (rank, waited) = (self.straggler(plane, ticket), began.elapsed());
        let (epoch, operation) = (self.number, what.to_owned());
        Err(self.fail(CollectiveError::Deadline { rank, epoch, operation, waited }))
    }

    /// Sleeps until `ticket` is done on `plane`, at most for `timeout`: whether it is.
    ///
    /// # Errors
    /// The first failure, once there is one.
    pub(crate) fn is_done_within(
        &self,
        plane: Plane,
        ticket: u64,
        timeout: Duration,
    ) -> Result<bool, CollectiveError> {
        let began = Instant::now();
        let mut done = self.lock();
        loop {
            // What is done is done, also when the epoch has ended since.
            if *done.of(plane) >= ticket {
                return Ok(true);
            }
            self.alive()?;
            let Some(left) = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                return Ok(false);
            };
            (done, _) = self.progress.wait_timeout(done, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// This rank goes while it has operations under way: the others must not wait.
    pub(crate) fn leave_under_way(&self) {
        let reason = "it left with operations under way".into();
        self.fail(CollectiveError::Aborted { rank: self.rank, epoch: self.number, reason });
    }

    /// This rank goes.
    pub(crate) fn leave(&self) {
        self.control.leave(self.local());
    }

    /// Stops watching and being watched.
    pub(crate) fn close(&self) {
        if let Some(watch) = self.watch.get() {
            watch.close();
        }
    }

    /// The lowest rank that holds `ticket` up, as far as this host can see; this one, where only its device is late.
    fn straggler(&self, plane: Plane, ticket: u64) -> usize {
        if plane == Plane::Device && self.is_finished(Plane::Host, ticket) {
            return self.rank;
        }
        let locals = || 0..self.group.len();
        let absent = locals().find(|local| !self.control.has_arrived(*local, ticket));
        let at_work = || locals().find(|local| !self.control.is_done(*local, ticket));
        absent
            .map(|local| self.group.start + local)
            .or_else(|| self.control.awaited())
            .or_else(|| at_work().map(|local| self.group.start + local))
            .unwrap_or(self.rank)
    }

    fn lock(&self) -> MutexGuard<'_, Done> {
        // Nothing panics while it is held.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
