//! The one trait of this crate, what it does and how it fails.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Buffer, Location};

/// The ranks of one epoch, seen from one of them. The crate's own page has the four rules.
///
/// A communicator is used from one thread; whatever moves the bytes meanwhile is its own affair.
pub trait Communicator: Send {
    /// This process's number, `0 .. world_size`.
    fn rank(&self) -> usize;

    /// How many ranks take part.
    fn world_size(&self) -> usize;

    /// The membership's number; it grows with every change of membership.
    fn epoch(&self) -> u64;

    /// Memory for `bytes` bytes, zeroed, at least 64-byte aligned, with this communicator's location.
    ///
    /// A collective call: every rank allocates the same sizes in the same order.
    fn allocate(&mut self, bytes: usize) -> Result<Buffer, CollectiveError>;

    /// Begins `operation` on the whole of `buffer` and returns at once. Operations are carried out in the order of their
    /// starts.
    fn start(&mut self, operation: Operation, buffer: Buffer) -> Result<Pending, CollectiveError>;

    /// Waits, parked, until `pending` is done on this rank and gives its buffer back. After `timeout` the epoch is aborted.
    fn wait(&mut self, pending: Pending, timeout: Duration) -> Result<Buffer, CollectiveError>;

    /// Returns when every rank has come here and all that was started before is done.
    fn barrier(&mut self, timeout: Duration) -> Result<(), CollectiveError>;

    /// A handle that ends the epoch from any thread: all present and future waits of all ranks fail.
    fn abort_handle(&self) -> AbortHandle;

    /// Ends the epoch for all ranks, for `reason`.
    fn abort(&self, reason: &str) {
        self.abort_handle().abort(reason);
    }

    /// [`start`](Self::start) and [`wait`](Self::wait) in one, where there is nothing to do meanwhile.
    fn run(
        &mut self,
        operation: Operation,
        buffer: Buffer,
        timeout: Duration,
    ) -> Result<Buffer, CollectiveError> {
        let pending = self.start(operation, buffer)?;
        self.wait(pending, timeout)
    }
}

/// What is done with a buffer, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Every rank's buffer becomes the sum of all, formed in rank order (on CUDA devices in NCCL's).
    AllReduce(Element),
    /// The buffer is `world_size` equal parts; rank *r*'s part *r* becomes the sum of all parts *r*, formed as above.
    /// Its other parts hold nothing meaningful afterwards.
    ReduceScatter(Element),
    /// The buffer is `world_size` equal parts; part *r* of every rank becomes rank *r*'s part *r*. Bytes, of any meaning.
    AllGather,
    /// Every buffer becomes that of the rank `root`. Bytes, of any meaning.
    Broadcast {
        /// The rank whose bytes everyone gets.
        root: usize,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce(element) => write!(f, "all-reduce of {element}"),
            Self::ReduceScatter(element) => write!(f, "reduce-scatter of {element}"),
            Self::AllGather => f.write_str("all-gather"),
            Self::Broadcast { root } => write!(f, "broadcast from rank {root}"),
        }
    }
}

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// bfloat16: each sum is formed in single precision and rounded once (by NCCL, at each addition).
    Bf16,
}

impl Element {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// An operation under way, and its buffer. Hand it to [`Communicator::wait`] of the communicator that made it.
#[derive(Debug)]
#[must_use = "an operation is over only after `wait`"]
pub struct Pending {
    operation: Operation,
    ticket: u64,
    buffer: Buffer,
}

impl Pending {
    /// For communicators: the operation numbered `ticket` is under way on `buffer`.
    pub fn new(operation: Operation, ticket: u64, buffer: Buffer) -> Self {
        Self { operation, ticket, buffer }
    }

    /// What is being done.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Its number, given by the communicator.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// For communicators: the buffer, once the operation is done.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

/// Ends an epoch from any thread. Cheap to clone.
#[derive(Clone)]
pub struct AbortHandle(Arc<dyn Fn(&str) + Send + Sync>);

impl AbortHandle {
    /// For communicators: `abort` is called with the reason; calls after the first have no effect.
    pub fn new(abort: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Ends the epoch for all ranks, for `reason`.
    pub fn abort(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AbortHandle")
    }
}

/// Why an epoch ended, or why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A rank ended the epoch.
    #[error("rank {rank} aborted epoch {epoch}: {reason}")]
    Aborted {
        /// Who aborted.
        rank: usize,
        /// The epoch that is over.
        epoch: u64,
        /// Why, in the words of who aborted.
        reason: String,
    },
    /// A rank's process or connection is gone.
    #[error("rank {rank} of epoch {epoch} is lost: {reason}")]
    Lost {
        /// Who is gone.
        rank: usize,
        /// The epoch that is over.
        epoch: u64,
        /// What was seen of it.
        reason: String,
    },
    /// A rank did not come in time.
    #[error("rank {rank} of epoch {epoch} did not finish the {operation} within {} ms", waited.as_millis())]
    Deadline {
        /// The lowest rank that was waited for.
        rank: usize,
        /// The epoch that is over.
        epoch: u64,
        /// What was waited for: an [`Operation`] or "barrier".
        operation: String,
        /// For how long.
        waited: Duration,
    },
    /// The ranks did not call the same operation on the same number of bytes.
    #[error(
        "rank {rank} of epoch {epoch} called {theirs} where this rank called {ours}: every rank must call the same operations in the same order"
    )]
    Mismatch {
        /// Who differs from us.
        rank: usize,
        /// The epoch that is over.
        epoch: u64,
        /// What we called.
        ours: String,
        /// What they called.
        theirs: String,
    },
    /// A buffer does not fit its operation.
    #[error("rank {rank} called {operation} on {bytes} bytes: a multiple of {multiple} bytes is needed")]
    Misfit {
        /// The caller.
        rank: usize,
        /// What was called.
        operation: Operation,
        /// The buffer's length.
        bytes: usize,
        /// What its length must be a multiple of.
        multiple: usize,
    },
    /// A buffer lies where its communicator does not reach.
    #[error("rank {rank} called {operation} on a buffer {found}: this communicator takes those {expected}")]
    Misplaced {
        /// The caller.
        rank: usize,
        /// What was called.
        operation: Operation,
        /// Where the buffer lies.
        found: Location,
        /// Where it should.
        expected: Location,
    },
    /// A broadcast from a rank that is not there.
    #[error("rank {rank} called a broadcast from rank {root}: there are ranks 0 to {}", world_size - 1)]
    NoSuchRoot {
        /// The caller.
        rank: usize,
        /// The rank that is not there.
        root: usize,
        /// How many ranks there are.
        world_size: usize,
    },
    /// Memory or a transport could not be had.
    #[error("rank {rank} could not {what}: {reason}")]
    Unavailable {
        /// Who failed.
        rank: usize,
        /// What it tried, as in "allocate 4096 bytes".
        what: String,
        /// What the system said.
        reason: String,
    },
}

impl CollectiveError {
    /// The rank that this failure names.
    pub fn rank(&self) -> usize {
        match self {
            Self::Aborted { rank, .. }
            | Self::Lost { rank, .. }
            | Self::Deadline { rank, .. }
            | Self::Mismatch { rank, .. }
            | Self::Misfit { rank, .. }
            | Self::Misplaced { rank, .. }
            | Self::NoSuchRoot { rank, .. }
            | Self::Unavailable { rank, .. } => *rank,
        }
    }
}

impl Operation {
    /// Whether a buffer of `rank` that lies at `found` can be reached by a communicator that moves bytes at `expected`.
    pub fn check_location(
        self,
        rank: usize,
        found: Location,
        expected: Location,
    ) -> Result<(), CollectiveError> {
        if found == expected {
            Ok(())
        } else {
            Err(CollectiveError::Misplaced { rank, operation: self, found, expected })
        }
    }

    /// Whether `bytes` bytes on `rank` of `world_size` ranks are fit for this operation.
    pub fn check(self, rank: usize, world_size: usize, bytes: usize) -> Result<(), CollectiveError> {
        let multiple = match self {
            Self::AllReduce(element) => element.size(),
            Self::ReduceScatter(element) => element.size() * world_size,
            Self::AllGather => world_size,
            Self::Broadcast { root } if root >= world_size => {
                return Err(CollectiveError::NoSuchRoot { rank, root, world_size });
            }
            Self::Broadcast { .. } => 1,
        };
        if bytes.is_multiple_of(multiple) {
            Ok(())
        } else {
            Err(CollectiveError::Misfit { rank, operation: self, bytes, multiple })
        }
    }
}
