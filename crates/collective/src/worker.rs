//! The thread that carries a rank's operations out, one after the other.

use std::ops::Range;
use std::sync::{Arc, mpsc};

use crate::chain::Chain;
use crate::epoch::{Epoch, Plane};
use crate::reduce::{Accumulator, BLOCK};
use crate::shared::{Descriptor, Region};
use crate::{CollectiveError, Element, Operation};

/// Shares of a buffer begin at multiples of this many elements: no two ranks write to one line of cache.
const SHARE_ALIGNMENT: usize = 64;

/// An operation to carry out.
pub(crate) struct Job {
    pub(crate) ticket: u64,
    pub(crate) descriptor: Descriptor,
    /// Where the buffers lie; a barrier, and an operation that is only announced, have none.
    pub(crate) region: Option<Region>,
}

/// The worker of one rank.
pub(crate) struct Worker {
    pub(crate) epoch: Arc<Epoch>,
    /// The ranks of each host.
    pub(crate) groups: Vec<Range<usize>>,
    /// The leader's, when there are several hosts.
    pub(crate) chain: Option<Chain>,
}

impl Worker {
    /// Works until the communicator is dropped or the epoch has failed.
    pub(crate) fn run(mut self, jobs: mpsc::Receiver<Job>) {
        // If the worker itself breaks, nobody may wait for it.
        let _guard = Guard::new(Arc::clone(&self.epoch));
        for job in jobs {
            match self.carry_out(&job) {
                Ok(()) => self.epoch.finished(Plane::Host, job.ticket),
                Err(error) => {
                    self.epoch.fail(error);
                    return;
                }
            }
        }
        if let Some(chain) = &mut self.chain {
            // Neighbours are to hear of a failure, where there was one, before the farewell.
            self.epoch.spread();
            chain.leave();
        }
    }

    fn carry_out(&mut self, job: &Job) -> Result<(), CollectiveError> {
        self.assemble(job)?;
        if self.groups.len() > 1 {
            if let Some(chain) = &mut self.chain {
                chain.relay(job, &self.epoch)?;
                self.epoch.control.set_relayed(job.ticket);
            } else {
                self.await_peers(0, |_| self.epoch.control.is_relayed(job.ticket))?;
            }
        }
        if let (Some(operation), Some(region)) = (job.descriptor.operation, &job.region) {
            self.in_memory(operation, region, job.descriptor.bytes as usize);
        }
        self.epoch.control.set_done(self.epoch.local(), job.ticket);
        for local in 0..self.epoch.group.len() {
            self.await_peers(local, |local| self.epoch.control.is_done(local, job.ticket))?;
        }
        Ok(())
    }

    /// Waits until every rank of this host has come to the same operation.
    fn assemble(&self, job: &Job) -> Result<(), CollectiveError> {
        let (control, words) = (&self.epoch.control, job.descriptor.to_words());
        control.arrive(self.epoch.local(), job.ticket, words);
        for local in 0..self.epoch.group.len() {
            self.await_peers(local, |local| control.has_arrived(local, job.ticket))?;
            let theirs = control.descriptor(local);
            if theirs != words {
                return Err(CollectiveError::Mismatch {
                    rank: self.epoch.group.start + local,
                    epoch: self.epoch.number,
                    ours: Descriptor::describe(words),
                    theirs: Descriptor::describe(theirs),
                });
            }
        }
        Ok(())
    }

    fn await_peers(&self, local: usize, ready: impl Fn(usize) -> bool) -> Result<(), CollectiveError> {
        let control = &self.epoch.control;
        control.wait_until(|| {
            if ready(local) {
                return Some(Ok(()));
            }
            // A last act before leaving counts.
            let gone = control.has_left(local) && !ready(local);
            let (rank, epoch) = (self.epoch.group.start + local, self.epoch.number);
            gone.then(|| Err(CollectiveError::Lost { rank, epoch, reason: "it has left the epoch".into() }))
        })?
    }

    /// What this rank does in the shared memory of its host: its own share of the work on one host, or taking over what
    /// the leader brought from the others.
    fn in_memory(&self, operation: Operation, region: &Region, bytes: usize) {
        let (local, locals, group) = (self.epoch.local(), self.epoch.group.len(), &self.epoch.group);
        let (alone, world) = (self.groups.len() == 1, self.groups.last().map_or(1, |group| group.end));
        let part = |rank: usize| (rank * (bytes / world), bytes / world);
        match operation {
            Operation::AllReduce(element) if alone => {
                let (from, len) = share(bytes, element, local, locals);
                sum(region, element, (from, len), locals, 0..locals);
            }
            Operation::ReduceScatter(element) if alone => {
                sum(region, element, part(self.epoch.rank), locals, local..local + 1);
            }
            Operation::AllReduce(_) => copy(region, 0, local, (0, bytes)),
            Operation::ReduceScatter(_) => copy(region, 0, local, part(self.epoch.rank)),
            Operation::AllGather => (0..world).for_each(|rank| {
                let holder = if group.contains(&rank) { rank - group.start } else { 0 };
                copy(region, holder, local, part(rank));
            }),
            Operation::Broadcast { root } => {
                let holder = if group.contains(&root) { root - group.start } else { 0 };
                copy(region, holder, local, (0, bytes));
            }
        }
    }
}

/// The bytes (offset, length) of which local rank `local` of `locals` forms the sum.
fn share(bytes: usize, element: Element, local: usize, locals: usize) -> (usize, usize) {
    let elements = bytes / element.size();
    let border = |local: usize| match local == locals {
        true => elements,
        false => elements * local / locals / SHARE_ALIGNMENT * SHARE_ALIGNMENT,
    };
    (border(local) * element.size(), (border(local + 1) - border(local)) * element.size())
}

/// Sums a range over all local ranks and writes it to the buffers of `into`.
fn sum(region: &Region, element: Element, (from, len): (usize, usize), locals: usize, into: Range<usize>) {
    let mut accumulator = Accumulator::new();
    let step = BLOCK * element.size();
    for from in (from..from + len).step_by(step).map(|at| (at, step.min(from + len - at))) {
        accumulator.begin(from.1 / element.size());
        for local in 0..locals {
            // SAFETY: all ranks have come to this operation; in it this range of every buffer is this rank's to read
            // (reduce-scatter: only the owner of the part touches it, in whichever buffer) and in `into` to write.
            accumulator.add(element, unsafe { region.bytes(local, from.0, from.1) });
        }
        for local in into.clone() {
            // SAFETY: as above; the borrow of the loop before has ended.
            accumulator.write(element, unsafe { region.bytes_mut(local, from.0, from.1) });
        }
    }
}

/// Copies a range from the buffer of one local rank to that of another: this one.
fn copy(region: &Region, from: usize, to: usize, (at, len): (usize, usize)) {
    if from != to {
        // SAFETY: all ranks have come to this operation; in it nobody writes that range of `from`'s buffer any more, and
        // `to`'s buffer is this rank's own, which others read only where it is the source.
        unsafe { region.bytes_mut(to, at, len).copy_from_slice(region.bytes(from, at, len)) }
    }
}

/// Fails the epoch when the thread that has it unwinds.
pub(crate) struct Guard(Arc<Epoch>);

impl Guard {
    pub(crate) fn new(epoch: Arc<Epoch>) -> Self {
        Self(epoch)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (rank, epoch) = (self.0.rank, self.0.number);
            self.0.fail(CollectiveError::Aborted { rank, epoch, reason: "its worker panicked".into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_cover_a_buffer_once(elements in 0usize..5000, locals in 1usize..9, wide: bool) {
            let element = if wide { Element::F32 } else { Element::Bf16 };
            let mut end = 0;
            for local in 0..locals {
                let (from, len) = share(elements * element.size(), element, local, locals);
                prop_assert_eq!(from, end);
                end = from + len;
            }
            prop_assert_eq!(end, elements * element.size());
        }
    }
}
