//! All-reduce and its kin over raw buffers: shared memory, QUIC, NCCL.
//!
//! The ranks of one *epoch* (a fixed membership) exchange [`Buffer`]s through a [`Communicator`]. Four rules make it
//! one thing, whatever carries the bytes:
//!
//! 1. **Buffers belong to the communicator.** [`Communicator::allocate`] hands them out, so that a gradient bucket
//!    lies in shared memory (or on the GPU) from its first byte and nothing is copied to be reduced.
//! 2. **Operations are in place, on whole buffers, started and awaited apart.** [`Communicator::start`] takes the buffer,
//!    [`Communicator::wait`] gives it back: the program cannot touch a buffer that is under way, and the reduction of
//!    one bucket overlaps the computation of the next.
//! 3. **Every rank calls the same operations in the same order**, and sums are formed in rank order: the same inputs
//!    give the same bits (L5; on GPUs the order is NCCL's).
//! 4. **Nobody waits for ever** (L3). A wait has a deadline; a failed rank, a deadline or [`Communicator::abort`] ends the
//!    whole epoch: from then on every call returns the first failure, which names its rank.
//!
//! ```
//! use lyceum_collective::{Communicator, Element, Operation, SoloCommunicator};
//! use std::time::Duration;
//!
//! let mut ranks = SoloCommunicator::new();
//! let mut bucket = ranks.allocate(4 * size_of::<f32>())?;
//! bucket.as_mut_slice::<f32>().copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
//! let pending = ranks.start(Operation::AllReduce(Element::F32), bucket)?;
//! // .. the next block computes here ..
//! let bucket = ranks.wait(pending, Duration::from_secs(60))?;
//! assert_eq!(bucket.as_slice::<f32>(), [1.0, 2.0, 3.0, 4.0]);
//! # Ok::<(), lyceum_collective::CollectiveError>(())
//! ```
//!
//! A [`Gang`] says who the members of an epoch are and where each runs; [`form`] brings them together and chooses the
//! transport by that topology: shared memory among the ranks of a host, QUIC under the cluster's TLS between hosts, NCCL
//! among GPUs ([`nccl`]). Within a host a rank that dies is noticed at once, another host that falls silent after the time
//! that its [`Seat`] was given; either way every rank gets an error that names the rank (L3).

mod buffer;
mod chain;
mod communicator;
mod epoch;
mod failure;
mod form;
#[cfg(test)]
mod fuzz;
mod gang;
mod host;
pub mod nccl;
mod reduce;
mod seat;
mod shared;
mod solo;
mod worker;

pub use buffer::{Buffer, Keeper, Location, Plain};
pub use communicator::{AbortHandle, CollectiveError, Communicator, Element, Operation, Pending};
pub use form::form;
pub use gang::{Gang, Member, Token};
pub use host::HostCommunicator;
pub use seat::Seat;
pub use solo::{Allocator, SoloCommunicator};
