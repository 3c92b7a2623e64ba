//! The memory of one host's ranks: a sealed memfd that leaves nothing behind. The named home of its mappings.
//!
//! A segment begins with the [`Control`] page; buffers follow, for each allocation one region with a place for every
//! local rank. All ranks allocate alike, so that all find the same offsets without talking. The file can only grow: a
//! peer cannot take mapped pages away.

use std::ffi::c_void;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::control::Control;
use crate::{Buffer, Location};

const PAGE: usize = 4096;
const CONTROL_BYTES: usize = size_of::<Control>().next_multiple_of(PAGE);

/// A host's shared memory, as one rank sees it.
pub(crate) struct Segment {
    file: OwnedFd,
    control: ControlPage,
    /// Where the next allocation begins.
    end: usize,
}

/// One allocation: equal buffers of all local ranks, side by side.
#[derive(Clone)]
pub(crate) struct Region {
    mapping: Arc<Mapping>,
    /// Offset in the file.
    place: usize,
    /// From one rank's buffer to the next.
    stride: usize,
    len: usize,
}

impl Segment {
    /// A new segment for `epoch`.
    pub(crate) fn create(epoch: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("lyceum-collective", flags)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, CONTROL_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let segment = Self::map(file)?;
        segment.control.begin(epoch);
        Ok(segment)
    }

    /// The segment behind a descriptor that came from the rendezvous.
    pub(crate) fn open(file: OwnedFd, epoch: u64) -> io::Result<Self> {
        let odd = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return odd("the segment is not sealed against shrinking");
        }
        if rustix::fs::fstat(&file)?.st_size < CONTROL_BYTES as i64 {
            return odd("the segment is too small");
        }
        let segment = Self::map(file)?;
        if segment.control.is_of(epoch) { Ok(segment) } else { odd("the segment is of another epoch") }
    }

    fn map(file: OwnedFd) -> io::Result<Self> {
        let control = ControlPage(Arc::new(Mapping::new(&file, 0, CONTROL_BYTES)?));
        Ok(Self { file, control, end: CONTROL_BYTES })
    }

    pub(crate) fn file(&self) -> impl AsFd {
        &self.file
    }

    pub(crate) fn control(&self) -> ControlPage {
        self.control.clone()
    }

    /// Room for a buffer of `len` bytes for each of `ranks` ranks.
    pub(crate) fn allocate(&mut self, len: usize, ranks: usize) -> io::Result<Region> {
        let too_much =
            || io::Error::new(io::ErrorKind::OutOfMemory, format!("{len} bytes for {ranks} ranks"));
        let stride = len.max(1).checked_next_multiple_of(PAGE).ok_or_else(too_much)?;
        let bytes =
            stride.checked_mul(ranks).filter(|bytes| *bytes <= isize::MAX as usize).ok_or_else(too_much)?;
        let place = self.end;
        self.end = place.checked_add(bytes).ok_or_else(too_much)?;
        // Takes the memory now, so that there is no SIGBUS later; growing to where a peer has grown already is nothing.
        rustix::fs::fallocate(&self.file, FallocateFlags::empty(), place as u64, bytes as u64)?;
        let mapping = Arc::new(Mapping::new(&self.file, place, bytes)?);
        Ok(Region { mapping, place, stride, len })
    }
}

impl Region {
    /// The offset in the segment, the same for all ranks of the host.
    pub(crate) fn place(&self) -> u64 {
        self.place as u64
    }

    /// The buffer of local rank `local`, to be handed out once.
    pub(crate) fn buffer(&self, local: usize) -> Buffer {
        // SAFETY: the region has a place of `len` bytes for `local`, page-aligned, mapped as long as the keeper lives.
        // Nobody but that rank is given it, and peers write there only while it is under way.
        unsafe { Buffer::from_raw(self.mapping.clone(), self.start(local), self.len, Location::Host) }
    }

    /// Whether `buffer` is this region's buffer of `local`.
    pub(crate) fn holds(&self, buffer: &Buffer, local: usize) -> bool {
        buffer.as_ptr() == self.start(local).as_ptr()
    }

    /// The bytes `from .. from + len` of local rank `local`'s buffer.
    ///
    /// # Safety
    /// The buffers of this region are under way, and the protocol gives no rank that range to write meanwhile.
    pub(crate) unsafe fn bytes(&self, local: usize, from: usize, len: usize) -> &[u8] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "a range within the buffer");
        // SAFETY: within the mapping by the assertion; not written by the caller's contract.
        unsafe { std::slice::from_raw_parts(self.start(local).as_ptr().add(from), len) }
    }

    /// The same, to be written.
    ///
    /// # Safety
    /// The buffers of this region are under way, and the protocol gives that range to this rank alone meanwhile.
    #[allow(clippy::mut_from_ref, reason = "the protocol between processes is what makes it exclusive")]
    pub(crate) unsafe fn bytes_mut(&self, local: usize, from: usize, len: usize) -> &mut [u8] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "a range within the buffer");
        // SAFETY: within the mapping by the assertion; not touched by others by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start(local).as_ptr().add(from), len) }
    }

    fn start(&self, local: usize) -> NonNull<u8> {
        let offset = local * self.stride;
        assert!(offset + self.len <= self.mapping.len, "a rank of this host");
        // SAFETY: within the mapping by the assertion.
        unsafe { self.mapping.start.add(offset) }
    }
}

/// The control page, mapped for as long as a clone lives.
#[derive(Clone)]
pub(crate) struct ControlPage(Arc<Mapping>);

impl Deref for ControlPage {
    type Target = Control;

    fn deref(&self) -> &Control {
        // SAFETY: the mapping is page-aligned, as large as a `Control`, and lives as long as `self`. A `Control` is made
        // of atomics alone, for which zeros and whatever peers store are values.
        unsafe { self.0.start.cast::<Control>().as_ref() }
    }
}

/// Pages of the segment, mapped for reading and writing.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address and a length; who may touch the bytes is the affair of `Region` and `Segment`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &OwnedFd, offset: usize, len: usize) -> io::Result<Self> {
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, rights, flags, file, offset as u64)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; whoever uses it holds an `Arc` or a borrow of this value.
        // It fails only for bad arguments.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
    }
}
