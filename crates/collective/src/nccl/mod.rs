//! Ranks on CUDA devices: NCCL for the data, the host's communicator for everything else.
//!
//! A gang on GPUs is formed in host memory first (shared memory, QUIC under TLS), and that communicator stays: it
//! carries NCCL's secret id, the announcements of operations, barriers and failures. NCCL moves bytes between devices
//! and nothing more, because it knows no deadline, no membership and no encryption:
//!
//! | what | how |
//! |---|---|
//! | the library | loaded at run time, the one that torch has loaded, or the one that `LYCEUM_NCCL` names ([`NcclLibrary`]); version and functions are checked before any is called |
//! | joining | `ncclCommInitRankConfig` with `blocking = 0`, asked again until a deadline; the id travels over the host's plane |
//! | an operation | announced on the host's plane by every rank, then launched by the one thread that owns the communicator |
//! | streams | an event on the legacy default stream, where libtorch works; a stream of our own waits for it; when NCCL is done there, the driver calls back and [`wait`](crate::Communicator::wait) returns |
//! | failures | the epoch's, NCCL's asynchronous error and the stream's are looked at 40 times a second while something is under way; then `ncclCommAbort`, once, on the owner's thread, on every rank |
//! | the network | loopback only, unless the manifest trusts an interface ([`confine_to_trusted_interface`]); a gang that spans hosts is refused without (L6) |
//!
//! [`wait`](crate::Communicator::wait) means done, not enqueued, as for every communicator: no number of an epoch that
//! failed is ever read, and what is put on the default stream afterwards needs no second event. It parks the calling
//! thread, not the device; a trainer waits where it would read a loss anyway.
//!
//! Sums are formed in NCCL's order, and bf16 in bf16: repeatable on the same machines, not the bits of rank order that
//! hosts give (L5 is promised on CPUs).
//!
//! **What has been run.** The tests drive all of this against doubles of NCCL and of the driver, written in C, that work
//! in host memory behind real streams of work: order, deadlines, aborts, failures, refusals. The real library (2.28.9)
//! has been loaded on a machine without a GPU, made an id, took the configuration, and said that it lacks a driver. On a GPU nothing has been run yet: `cargo test -p lyceum-train --test cuda` is what to
//! run on one.

mod comm;
mod communicator;
mod device;
mod library;
mod owner;
mod trust;

pub use communicator::NcclCommunicator;
pub use library::{NcclError, NcclLibrary};
pub(crate) use trust::check_trust;
pub use trust::{TRUSTED_INTERFACE, confine_to_trusted_interface, trusted_interface};
