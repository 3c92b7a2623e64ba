//! A world of one rank: every operation is done when it begins.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{AbortHandle, Buffer, CollectiveError, Communicator, Operation, Pending};

/// Makes a zeroed buffer of so many bytes, or says why not.
pub type Allocator = Box<dyn FnMut(usize) -> Result<Buffer, String> + Send>;

/// The only rank of its epoch.
pub struct SoloCommunicator {
    epoch: u64,
    aborted: Arc<OnceLock<String>>,
    started: u64,
    allocator: Allocator,
}

impl SoloCommunicator {
    /// Rank 0 of 1, in epoch 0.
    pub fn new() -> Self {
        Self::in_epoch(0)
    }

    /// Rank 0 of 1, in the epoch `epoch`.
    pub fn in_epoch(epoch: u64) -> Self {
        Self {
            epoch,
            aborted: Arc::default(),
            started: 0,
            allocator: Box::new(|bytes| Ok(Buffer::host(bytes))),
        }
    }

    /// With buffers from elsewhere than host memory: a rank alone on its GPU.
    pub fn with_allocator(self, allocator: Allocator) -> Self {
        Self { allocator, ..self }
    }

    fn alive(&self) -> Result<(), CollectiveError> {
        match self.aborted.get() {
            None => Ok(()),
            Some(reason) => {
                Err(CollectiveError::Aborted { rank: 0, epoch: self.epoch, reason: reason.clone() })
            }
        }
    }
}

impl Default for SoloCommunicator {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SoloCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoloCommunicator(epoch {})", self.epoch)
    }
}

impl Communicator for SoloCommunicator {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer, CollectiveError> {
        self.alive()?;
        (self.allocator)(bytes).map_err(|reason| CollectiveError::Unavailable {
            rank: 0,
            what: format!("allocate {bytes} bytes"),
            reason,
        })
    }

    fn start(&mut self, operation: Operation, buffer: Buffer) -> Result<Pending, CollectiveError> {
        self.alive()?;
        operation.check(0, 1, buffer.len())?;
        self.started += 1;
        Ok(Pending::new(operation, self.started, buffer))
    }

    fn wait(&mut self, pending: Pending, _timeout: Duration) -> Result<Buffer, CollectiveError> {
        self.alive()?;
        Ok(pending.into_buffer())
    }

    fn barrier(&mut self, _timeout: Duration) -> Result<(), CollectiveError> {
        self.alive()
    }

    fn abort_handle(&self) -> AbortHandle {
        let aborted = self.aborted.clone();
        AbortHandle::new(move |reason| {
            // The first reason stands.
            let _ = aborted.set(reason.to_owned());
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn operations_of_one_rank_leave_the_buffer_as_it_is() {
        let mut solo = SoloCommunicator::new();
        for operation in [
            Operation::AllReduce(Element::F32),
            Operation::ReduceScatter(Element::F32),
            Operation::AllGather,
            Operation::Broadcast { root: 0 },
        ] {
            let mut buffer = solo.allocate(8).unwrap();
            buffer.as_mut_slice::<f32>().copy_from_slice(&[1.5, -2.0]);
            let address = buffer.as_ptr();
            let buffer = solo.run(operation, buffer, SOON).unwrap();
            assert_eq!(buffer.as_slice::<f32>(), [1.5, -2.0]);
            assert_eq!(buffer.as_ptr(), address);
        }
        solo.barrier(SOON).unwrap();
    }

    #[test]
    fn l3_after_an_abort_every_call_fails_with_the_first_reason() {
        let mut solo = SoloCommunicator::in_epoch(7);
        let buffer = solo.allocate(4).unwrap();
        let pending = solo.start(Operation::AllGather, buffer).unwrap();
        let handle = solo.abort_handle();
        std::thread::spawn(move || handle.abort("the disk is full")).join().unwrap();
        solo.abort("another reason");
        let error = solo.wait(pending, SOON).unwrap_err();
        assert_eq!(error.to_string(), "rank 0 aborted epoch 7: the disk is full");
        assert_eq!(solo.barrier(SOON).unwrap_err(), error);
    }

    #[test]
    fn a_buffer_that_does_not_fit_is_refused_by_name() {
        let mut solo = SoloCommunicator::new();
        let buffer = solo.allocate(6).unwrap();
        let error = solo.start(Operation::AllReduce(Element::F32), buffer).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rank 0 called all-reduce of f32 on 6 bytes: a multiple of 4 bytes is needed"
        );
        let buffer = solo.allocate(6).unwrap();
        let error = solo.start(Operation::Broadcast { root: 3 }, buffer).unwrap_err();
        assert_eq!(error.to_string(), "rank 0 called a broadcast from rank 3: there are ranks 0 to 0");
    }
}
