//! The owner of one `ncclComm_t`: joined without blocking, aborted at most once. The named home of the calls on it.
//!
//! All of it happens on one thread, as NCCL wants it. A non-blocking communicator answers "in progress" and is asked
//! again ([`Comm::settle`]): so there is always a moment in which a failure elsewhere can end the attempt.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::device::Stream;
use super::library::{NcclError, NcclLibrary, Progress};
use crate::{CollectiveError, Element, Operation};

/// The configuration's layout is that of this version (nccl.h: `NCCL_CONFIG_INITIALIZER`); older libraries read the
/// part that they know.
const CONFIG_VERSION: u32 = 22_800;

/// nccl.h: `NCCL_API_MAGIC` and `NCCL_CONFIG_UNDEF_INT`.
const CONFIG_MAGIC: u32 = 0xcafe_beef;
const UNDEFINED: c_int = c_int::MIN;

/// Between two looks at a communicator that is at work: from and to.
const PAUSE: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));

/// One rank's place in an NCCL communicator.
pub(super) struct Comm {
    library: Arc<NcclLibrary>,
    /// Null once it is destroyed or aborted.
    comm: ncclComm_t,
    rank: usize,
    world_size: usize,
}

// SAFETY: the handle may be used from any thread, one at a time, which owning it ensures.
unsafe impl Send for Comm {}

/// Why a call did not end well: NCCL's own failure, or one of the epoch that made waiting for it pointless.
pub(super) enum Trouble {
    Nccl(NcclError),
    Epoch(CollectiveError),
}

impl From<NcclError> for Trouble {
    fn from(error: NcclError) -> Self {
        Self::Nccl(error)
    }
}

/// A buffer of an operation, by its address on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) address: usize,
    pub(super) bytes: usize,
}

impl Comm {
    /// Joins the communicator named `id` on the device that is bound to this thread. `alive` is asked again and again:
    /// its error ends the attempt.
    pub(super) fn join(
        library: Arc<NcclLibrary>,
        id: ncclUniqueId,
        (rank, world_size): (usize, usize),
        alive: &dyn Fn() -> Result<(), CollectiveError>,
    ) -> Result<Self, Trouble> {
        let mut config = configuration();
        let mut joined = Self { library, comm: ptr::null_mut(), rank, world_size };
        let join = joined.library.functions.comm_init_rank_config;
        // SAFETY: handle and configuration are valid for writes during the call, which copies the configuration.
        let result = unsafe { join(&mut joined.comm, world_size as c_int, id, rank as c_int, &mut config) };
        joined.settle("ncclCommInitRankConfig", result, alive)?;
        Ok(joined)
    }

    /// Puts `operation` on `span` in place on `stream`.
    pub(super) fn enqueue(
        &mut self,
        operation: Operation,
        span: Span,
        stream: &Stream,
        alive: &dyn Fn() -> Result<(), CollectiveError>,
    ) -> Result<(), Trouble> {
        let (functions, comm, stream) = (&self.library.functions, self.comm, stream.as_raw().cast());
        let whole = span.address as *mut c_void;
        let part = span.bytes / self.world_size;
        let own = (span.address + self.rank * part) as *mut c_void;
        let (bytes, sum) = (ncclDataType_t::ncclUint8, ncclRedOp_t::ncclSum);
        // SAFETY: the span is device memory that its job keeps until the operation is done or aborted, as long as the
        // operation's check asks; sending and receiving ranges lie as nccl.h wants them in place.
        let (call, result) = unsafe {
            match operation {
                Operation::AllReduce(element) => (
                    "ncclAllReduce",
                    (functions.all_reduce)(
                        whole,
                        whole,
                        span.bytes / element.size(),
                        kind(element),
                        sum,
                        comm,
                        stream,
                    ),
                ),
                Operation::ReduceScatter(element) => (
                    "ncclReduceScatter",
                    (functions.reduce_scatter)(
                        whole,
                        own,
                        part / element.size(),
                        kind(element),
                        sum,
                        comm,
                        stream,
                    ),
                ),
                Operation::AllGather => {
                    ("ncclAllGather", (functions.all_gather)(own, whole, part, bytes, comm, stream))
                }
                Operation::Broadcast { root } => (
                    "ncclBroadcast",
                    (functions.broadcast)(whole, whole, span.bytes, bytes, root as c_int, comm, stream),
                ),
            }
        };
        self.settle(call, result, alive)
    }

    /// # Errors
    /// What NCCL's own threads and kernels have met with since.
    pub(super) fn check(&self) -> Result<Progress, NcclError> {
        let mut result = 0;
        // SAFETY: the communicator lives and `result` is valid for writes.
        let asked = unsafe { (self.library.functions.comm_get_async_error)(self.comm, &mut result) };
        self.library.check("ncclCommGetAsyncError", asked, self.comm)?;
        self.library.check("an operation of NCCL", result, self.comm)
    }

    /// Leaves in good order, with every operation done.
    pub(super) fn leave(mut self, alive: &dyn Fn() -> Result<(), CollectiveError>) -> Result<(), Trouble> {
        // SAFETY: the communicator lives.
        let result = unsafe { (self.library.functions.comm_finalize)(self.comm) };
        self.settle("ncclCommFinalize", result, alive)?;
        let comm = std::mem::replace(&mut self.comm, ptr::null_mut());
        // SAFETY: finalised, and not used again.
        let result = unsafe { (self.library.functions.comm_destroy)(comm) };
        self.library.check("ncclCommDestroy", result, ptr::null_mut())?;
        Ok(())
    }

    /// Waits until the communicator has taken what `call` asked of it. What it puts on a stream is there only then.
    fn settle(
        &self,
        call: &'static str,
        result: u32,
        alive: &dyn Fn() -> Result<(), CollectiveError>,
    ) -> Result<(), Trouble> {
        let mut progress = self.library.check(call, result, self.comm)?;
        let mut pause = PAUSE.0;
        while progress == Progress::UnderWay {
            alive().map_err(Trouble::Epoch)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
            progress = self.check()?;
        }
        Ok(())
    }
}

impl Drop for Comm {
    /// Aborts what has not left: its kernels end, and the device is free again.
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        // SAFETY: the communicator lives and is not used again.
        let result = unsafe { (self.library.functions.comm_abort)(self.comm) };
        if let Err(error) = self.library.check("ncclCommAbort", result, ptr::null_mut()) {
            tracing::warn!(%error, rank = self.rank, "an NCCL communicator would not be aborted");
        }
    }
}

fn kind(element: Element) -> ncclDataType_t {
    match element {
        Element::F32 => ncclDataType_t::ncclFloat32,
        Element::Bf16 => ncclDataType_t::ncclBfloat16,
    }
}

/// nccl.h's `NCCL_CONFIG_INITIALIZER`, but not blocking.
fn configuration() -> ncclConfig_t {
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}
