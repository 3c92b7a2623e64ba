//! Segments and mappings: all `unsafe` of this crate that touches memory.
//!
//! What makes it sound: a segment is a memfd sealed against resize, so a mapped page can never vanish (no `SIGBUS`); the
//! allocator never gives two owners overlapping extents (E1); an extent has one writer until it is sealed and only
//! readers after; and it is given to somebody else only when no reader or writer of this process can reach it any more.
//! Like every shared memory, it trusts the node's own processes, which run as one user, not to write where they were not
//! given room: descriptors and page protections guard against accidents, not against malice.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::error::{Result, StoreError};
use crate::pool::Place;

/// Bytes of a page of memory.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

/// Memory without a name in any file system: it ends with the last process that maps it or has it open.
#[derive(Debug)]
pub(crate) struct Segment {
    pub writable: OwnedFd,
    pub read_only: OwnedFd,
    /// The agent's own mapping, for fetched and served objects.
    pub mapping: Arc<Mapping>,
}

impl Segment {
    /// Makes a segment of `bytes`; its pages come with first use or [`Mapping::populate`].
    pub fn create(name: &str, bytes: u64) -> Result<Segment> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            StoreError::system(format!("{what} a store segment of {bytes} bytes"), e)
        };
        let writable = sealed_memory(name, bytes)?;
        // Opened again through /proc, a descriptor that cannot be mapped writable.
        let path = format!("/proc/self/fd/{}", writable.as_raw_fd());
        let read_only = File::open(path).map_err(|e| failed("open read-only", &e))?.into();
        rustix::fs::fchmod(&writable, Mode::RUSR).map_err(|e| failed("protect", &e))?;
        let mapping = Arc::new(Mapping::new(&writable, bytes, Access::ReadWrite)?);
        Ok(Segment { writable, read_only, mapping })
    }
}

/// Memory without a name whose size is fixed.
fn sealed_memory(name: &str, bytes: u64) -> Result<OwnedFd> {
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        StoreError::system(format!("{what} shared memory of {bytes} bytes"), e)
    };
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| failed("create", &e))?;
    rustix::fs::ftruncate(&fd, bytes).map_err(|e| failed("size", &e))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|e| failed("seal the size of", &e))?;
    Ok(fd)
}

/// Words that the agent and its processes share: memory that is read and written by atomic steps alone.
#[derive(Debug)]
pub(crate) struct Words {
    mapping: Mapping,
}

impl Words {
    /// Makes `bytes` of them, all zero, and a descriptor for others to map them by.
    pub fn create(name: &str, bytes: u64) -> Result<(Words, OwnedFd)> {
        let fd = sealed_memory(name, bytes)?;
        Ok((Words::map(&fd, bytes)?, fd))
    }

    /// Those behind a descriptor, which has `bytes`.
    pub fn map(fd: &OwnedFd, bytes: u64) -> Result<Words> {
        Ok(Words { mapping: Mapping::new(fd, bytes, Access::ReadWrite)? })
    }

    pub fn count(&self) -> usize {
        self.mapping.bytes / size_of::<AtomicU64>()
    }

    /// # Panics
    /// When there are not so many.
    pub fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count(), "word {index} of {}", self.count());
        // SAFETY: within the mapping, aligned because that begins at a page, and any eight bytes are an AtomicU64. Nobody
        // makes another kind of reference into such memory, here or in another process.
        unsafe { self.mapping.address.cast::<AtomicU64>().add(index).as_ref() }
    }
}

/// How a mapping begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// May be read; [`Mapping::protect`] can open ranges for writing where the descriptor allows it.
    Read,
    /// May be written everywhere.
    ReadWrite,
}

/// A whole segment in this process's address space.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: a mapping is an address range that belongs to no thread; all access to its bytes goes through the functions
// below, whose callers state who owns the range.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods that change something (`protect`, `populate`) are single system calls.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a segment of `bytes`.
    pub fn new(fd: &OwnedFd, bytes: u64, access: Access) -> Result<Mapping> {
        let failed =
            |e: &dyn std::fmt::Display| StoreError::system(format!("map a segment of {bytes} bytes"), e);
        // A descriptor that came over a socket could be of anything: a shorter file would mean SIGBUS.
        let size = rustix::fs::fstat(fd).map_err(|e| failed(&e))?.st_size;
        let bytes = usize::try_from(bytes).map_err(|e| failed(&e))?;
        if bytes == 0 || u64::try_from(size).ok() != Some(bytes as u64) {
            return Err(failed(&format!("its descriptor has {size} bytes")));
        }
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|e| failed(&e))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(failed(&"it is not sealed against shrinking"));
        }
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; the file has `bytes` bytes for
        // ever (checked size, seal against shrinking).
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) };
        let address =
            NonNull::new(address.map_err(|e| failed(&e))?).ok_or_else(|| failed(&"a null address"))?;
        Ok(Mapping { address, bytes })
    }

    /// Bytes of the segment.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of an object's bytes; an error where they do not lie in this segment.
    pub fn locate(&self, place: Place) -> Result<NonNull<u8>> {
        let end = place.offset.checked_add(place.len).filter(|&end| end <= self.bytes as u64);
        let aligned = place.offset.is_multiple_of(page_size() as u64);
        if end.is_none() || !aligned {
            return Err(StoreError::Invalid(format!(
                "the store's agent named bytes {}+{} of a segment of {} bytes",
                place.offset, place.len, self.bytes
            )));
        }
        // SAFETY: the offset lies within the mapping, which is one allocation of `bytes` bytes.
        Ok(unsafe { self.address.cast::<u8>().add(place.offset as usize) })
    }

    /// Opens the pages of an object for writing, or closes them again.
    pub fn protect(&self, place: Place, writable: bool) -> Result<()> {
        let address = self.locate(place)?;
        let len = (place.len.max(1) as usize).next_multiple_of(page_size());
        let flags = if writable { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::READ };
        // SAFETY: whole pages of this mapping, which stay readable; that nobody writes to them when they are closed is
        // seen to by the caller, which gives up its `&mut`.
        unsafe { rustix::mm::mprotect(address.as_ptr().cast(), len, flags) }
            .map_err(|e| StoreError::system("change the protection of an object's pages", e))
    }

    /// Faults `len` bytes at `offset` in, for this process too where the kernel can (5.14), without changing them.
    pub fn populate(&self, fd: BorrowedFd<'_>, offset: usize, len: usize) -> Result<()> {
        let len = len.min(self.bytes.saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range lies within the mapping. Huge pages are a wish, and populating keeps contents.
        let populated = unsafe {
            let at = self.address.as_ptr().cast::<u8>().add(offset).cast();
            let _ = rustix::mm::madvise(at, len, Advice::LinuxHugepage);
            rustix::mm::madvise(at, len, Advice::LinuxPopulateWrite)
        };
        if populated.is_ok() {
            return Ok(());
        }
        rustix::fs::fallocate(fd, FallocateFlags::empty(), offset as u64, len as u64)
            .map_err(|e| StoreError::system(format!("get {len} bytes of memory for the store"), e))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and everything that points into it holds this mapping by `Arc`.
        let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Sealed bytes: nobody writes to them while this lives, because it stands for a lease on them.
#[derive(Debug, Clone)]
pub(crate) struct SealedBytes {
    address: NonNull<u8>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: immutable bytes in memory that the Arc keeps mapped.
unsafe impl Send for SealedBytes {}
// SAFETY: as above.
unsafe impl Sync for SealedBytes {}

impl SealedBytes {
    /// The bytes at `place`. The caller holds a lease (or a serving) on the sealed object there for as long as this or a
    /// clone of it is read.
    pub fn new(mapping: Arc<Mapping>, place: Place) -> Result<SealedBytes> {
        Ok(SealedBytes { address: mapping.locate(place)?, len: place.len as usize, _mapping: mapping })
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `locate` checked the range, the Arc keeps it mapped, the lease keeps it unwritten.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }
}

/// Bytes that only their owner can reach until the object there is sealed.
#[derive(Debug)]
pub(crate) struct OwnedBytes {
    address: NonNull<u8>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: as `&mut [u8]`, which is Send and Sync; the Arc keeps the memory mapped.
unsafe impl Send for OwnedBytes {}
// SAFETY: as above.
unsafe impl Sync for OwnedBytes {}

impl OwnedBytes {
    /// The bytes at `place`, which the table has given to the caller alone and which `mapping` may write.
    pub fn new(mapping: Arc<Mapping>, place: Place) -> Result<OwnedBytes> {
        Ok(OwnedBytes { address: mapping.locate(place)?, len: place.len as usize, _mapping: mapping })
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `locate` checked the range; the one owner lends it out by the rules of `&self`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above with `&mut self`; the pages are writable, as `new` demands.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }
}
