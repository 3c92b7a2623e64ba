//! An append-only file of records that survives being cut off anywhere.
//!
//! Layout, all little-endian: a file header of magic (8 bytes), version (u32), kind (u32); then records, each a magic
//! (u32), the payload's length (u32), the XXH3-64 of all that and the payload (u64), and the payload padded to 16 bytes.
//! A mark is a record of another magic and no payload: it was written when all before it was on the disk.
//! A journal is a folder of such files, `00000000.log` and on; a new one begins when the last exceeds its size.
//!
//! On opening, every record is checked. Of what was written to the *last* file and not yet forced to the disk, a crash may
//! leave a torn end and a power loss holes: from the first such damage on it is cut off. Damage in an earlier file, or with
//! a mark anywhere behind it, is of what was durable, and an error; nothing of the journal is changed then. What is found
//! good is forced to the disk, since others will build on it.
//!
//! Writers are fenced by an epoch (compare and set): [`Journal::open`] takes the journal over under a lock, and a
//! writer that held it under an earlier epoch gets [`JournalError::Stale`] from then on, whichever process it is in.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const FILE_MAGIC: &[u8; 8] = b"LYCEUMJ\0";
const RECORD_MAGIC: u32 = 0x4c59_4352;
const MARK_MAGIC: u32 = 0x4c59_434d;
const VERSION: u32 = 2;
const FILE_HEADER: u64 = 16;
const RECORD_HEADER: usize = 16;

/// Largest payload: a length beyond it is damage, not a record.
const MOST_PAYLOAD: usize = 1 << 30;

/// Bytes of payload that are checked in search of a record behind damage: room for some of the largest, and an end to
/// the work on a payload that is full of what looks like headers.
const MOST_SEARCHED: u64 = 4 << 30;

/// When appended records are forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before [`Journal::append`] returns: for a log whose every entry is acted on at once.
    EveryAppend,
    /// By [`Journal::sync`]: for many records that are acted on together, after one sync.
    OnSync,
}

/// What a journal holds and how it is kept.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// A number for the kind of payload: a journal of another kind is refused.
    pub kind: u32,
    /// When records are forced to the disk.
    pub durability: Durability,
    /// Bytes after which a new file begins.
    pub file_bytes: u64,
}

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    file: u32,
    length: u32,
    offset: u64,
}

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("{path}: {doing}: {error}")]
    System {
        /// File or folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file is not of this journal's kind and version.
    #[error("{path}: not a journal of kind {kind} and version {VERSION}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The kind expected.
        kind: u32,
    },
    /// A record that was once durable is damaged.
    #[error(
        "{path}: damaged record at byte {offset}: restore the file, or remove the run's folder and start anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
    },
    /// Another writer has taken the journal over.
    #[error("epoch {ours} may not write here any more: epoch {current} has taken over")]
    Stale {
        /// The writer's epoch.
        ours: u64,
        /// The epoch in force.
        current: u64,
    },
    /// The payload is too large.
    #[error("a record of {0} bytes is above {MOST_PAYLOAD}")]
    TooLarge(usize),
    /// The journal failed before and its end is unknown: it must be opened again.
    #[error("{0}: a write failed before: open the journal again")]
    Broken(PathBuf),
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    options: JournalOptions,
    epoch: u64,
    lock: File,
    files: Vec<File>,
    end: u64,
    unsynced: bool,
    broken: bool,
    cut: u64,
}

impl Journal {
    /// Opens or creates the journal in `folder` for the writer of `epoch`, and gives every record to `visit` in order.
    ///
    /// `epoch` must not be below that of any earlier writer.
    pub fn open<E: From<JournalError>>(
        folder: &Path,
        epoch: u64,
        options: JournalOptions,
        mut visit: impl FnMut(Location, &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        std::fs::create_dir_all(folder).map_err(system(folder, "create the folder"))?;
        let path = folder.join("epoch");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(system(&path, "open"))?;
        let mut journal = Self {
            folder: folder.to_owned(),
            options,
            epoch,
            lock,
            files: Vec::new(),
            end: 0,
            unsynced: false,
            broken: false,
            cut: 0,
        };
        journal.lock.lock().map_err(system(&path, "lock"))?;
        let opened = journal.take_over().map_err(E::from).and_then(|()| journal.recover(&mut visit));
        journal.lock.unlock().map_err(system(&path, "unlock"))?;
        opened.map(|()| journal)
    }

    /// Whether the journal in `folder` has begun to hold anything; a folder that is not there holds nothing.
    pub fn holds_records(folder: &Path) -> Result<bool, JournalError> {
        let path = folder.join(format!("{:08}.log", 0));
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len() > FILE_HEADER),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(system(&path, "stat")(error)),
        }
    }

    /// Bytes that were cut off its end when it was opened: what a crash had left half written.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// The writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Appends a record, durable by the journal's [`Durability`]. Refused once a later epoch has taken over.
    pub fn append(&mut self, payload: &[u8]) -> Result<Location, JournalError> {
        if payload.len() > MOST_PAYLOAD {
            return Err(JournalError::TooLarge(payload.len()));
        }
        if self.broken {
            return Err(JournalError::Broken(self.folder.clone()));
        }
        let path = self.folder.join("epoch");
        self.lock.lock().map_err(system(&path, "lock"))?;
        let appended = self.check_epoch().and_then(|()| {
            // From here on a failure leaves an unknown tail, which only opening again can judge.
            self.append_locked(payload).inspect_err(|_| self.broken = true)
        });
        self.lock.unlock().map_err(system(&path, "unlock"))?;
        appended
    }

    /// Forces everything appended to the disk.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.unsynced {
            self.force().inspect_err(|_| self.broken = true)?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn force(&mut self) -> Result<(), JournalError> {
        let Some(file) = self.files.last() else { return Ok(()) };
        let path = self.path(self.files.len() - 1);
        file.sync_data().map_err(system(&path, "sync"))?;
        // Where every append is forced, a record says as much of those before it.
        if self.options.durability == Durability::OnSync {
            file.write_all_at(&record_of(MARK_MAGIC, &[]), self.end).map_err(system(&path, "append"))?;
            self.end += RECORD_HEADER as u64;
        }
        Ok(())
    }

    /// Reads the payload at `location` again, checked.
    pub fn read(&self, location: Location) -> Result<Vec<u8>, JournalError> {
        let index = location.file as usize;
        let path = self.path(index);
        let damaged = || JournalError::Damaged { path: path.clone(), offset: location.offset };
        let file = self.files.get(index).ok_or_else(damaged)?;
        let mut header = [0; RECORD_HEADER];
        file.read_exact_at(&mut header, location.offset).map_err(system(&path, "read"))?;
        let Header { magic, size, checksum } = Header::read(&header).ok_or_else(damaged)?;
        if (magic, size) != (RECORD_MAGIC, location.length as usize) {
            return Err(damaged());
        }
        let mut payload = vec![0; size];
        file.read_exact_at(&mut payload, location.offset + RECORD_HEADER as u64)
            .map_err(system(&path, "read"))?;
        if checksum == checksum_of(magic, &payload) { Ok(payload) } else { Err(damaged()) }
    }

    fn take_over(&mut self) -> Result<(), JournalError> {
        let path = self.folder.join("epoch");
        let current = self.current_epoch()?;
        if current > self.epoch {
            return Err(JournalError::Stale { ours: self.epoch, current });
        }
        self.lock.write_all_at(&self.epoch.to_le_bytes(), 0).map_err(system(&path, "write"))?;
        self.lock.sync_data().map_err(system(&path, "sync"))
    }

    /// The epoch in force; zero in a new journal.
    fn current_epoch(&self) -> Result<u64, JournalError> {
        let path = self.folder.join("epoch");
        let mut bytes = [0; 8];
        let mut file = &self.lock;
        file.seek(SeekFrom::Start(0)).map_err(system(&path, "seek"))?;
        file.take(8).read(&mut bytes).map_err(system(&path, "read"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn check_epoch(&self) -> Result<(), JournalError> {
        match self.current_epoch()? {
            current if current == self.epoch => Ok(()),
            current => Err(JournalError::Stale { ours: self.epoch, current }),
        }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:08}.log"))
    }

    fn recover<E: From<JournalError>>(
        &mut self,
        visit: &mut impl FnMut(Location, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let index = self.files.len();
            let path = self.path(index);
            let last = !self.path(index + 1).exists();
            if !path.exists() {
                if index == 0 {
                    self.begin_file()?;
                }
                return Ok(self.sync()?);
            }
            let file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(system(&path, "open"))?;
            let length = file.metadata().map_err(system(&path, "stat"))?.len();
            let mut header = [0; FILE_HEADER as usize];
            if length < FILE_HEADER {
                if !last {
                    return Err(JournalError::Damaged { path, offset: 0 }.into());
                }
                // The crash came between the file's creation and its header.
                self.cut += length;
                std::fs::remove_file(&path).map_err(system(&path, "remove"))?;
                continue;
            }
            file.read_exact_at(&mut header, 0).map_err(system(&path, "read"))?;
            if header != self.file_header() {
                return Err(JournalError::Foreign { path, kind: self.options.kind }.into());
            }
            let end = self.scan(index, &file, length, visit)?;
            if end < length {
                if !last || self.was_durable(&path, &file, end, length)? {
                    return Err(JournalError::Damaged { path, offset: end }.into());
                }
                tracing::warn!(path = %path.display(), bytes = length - end, "cut off what was never durable");
                file.set_len(end).map_err(system(&path, "truncate"))?;
                file.sync_data().map_err(system(&path, "sync"))?;
                self.cut += length - end;
            }
            self.files.push(file);
            self.end = end;
        }
    }

    /// Visits the good records of a file; returns where they end.
    fn scan<E: From<JournalError>>(
        &mut self,
        index: usize,
        file: &File,
        length: u64,
        visit: &mut impl FnMut(Location, &[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let path = self.path(index);
        let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
        reader.seek(SeekFrom::Start(FILE_HEADER)).map_err(system(&path, "seek"))?;
        let mut offset = FILE_HEADER;
        let mut payload = Vec::new();
        while length - offset >= RECORD_HEADER as u64 {
            let mut header = [0; RECORD_HEADER];
            reader.read_exact(&mut header).map_err(system(&path, "read"))?;
            let Some(Header { magic, size, checksum }) = Header::read(&header) else { break };
            if length - offset < record_bytes(size) {
                break;
            }
            payload.resize(record_bytes(size) as usize - RECORD_HEADER, 0);
            reader.read_exact(&mut payload).map_err(system(&path, "read"))?;
            if checksum != checksum_of(magic, &payload[..size]) {
                break;
            }
            self.unsynced = magic == RECORD_MAGIC;
            if magic == RECORD_MAGIC {
                visit(Location { file: index as u32, length: size as u32, offset }, &payload[..size])?;
            }
            offset += record_bytes(size);
        }
        Ok(offset)
    }

    /// Whether what is damaged at `damaged` was once on the disk: a mark anywhere behind it says so, or, where every append is
    /// forced, a record. The damaged one's length may be the damage, so every place is tried where one can begin: all
    /// are a multiple of their header long.
    fn was_durable(&self, path: &Path, file: &File, damaged: u64, length: u64) -> Result<bool, JournalError> {
        let witness = match self.options.durability {
            Durability::EveryAppend => RECORD_MAGIC,
            Durability::OnSync => MARK_MAGIC,
        };
        let mut offset = damaged + RECORD_HEADER as u64;
        let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
        reader.seek(SeekFrom::Start(offset)).map_err(system(path, "seek"))?;
        let mut payload = Vec::new();
        let mut searched = 0;
        while length.saturating_sub(offset) >= RECORD_HEADER as u64 {
            let mut header = [0; RECORD_HEADER];
            reader.read_exact(&mut header).map_err(system(path, "read"))?;
            if let Some(Header { magic, size, checksum }) = Header::read(&header)
                && magic == witness
                && length - offset >= record_bytes(size)
            {
                searched += size as u64;
                if searched > MOST_SEARCHED {
                    // What is not known to be worthless is not cut off.
                    return Ok(true);
                }
                payload.resize(size, 0);
                file.read_exact_at(&mut payload, offset + RECORD_HEADER as u64)
                    .map_err(system(path, "read"))?;
                if checksum == checksum_of(magic, &payload) {
                    return Ok(true);
                }
            }
            offset += RECORD_HEADER as u64;
        }
        Ok(false)
    }

    fn file_header(&self) -> [u8; FILE_HEADER as usize] {
        let mut header = [0; FILE_HEADER as usize];
        header[..8].copy_from_slice(FILE_MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..].copy_from_slice(&self.options.kind.to_le_bytes());
        header
    }

    fn begin_file(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        let path = self.path(self.files.len());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(system(&path, "create"))?;
        file.write_all_at(&self.file_header(), 0).map_err(system(&path, "write"))?;
        file.sync_data().map_err(system(&path, "sync"))?;
        // The file's name is durable only when its folder is.
        let folder = File::open(&self.folder).map_err(system(&self.folder, "open"))?;
        folder.sync_all().map_err(system(&self.folder, "sync"))?;
        self.files.push(file);
        self.end = FILE_HEADER;
        Ok(())
    }

    fn append_locked(&mut self, payload: &[u8]) -> Result<Location, JournalError> {
        if self.end > FILE_HEADER && self.end + record_bytes(payload.len()) > self.options.file_bytes {
            self.begin_file()?;
        }
        let index = self.files.len() - 1;
        let path = self.path(index);
        let record = record_of(RECORD_MAGIC, payload);
        self.files[index].write_all_at(&record, self.end).map_err(system(&path, "append"))?;
        let location = Location { file: index as u32, length: payload.len() as u32, offset: self.end };
        self.end += record.len() as u64;
        self.unsynced = true;
        if self.options.durability == Durability::EveryAppend {
            self.sync()?;
        }
        Ok(location)
    }
}

/// A record as it lies in a file.
fn record_of(magic: u32, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(record_bytes(payload.len()) as usize);
    record.extend_from_slice(&magic.to_le_bytes());
    record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    record.extend_from_slice(&checksum_of(magic, payload).to_le_bytes());
    record.extend_from_slice(payload);
    record.resize(record_bytes(payload.len()) as usize, 0);
    record
}

fn record_bytes(payload: usize) -> u64 {
    (RECORD_HEADER + payload.next_multiple_of(16)) as u64
}

/// What stands before a payload of `size` bytes.
struct Header {
    magic: u32,
    size: usize,
    checksum: u64,
}

impl Header {
    fn read(bytes: &[u8; RECORD_HEADER]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (magic, size) = (word(0), word(4) as usize);
        let checksum = u64::from(word(8)) | u64::from(word(12)) << 32;
        let most = match magic {
            RECORD_MAGIC => MOST_PAYLOAD,
            MARK_MAGIC => 0,
            _ => return None,
        };
        (size <= most).then_some(Self { magic, size, checksum })
    }
}

fn checksum_of(magic: u32, payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&magic.to_le_bytes());
    hash.update(&(payload.len() as u32).to_le_bytes());
    hash.update(payload);
    hash.digest()
}

fn system<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> JournalError + 'a {
    move |error| JournalError::System { path: path.to_owned(), doing, error }
}

/// A whole file of this kind with these payloads; with `marks` each is durable.
#[cfg(test)]
pub(crate) fn file_of<'a>(kind: u32, payloads: impl Iterator<Item = &'a [u8]>, marks: bool) -> Vec<u8> {
    let mut file = [&FILE_MAGIC[..], &VERSION.to_le_bytes(), &kind.to_le_bytes()].concat();
    for payload in payloads {
        file.extend(record_of(RECORD_MAGIC, payload));
        if marks {
            file.extend(record_of(MARK_MAGIC, &[]));
        }
    }
    file
}

/// Makes the header of a file, and the checksums of its records as far as their lengths lead, right.
#[cfg(test)]
pub(crate) fn repair(file: &mut [u8], kind: u32) {
    let header = file_of(kind, std::iter::empty(), false);
    let begun = header.len().min(file.len());
    file[..begun].copy_from_slice(&header[..begun]);
    let mut rest = &mut file[begun..];
    while let Some((header, tail)) = rest.split_first_chunk_mut::<RECORD_HEADER>() {
        let Some(Header { magic, size, .. }) = Header::read(header) else { return };
        let Some(payload) = tail.get(..size) else { return };
        header[8..].copy_from_slice(&checksum_of(magic, payload).to_le_bytes());
        let padded = size.next_multiple_of(16).min(tail.len());
        rest = &mut tail[padded..];
    }
}
