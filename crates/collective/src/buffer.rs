//! Memory that a communicator hands out. The named home of this crate's typed views of raw bytes.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    any::Any,
    fmt,
    ptr::NonNull,
    sync::Arc,
};

/// Where a buffer's bytes lie: a communicator takes only buffers that lie where it moves bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In this process's address space.
    Host,
    /// On the CUDA device with this ordinal; the address is a device address.
    Cuda(usize),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("in host memory"),
            Self::Cuda(ordinal) => write!(f, "on CUDA device {ordinal}"),
        }
    }
}

/// Keeps a buffer's memory alive, without access to it: for tensors that are views of a buffer that may meanwhile be
/// under way, or lost with its epoch.
pub type Keeper = Arc<dyn Any + Send + Sync>;

/// An owned piece of a communicator's memory: whoever holds it may read and write it.
pub struct Buffer {
    keeper: Keeper,
    start: NonNull<u8>,
    len: usize,
    location: Location,
}

// SAFETY: a buffer is the only handle with access to its bytes, and its keeper is Send and Sync.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer gives only shared slices.
unsafe impl Sync for Buffer {}

/// Element types for which every bit pattern is a value.
///
/// # Safety
/// The type has no padding, no invalid bit pattern, and an alignment of at most 64.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers and floats are plain, and `bf16` is a transparent `u16`.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}

impl Buffer {
    /// Zeroed host memory of this process alone, aligned to a page.
    pub fn host(len: usize) -> Self {
        let memory = HostMemory::zeroed(len);
        let start = memory.start;
        // SAFETY: the allocation lives as long as `memory`, which nobody else has.
        unsafe { Self::from_raw(Arc::new(memory), start, len, Location::Host) }
    }

    /// A buffer over `len` bytes at `start`.
    ///
    /// # Safety
    /// `start` is 64-byte aligned, and `start .. start + len` is initialised memory of `location`, valid for reads and
    /// writes until `keeper` and all its clones are dropped. While the buffer is not under way in an operation, nobody
    /// else, in whichever process, writes there.
    pub unsafe fn from_raw(keeper: Keeper, start: NonNull<u8>, len: usize, location: Location) -> Self {
        Self { keeper, start, len, location }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lies.
    pub fn location(&self) -> Location {
        self.location
    }

    /// The first byte's address, in the address space of [`location`](Self::location). The address stays the same for the
    /// buffer's life, also through operations.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// What keeps the memory alive.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// The bytes as elements; a last incomplete element is left out.
    ///
    /// # Panics
    /// When the buffer is not in host memory.
    pub fn as_slice<T: Plain>(&self) -> &[T] {
        self.assert_host();
        // SAFETY: `from_raw`'s contract, and every bit pattern is a `T`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<T>(), self.len / size_of::<T>()) }
    }

    /// The bytes as elements, to be written.
    ///
    /// # Panics
    /// When the buffer is not in host memory.
    pub fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        self.assert_host();
        // SAFETY: as in `as_slice`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<T>(), self.len / size_of::<T>()) }
    }

    fn assert_host(&self) {
        assert!(self.location == Location::Host, "a buffer {} has no slice in host memory", self.location);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes, {:?})", self.len, self.location)
    }
}

struct HostMemory {
    start: NonNull<u8>,
    layout: Layout,
}

impl HostMemory {
    fn zeroed(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), 4096).expect("a length below isize::MAX");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { std::alloc::handle_alloc_error(layout) };
        Self { start, layout }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

// SAFETY: the memory is only reached through a `Buffer`.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}
