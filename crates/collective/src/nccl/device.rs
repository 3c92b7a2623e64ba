//! One CUDA device: its context, streams and events. The named home of the calls into the driver.
//!
//! The driver is cudarc's, loaded at run time. libtorch computes in the device's *primary context* on its *legacy
//! default stream* (the null stream): retaining the one and naming the other by null is all it takes to work beside it,
//! so this crate needs no libtorch.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{result, sys};

/// Driver calls that failed, in the driver's words.
pub(super) type CudaResult<T> = Result<T, String>;

/// A device's primary context, retained.
pub(super) struct CudaDevice {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be made current on any thread; the handle is never changed.
unsafe impl Send for CudaDevice {}
// SAFETY: as above.
unsafe impl Sync for CudaDevice {}

impl CudaDevice {
    /// The device with this ordinal among those that `CUDA_VISIBLE_DEVICES` leaves this process.
    pub(super) fn open(ordinal: usize) -> CudaResult<Arc<Self>> {
        // SAFETY: looks for the library. Asked first, since cudarc's calls panic where there is none.
        if !unsafe { sys::is_culib_present() } {
            return Err("no CUDA driver: libcuda.so.1 is not installed".into());
        }
        result::init().map_err(told("cuInit"))?;
        let ordinal = i32::try_from(ordinal).map_err(|_| format!("no CUDA device has number {ordinal}"))?;
        let device = result::device::get(ordinal).map_err(told("cuDeviceGet"))?;
        // SAFETY: the device is one that the driver gave.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(told("cuDevicePrimaryCtxRetain"))?;
        Ok(Arc::new(Self { device, context }))
    }

    /// Makes the device this thread's: what NCCL and the driver are asked next is about it.
    pub(super) fn bind(&self) -> CudaResult<()> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.context) }.map_err(told("cuCtxSetCurrent"))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // SAFETY: retained once, in `open`. It fails only where the driver is going down.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A stream that does not wait for the default stream of itself.
pub(super) struct Stream {
    stream: sys::CUstream,
    device: Arc<CudaDevice>,
}

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// On `device`, which is bound to the calling thread.
    pub(super) fn new(device: Arc<CudaDevice>) -> CudaResult<Self> {
        device.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(told("cuStreamCreate"))?;
        Ok(Self { stream, device })
    }

    pub(super) fn as_raw(&self) -> sys::CUstream {
        self.stream
    }

    /// What is put on this stream from now on begins after `event`.
    pub(super) fn wait_for(&self, event: &Event) -> CudaResult<()> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        unsafe { result::stream::wait_event(self.stream, event.event, flags) }
            .map_err(told("cuStreamWaitEvent"))
    }

    /// Calls `then`, on a thread of the driver's, when all that is on this stream now is done; never, where the device
    /// fails before. It may not call CUDA.
    pub(super) fn then(&self, then: impl FnOnce() + Send + 'static) -> CudaResult<()> {
        let boxed: Box<dyn FnOnce() + Send> = Box::new(then);
        let argument = Box::into_raw(Box::new(boxed)).cast::<c_void>();
        // SAFETY: the stream lives; `called` takes the box back, once.
        let launched = unsafe { result::stream::launch_host_function(self.stream, called, argument) };
        launched.map_err(|error| {
            // SAFETY: the driver did not take it, so it is still ours.
            drop(unsafe { Box::from_raw(argument.cast::<Box<dyn FnOnce() + Send>>()) });
            told("cuLaunchHostFunc")(error)
        })
    }

    /// # Errors
    /// What has failed on the device; work that is not done yet is no failure.
    pub(super) fn check(&self) -> CudaResult<()> {
        // SAFETY: the stream lives.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_SUCCESS | sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            failed => Err(told("cuStreamQuery")(result::DriverError(failed))),
        }
    }
}

/// # Safety
/// `argument` is what [`Stream::then`] gave away, and comes once.
unsafe extern "C" fn called(argument: *mut c_void) {
    // SAFETY: the caller's contract. A panic ends the process: `extern "C"`.
    let then = unsafe { Box::from_raw(argument.cast::<Box<dyn FnOnce() + Send>>()) };
    then();
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made in `new`. What is still on it, the driver finishes by itself.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

/// A point of a stream.
pub(super) struct Event {
    event: sys::CUevent,
    device: Arc<CudaDevice>,
}

// SAFETY: an event may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// The present end of the default stream, where libtorch's work is. Binds `device` to the calling thread: to which
    /// libtorch has bound the same context.
    pub(super) fn of_default_stream(device: &Arc<CudaDevice>) -> CudaResult<Self> {
        device.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(told("cuEventCreate"))?;
        let event = Self { event, device: Arc::clone(device) };
        // SAFETY: the event is new, and null is the default stream of the bound context.
        unsafe { result::event::record(event.event, result::stream::null()) }
            .map_err(told("cuEventRecord"))?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made in `of_default_stream`. Whoever was told to wait for it, still does.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Names the call that failed.
fn told(call: &'static str) -> impl Fn(result::DriverError) -> String {
    move |error| match error.error_string() {
        Ok(reason) => format!("{call}: {}", reason.to_string_lossy()),
        Err(_) => format!("{call}: {:?}", error.0),
    }
}
