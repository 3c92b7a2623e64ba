//! The programs that a node has: files of a folder, named by their hashes.
//!
//! A file is there whole or not at all, and readable and executable by its owner alone. What it holds is checked before its
//! first use in an agent's life, and again whenever it looks changed. There are no more bytes than the bound: the least
//! recently used that nobody uses goes for a new one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::program::{Hasher, ProgramHash};
use crate::units::Bytes;

/// Most programs of one node.
const MAX_PROGRAMS: usize = 256;
/// What a file is called until it is whole.
const UNFINISHED: &str = "new-";

/// The programs of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    bound: u64,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    kept: BTreeMap<ProgramHash, Entry>,
    /// Bytes of those that are being written.
    coming: u64,
    /// Counts uses and files.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    program: Arc<Kept>,
    used: u64,
}

/// A program that is there. Whoever holds this uses it: it stays.
#[derive(Debug)]
pub(crate) struct Kept {
    hash: ProgramHash,
    path: PathBuf,
    bytes: u64,
    /// How the file looked when it was checked.
    checked: Mutex<Option<Look>>,
}

/// What changes when a file is written to, or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    file: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

impl Kept {
    pub(in crate::agent) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Cache {
    /// The cache in `folder`, of at most `bound` bytes. What an agent before has left is kept, as long as it is whole.
    pub(super) fn open(folder: PathBuf, bound: u64) -> io::Result<Cache> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let mut found: Vec<(SystemTime, ProgramHash, PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, meta) = (entry.path(), entry.metadata()?);
            let hash = entry.file_name().to_str().and_then(ProgramHash::from_digits);
            match hash.filter(|_| meta.is_file()) {
                Some(hash) => found.push((meta.modified()?, hash, path, meta.len())),
                None if meta.is_dir() => fs::remove_dir_all(&path)?,
                None => fs::remove_file(&path)?,
            }
        }
        found.sort();
        let mut shelf = Shelf::default();
        for (_, hash, path, bytes) in found {
            shelf.keep(Arc::new(Kept { hash, path, bytes, checked: Mutex::default() }));
        }
        let cache = Cache(Arc::new(Inner { folder, bound, shelf: Mutex::new(shelf) }));
        // The bound may be another than it was.
        cache.shelf().make_room(0, bound);
        Ok(cache)
    }

    /// The program, if it is there; to be [checked](Self::check) before it is used.
    pub(super) fn get(&self, hash: ProgramHash) -> Option<Arc<Kept>> {
        self.shelf().touch(hash)
    }

    /// The programs that are there.
    pub(super) fn held(&self) -> Vec<ProgramHash> {
        self.shelf().kept.keys().copied().collect()
    }

    /// Whether the file holds what its name says, which is found out by reading it unless it looks as it did then. What it does
    /// not is gone after this. Takes as long as that takes.
    pub(super) fn check(&self, program: &Arc<Kept>) -> Result<(), String> {
        let mut checked = locked(&program.checked);
        let looks = look(&program.path).ok();
        if looks.is_some() && *checked == looks {
            return Ok(());
        }
        let said = match ProgramHash::of_file(&program.path) {
            Ok((hash, _)) if hash == program.hash => {
                *checked = looks;
                return Ok(());
            }
            Ok((hash, bytes)) => format!("its file was changed: it has {bytes} bytes of {hash}"),
            Err(error) => format!("its file cannot be read: {error}"),
        };
        drop(checked);
        self.discard(program);
        Err(said)
    }

    /// Room for a program of so many bytes, which are to come.
    pub(super) fn receive(&self, hash: ProgramHash, bytes: u64) -> Result<Incoming, String> {
        let Inner { folder, bound, .. } = &*self.0;
        let number = {
            let mut shelf = self.shelf();
            if !shelf.make_room(bytes, *bound) {
                return Err(shelf.full(bytes, *bound));
            }
            shelf.coming += bytes;
            shelf.tick()
        };
        let path = folder.join(format!("{UNFINISHED}{number}"));
        let mut incoming = Incoming {
            cache: self.clone(),
            hash,
            bytes,
            path,
            file: None,
            written: 0,
            hasher: Hasher::default(),
        };
        // Whatever fails from here on gives the room back.
        let created = OpenOptions::new().write(true).create_new(true).mode(0o500).open(&incoming.path);
        incoming.file = Some(created.map_err(|error| incoming.fault(&error))?);
        Ok(incoming)
    }

    fn discard(&self, program: &Arc<Kept>) {
        let mut shelf = self.shelf();
        // Another may have taken its place.
        if shelf.kept.get(&program.hash).is_some_and(|entry| Arc::ptr_eq(&entry.program, program)) {
            shelf.kept.remove(&program.hash);
            remove(&program.path);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        locked(&self.0.shelf)
    }
}

impl Shelf {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn keep(&mut self, program: Arc<Kept>) {
        let used = self.tick();
        self.kept.insert(program.hash, Entry { program, used });
    }

    fn touch(&mut self, hash: ProgramHash) -> Option<Arc<Kept>> {
        let now = self.tick();
        let entry = self.kept.get_mut(&hash)?;
        entry.used = now;
        Some(entry.program.clone())
    }

    fn bytes(&self) -> u64 {
        self.kept.values().map(|entry| entry.program.bytes).sum::<u64>().saturating_add(self.coming)
    }

    /// Whether `bytes` more are within `bound`, once what nobody uses has gone as far as it must.
    fn make_room(&mut self, bytes: u64, bound: u64) -> bool {
        let in_use = |entry: &Entry| Arc::strong_count(&entry.program) > 1;
        let stays: u64 =
            self.kept.values().filter(|entry| in_use(entry)).map(|entry| entry.program.bytes).sum();
        // Nothing goes for what cannot come.
        if bytes > 0 && stays.saturating_add(self.coming).saturating_add(bytes) > bound {
            return false;
        }
        while self.bytes().saturating_add(bytes) > bound || self.kept.len() >= MAX_PROGRAMS {
            let idle = self.kept.iter().filter(|(_, entry)| !in_use(entry));
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(hash, _)| *hash) else {
                return false;
            };
            if let Some(entry) = self.kept.remove(&oldest) {
                tracing::info!(program = %oldest, "a program was not used for the longest time, and makes room");
                remove(&entry.program.path);
            }
        }
        true
    }

    fn full(&self, bytes: u64, bound: u64) -> String {
        let used = self.kept.values().filter(|entry| Arc::strong_count(&entry.program) > 1);
        let used: u64 = used.map(|entry| entry.program.bytes).sum();
        format!(
            "it has {}, and of the {} that `programs.cache` allows {} are in use",
            Bytes(bytes),
            Bytes(bound),
            Bytes(used.saturating_add(self.coming))
        )
    }
}

/// A program on its way into the cache. Dropped before it is whole it leaves nothing.
#[derive(Debug)]
pub(super) struct Incoming {
    cache: Cache,
    hash: ProgramHash,
    bytes: u64,
    path: PathBuf,
    file: Option<File>,
    written: u64,
    hasher: Hasher,
}

impl Incoming {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        self.written += piece.len() as u64;
        if self.written > self.bytes {
            return Err(format!("more than the {} bytes came that were announced", self.bytes));
        }
        self.hasher.update(piece);
        let Some(file) = &mut self.file else { return Err("it is over".into()) };
        file.write_all(piece).map_err(|error| self.fault(&error))
    }

    /// Takes it in, if it is what was announced.
    pub(super) fn finish(mut self) -> Result<Arc<Kept>, String> {
        if self.written < self.bytes {
            return Err(format!("{} of {} bytes came", self.written, self.bytes));
        }
        let found = std::mem::take(&mut self.hasher).finish();
        if found != self.hash {
            return Err(format!("what came is another program, {found}"));
        }
        let to = self.cache.0.folder.join(self.hash.digits());
        let mut put = || -> io::Result<Look> {
            if let Some(file) = self.file.take() {
                file.sync_all()?;
                // Nobody may have it open for writing when it is run.
                drop(file);
            }
            fs::rename(&self.path, &to)?;
            File::open(&self.cache.0.folder)?.sync_all()?;
            look(&to)
        };
        let looks = put().map_err(|error| self.fault(&error))?;
        let checked = Mutex::new(Some(looks));
        let program = Arc::new(Kept { hash: self.hash, path: to, bytes: self.bytes, checked });
        self.cache.shelf().keep(program.clone());
        Ok(program)
    }

    fn fault(&self, error: &io::Error) -> String {
        format!("it cannot be written in {}: {error}", self.cache.0.folder.display())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After a renaming there is none.
        remove(&self.path);
        let mut shelf = self.cache.shelf();
        shelf.coming = shelf.coming.saturating_sub(self.bytes);
    }
}

fn look(path: &Path) -> io::Result<Look> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let changed = (meta.ctime(), meta.ctime_nsec());
    Ok(Look { file: (meta.dev(), meta.ino()), bytes: meta.len(), changed })
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a program cannot be removed");
        }
        _ => {}
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(bytes: &[u8]) -> ProgramHash {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    fn put(cache: &Cache, bytes: &[u8]) -> Result<Arc<Kept>, String> {
        let mut incoming = cache.receive(hash_of(bytes), bytes.len() as u64)?;
        bytes.chunks(7).try_for_each(|piece| incoming.write(piece))?;
        incoming.finish()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_whole_is_kept_for_its_owner_alone_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("programs");
        let cache = Cache::open(folder.clone(), 100).unwrap();
        let kept = put(&cache, b"a program").unwrap();
        assert_eq!(names(&folder), [hash_of(b"a program").digits()]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(kept.path())), (0o700, 0o500));
        cache.check(&kept).unwrap();

        let refused = |said: Result<Arc<Kept>, String>, words: &str| {
            let said = said.unwrap_err();
            assert!(said.contains(words), "{said}");
            assert_eq!(names(&folder).len(), 1, "something is left");
        };
        let announced = |bytes: &[u8], len| {
            let mut incoming = cache.receive(hash_of(b"another"), len)?;
            incoming.write(bytes)?;
            incoming.finish()
        };
        refused(announced(b"something", 9), "what came is another program, sha256:3fc9b689459d738f");
        refused(announced(b"anoth", 7), "5 of 7 bytes came");
        refused(announced(b"another one", 7), "more than the 7 bytes came");
        drop(cache.receive(hash_of(b"another"), 7).unwrap());
        assert_eq!(names(&folder).len(), 1);
        assert_eq!(cache.shelf().coming, 0, "its room is free again");
    }

    #[test]
    fn l2_the_longest_unused_makes_room_and_never_one_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned(), 30).unwrap();
        let [first, second, third] = [[1; 10], [2; 10], [3; 10]];
        let in_use = put(&cache, &first).unwrap();
        drop((put(&cache, &second).unwrap(), put(&cache, &third).unwrap()));
        drop(cache.get(hash_of(&second)).unwrap());
        drop(put(&cache, &[4; 10]).unwrap());
        let here = |bytes: &[u8]| cache.get(hash_of(bytes)).is_some();
        assert!(here(&first) && here(&second) && !here(&third), "the one that was not used for longest goes");
        let full = put(&cache, &[5; 21]).unwrap_err();
        assert_eq!(full, "it has 21 B, and of the 30 B that `programs.cache` allows 10 B are in use");
        assert!(here(&second), "nothing goes for what cannot come");
        drop(in_use);
        drop(put(&cache, &[5; 21]).unwrap());
        assert_eq!(names(folder.path()), [hash_of(&[5; 21]).digits()]);
    }

    #[test]
    fn what_an_agent_has_left_is_kept_if_it_is_whole_and_within_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned(), 100).unwrap();
        drop((put(&cache, b"sound").unwrap(), put(&cache, b"to be changed").unwrap()));
        drop(cache);
        fs::write(folder.path().join("new-7"), "cut off").unwrap();
        let changed = folder.path().join(hash_of(b"to be changed").digits());
        fs::set_permissions(&changed, Permissions::from_mode(0o700)).unwrap();
        fs::write(&changed, "has changed!!").unwrap();

        let cache = Cache::open(folder.path().to_owned(), 100).unwrap();
        assert_eq!(names(folder.path()).len(), 2, "what was cut off is gone");
        cache.check(&cache.get(hash_of(b"sound")).unwrap()).unwrap();
        let said = cache.check(&cache.get(hash_of(b"to be changed")).unwrap()).unwrap_err();
        assert!(said.contains("its file was changed: it has 13 bytes of sha256:"), "{said}");
        assert_eq!(names(folder.path()), [hash_of(b"sound").digits()]);

        // And in an agent's life, where it was checked already.
        let sound = cache.get(hash_of(b"sound")).unwrap();
        fs::set_permissions(sound.path(), Permissions::from_mode(0o700)).unwrap();
        fs::write(sound.path(), "SOUND").unwrap();
        cache.check(&sound).unwrap_err();
        assert!(cache.held().is_empty());

        drop(put(&cache, b"sound").unwrap());
        drop(cache);
        assert!(Cache::open(folder.path().to_owned(), 4).unwrap().held().is_empty(), "it has 5 bytes");
    }
}
