//! The files of objects on disk, and the threads that write and read them.
//!
//! A file is a header of [`HEADER`] bytes, a CRC-32 for each block of [`BLOCK`] bytes, then the object's bytes. The
//! header is [`MAGIC`], then little-endian: version and block size (u32), object origin, sequence and length (u64), and a
//! CRC-32 of the rest of the header and of the checksums. Files are named by the store's own count. They mean nothing
//! to another start of it, which deletes them; its end does so too.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use super::core::Core;
use crate::error::{Result, StoreError};
use crate::memory::{OwnedBytes, SealedBytes};
use crate::object::ObjectId;
use crate::pool::Place;
use crate::table::Event;

/// Bytes that one checksum covers, and that are read at a time.
pub(super) const BLOCK: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"LYCspill";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 2 * 4 + 3 * 8 + 4;
const SUFFIX: &str = ".spill";

/// `f_type` of a file system that is memory itself: see statfs(2).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// The folder of a store's files. Nobody else writes there.
#[derive(Debug)]
pub(super) struct SpillFolder {
    path: PathBuf,
    /// Whether files may still be made; locked while one is.
    open: Mutex<bool>,
}

impl SpillFolder {
    /// Makes the folder, or empties it of what a store that was killed has left.
    pub fn open(path: &Path) -> Result<SpillFolder> {
        let failed = |e: io::Error| StoreError::system(format!("use the folder {}", path.display()), e);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        if rustix::fs::statfs(path).is_ok_and(|file_system| file_system.f_type == TMPFS) {
            tracing::warn!(
                path = %path.display(),
                "objects that go to disk go to a file system in memory, which frees none: set another state folder"
            );
        }
        Ok(SpillFolder { path: path.to_owned(), open: Mutex::new(true) })
    }

    /// Deletes all files, and the folder if it is empty then. Nothing is written any more.
    pub fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = false;
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(&self.path);
    }

    /// A file to read, which stays readable when it is deleted.
    pub fn file(&self, spill: u64) -> io::Result<File> {
        File::open(self.path_of(spill))
    }

    fn path_of(&self, spill: u64) -> PathBuf {
        self.path.join(format!("{spill}{SUFFIX}"))
    }

    fn delete(&self, spill: u64) {
        if let Err(error) = fs::remove_file(self.path_of(spill)) {
            tracing::warn!(spill, %error, "a file of an object that is needed no more cannot be deleted");
        }
    }

    fn write(&self, spill: u64, id: ObjectId, bytes: &[u8], stopping: impl Fn() -> bool) -> io::Result<()> {
        let file = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if !*open {
                return Err(io::Error::other("the store has ended"));
            }
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path_of(spill))?
        };
        let written = write_to(&file, id, bytes, stopping);
        if written.is_err() {
            let _ = fs::remove_file(self.path_of(spill));
        }
        written
    }
}

fn write_to(file: &File, id: ObjectId, bytes: &[u8], stopping: impl Fn() -> bool) -> io::Result<()> {
    let mut head = vec![0; head_bytes(bytes.len())];
    let mut at = head.len() as u64;
    for (block, checksum) in bytes.chunks(BLOCK).zip(head[HEADER..].chunks_exact_mut(4)) {
        if stopping() {
            return Err(io::Error::other("the store has ended"));
        }
        checksum.copy_from_slice(&crc32fast::hash(block).to_le_bytes());
        file.write_all_at(block, at)?;
        at += block.len() as u64;
    }
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    for (field, value) in head[16..40].chunks_exact_mut(8).zip([id.origin, id.sequence, bytes.len() as u64]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    let checksum = checksum_of_head(&head);
    head[40..44].copy_from_slice(&checksum.to_le_bytes());
    // Last: a file that was not written to its end has no header.
    file.write_all_at(&head, 0)
}

fn head_bytes(len: usize) -> usize {
    HEADER + 4 * len.div_ceil(BLOCK)
}

fn checksum_of_head(head: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head[..40]);
    checksum.update(&head[HEADER..]);
    checksum.finalize()
}

/// A file whose header was found to be that of the object that is wanted.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: File,
    len: usize,
    checksums: Vec<u32>,
}

impl SpillFile {
    /// Reads the header, which may be anything.
    pub fn read(file: File, id: ObjectId, len: u64) -> Result<SpillFile, String> {
        let len = usize::try_from(len).map_err(|e| e.to_string())?;
        let whole = (head_bytes(len) as u64).saturating_add(len as u64);
        let found = file.metadata().map_err(|e| e.to_string())?.len();
        if found != whole {
            return Err(format!("its file has {found} bytes where {whole} were written"));
        }
        let mut head = vec![0; head_bytes(len)];
        file.read_exact_at(&mut head, 0).map_err(|e| e.to_string())?;
        let number = |at: usize| head[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
        let long = |at: usize| head[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        if head[..8] != MAGIC || number(8) != VERSION || number(12) != BLOCK as u32 {
            return Err("its file does not begin as such files do".into());
        }
        if number(40) != checksum_of_head(&head) {
            return Err("the header of its file has changed".into());
        }
        let (origin, sequence) = (long(16), long(24));
        if (origin, sequence, long(32)) != (id.origin, id.sequence, len as u64) {
            return Err(format!("its file is of object {origin}.{sequence}"));
        }
        let checksums = (HEADER..head.len()).step_by(4).map(number).collect();
        Ok(SpillFile { file, len, checksums })
    }

    /// Fills `block` with the bytes of block `index`, which has that length.
    pub fn read_block(&self, index: usize, block: &mut [u8]) -> Result<(), String> {
        let at = head_bytes(self.len) as u64 + (index * BLOCK) as u64;
        self.file.read_exact_at(block, at).map_err(|e| format!("its file cannot be read: {e}"))?;
        if self.checksums.get(index) != Some(&crc32fast::hash(block)) {
            return Err(format!("block {index} of its file has changed"));
        }
        Ok(())
    }

    /// Bytes of the object.
    pub fn len(&self) -> usize {
        self.len
    }

    fn read_all(&self, bytes: &mut [u8]) -> Result<(), String> {
        bytes.chunks_mut(BLOCK).enumerate().try_for_each(|(index, block)| self.read_block(index, block))
    }
}

/// What the threads are to do.
#[derive(Debug)]
pub(super) enum Work {
    Write { spill: u64, id: ObjectId, place: Place },
    Read { spill: u64, id: ObjectId, place: Place },
    Delete { spill: u64 },
    End,
}

/// The folder, and the ways to its two threads: reading waits for no writing. The table bounds what is under way (L2).
#[derive(Debug)]
pub(super) struct Spilling {
    pub folder: SpillFolder,
    pub writer: Sender<Work>,
    pub reader: Sender<Work>,
}

impl Spilling {
    /// Ends the threads and deletes the files.
    pub fn end(&self) {
        // A thread that has ended needs no word.
        let _ = (self.writer.send(Work::End), self.reader.send(Work::End));
        self.folder.close();
    }
}

/// The body of both threads.
pub(super) fn run(core: &Arc<Core>, folder: &SpillFolder, work: &Receiver<Work>) {
    while let Ok(work) = work.recv() {
        match work {
            Work::Write { spill, id, place } => {
                let written = write(core, folder, spill, id, place);
                core.apply(match written {
                    Ok(()) => Event::Spilled { spill, id },
                    Err(reason) => {
                        tracing::warn!(object = %id, reason, "an object cannot go to disk");
                        Event::SpillFailed { spill, id, reason }
                    }
                });
            }
            Work::Read { spill, id, place } => {
                let read = read(core, folder, spill, id, place);
                core.apply(match read {
                    Ok(()) => Event::Restored { spill, id },
                    Err(reason) => {
                        tracing::error!(object = %id, reason, "an object on disk is lost");
                        Event::RestoreFailed { spill, id, reason }
                    }
                });
            }
            Work::Delete { spill } => folder.delete(spill),
            Work::End => return,
        }
    }
}

fn write(core: &Core, folder: &SpillFolder, spill: u64, id: ObjectId, place: Place) -> Result<(), String> {
    // The table frees the place with the word of this thread, not before.
    let bytes = SealedBytes::new(core.mapping(place)?, place).map_err(|e| e.to_string())?;
    folder.write(spill, id, bytes.as_slice(), || core.stopping()).map_err(|e| e.to_string())
}

fn read(core: &Core, folder: &SpillFolder, spill: u64, id: ObjectId, place: Place) -> Result<(), String> {
    let file = folder.file(spill).map_err(|e| format!("its file cannot be opened: {e}"))?;
    let file = SpillFile::read(file, id, place.len)?;
    // The table has given the place to this thread alone.
    let mut bytes = OwnedBytes::new(core.mapping(place)?, place).map_err(|e| e.to_string())?;
    file.read_all(bytes.as_mut_slice())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const ID: ObjectId = ObjectId { origin: 5, sequence: 9 };

    fn in_memory() -> File {
        File::from(rustix::fs::memfd_create("spill", rustix::fs::MemfdFlags::CLOEXEC).unwrap())
    }

    fn written(bytes: &[u8]) -> Vec<u8> {
        let file = in_memory();
        write_to(&file, ID, bytes, || false).unwrap();
        let mut all = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    /// A file of an object as long as the file lets it be.
    fn body(data: &[u8]) {
        let len = data.len().saturating_sub(HEADER + 4);
        let mut file = in_memory();
        file.write_all(data).unwrap();
        let Ok(read) = SpillFile::read(file, ID, len as u64) else { return };
        let mut bytes = vec![0; len];
        if read.read_all(&mut bytes).is_ok() {
            assert_eq!(written(&bytes), data, "an object has one file");
        }
    }

    /// The checksums of the one block, and of the header.
    #[expect(clippy::ptr_arg, reason = "what `Fuzz::repair` takes")]
    fn repair(data: &mut Vec<u8>) {
        if data.len() > HEADER + 4 {
            let checksum = crc32fast::hash(&data[HEADER + 4..]);
            data[HEADER..HEADER + 4].copy_from_slice(&checksum.to_le_bytes());
            let checksum = checksum_of_head(&data[..HEADER + 4]);
            data[40..44].copy_from_slice(&checksum.to_le_bytes());
        }
    }

    #[test]
    fn files_of_objects_are_read_as_they_were_written_or_refused() {
        let seeds = [&b"x"[..], &[7; 5000]].map(written);
        lyceum_fuzz::Fuzz::new("spill file").seeds(seeds).repair(repair).memory(1 << 20).run(body);
    }
}
