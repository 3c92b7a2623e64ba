//! Where the head writes its records: a redb file. Every record carries magic, version, length and checksum.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use lyceum_wire::WireError;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use rkyv::{Archive, Deserialize, Serialize};

use super::decide::RecordStore;
use crate::control::record::{Key, Record, Value};
use crate::error::ClusterError;
use crate::kinds;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const MAGIC: &[u8; 4] = b"LYRC";
/// Of the records.
pub(crate) const VERSION: u32 = 6;
const HEAD: usize = 16;

/// A record as it is kept: with its key, so that it can be read without another.
#[derive(Debug, Archive, Serialize, Deserialize)]
struct Stored {
    key: Key,
    value: Value,
}

/// The head's database.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    database: Database,
}

impl Records {
    /// Opens the database at `path`, or makes it. One process at a time.
    pub(crate) fn open(path: &Path) -> Result<Records, ClusterError> {
        // On some damaged files the library panics, where it believes what it has not checked.
        let opened = catch_unwind(|| open_checked(path)).unwrap_or_else(|_| Err(DAMAGED.into()));
        let database = opened.map_err(|reason| fault(path, reason))?;
        let records = Records { path: path.to_owned(), database };
        // The table is there from the first commit on.
        records.commit_all(&[])?;
        Ok(records)
    }

    /// Everything that is written down.
    pub(crate) fn read_all(&self) -> Result<Vec<(Key, Value)>, ClusterError> {
        let fault = |error: redb::Error| fault(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let mut all = Vec::new();
        for entry in table.iter().map_err(|error| fault(error.into()))? {
            let (_, bytes) = entry.map_err(|error| fault(error.into()))?;
            all.push(from_bytes(bytes.value()).map_err(|reason| self.damaged(reason))?);
        }
        Ok(all)
    }

    /// Writes a batch down, all of it or nothing; it is on the disk when this returns.
    pub(crate) fn commit_all(&self, batch: &[Record]) -> Result<(), ClusterError> {
        let fault = |error: redb::Error| fault(&self.path, error);
        let transaction = self.database.begin_write().map_err(|error| fault(error.into()))?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
            for record in batch {
                let key = kinds::encode(&record.key)?;
                match &record.value {
                    None => drop(table.remove(&key[..]).map_err(|error| fault(error.into()))?),
                    Some(value) => {
                        let bytes = to_bytes(&record.key, value)?;
                        table.insert(&key[..], &bytes[..]).map_err(|error| fault(error.into()))?;
                    }
                }
            }
        }
        transaction.commit().map_err(|error| fault(error.into()))
    }

    fn damaged(&self, reason: String) -> ClusterError {
        fault(&self.path, reason)
    }
}

impl RecordStore for Records {
    fn read(&mut self) -> Result<Vec<(Key, Value)>, ClusterError> {
        self.read_all()
    }

    fn commit(&mut self, batch: &[Record]) -> Result<(), ClusterError> {
        self.commit_all(batch)
    }
}

const DAMAGED: &str = "it is damaged: restore it from a copy, or remove it and begin anew";

/// Opens a database and holds every page of it against its checksum: a few milliseconds for ten thousand actors.
fn open_checked(path: &Path) -> Result<Database, String> {
    let mut database = Database::create(path).map_err(|error| error.to_string())?;
    match database.check_integrity() {
        Ok(true) => Ok(database),
        // It would go on from an earlier commit, whose effects were not the last.
        Ok(false) => Err(DAMAGED.into()),
        Err(error) => Err(format!("{error}: {DAMAGED}")),
    }
}

fn fault(path: &Path, reason: impl ToString) -> ClusterError {
    ClusterError::Database { path: path.display().to_string(), reason: reason.to_string() }
}

/// A record as it is kept: magic, version, length, checksum, archive.
pub(crate) fn to_bytes(key: &Key, value: &Value) -> Result<Vec<u8>, WireError> {
    let stored = Stored { key: key.clone(), value: value.clone() };
    Ok(frame(&kinds::encode(&stored)?))
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    bytes.extend_from_slice(body);
    seal(&mut bytes);
    bytes
}

/// Writes the head of a record before its archive.
pub(crate) fn seal(record: &mut Vec<u8>) {
    record.resize(record.len().max(HEAD), 0);
    let (head, body) = record.split_at_mut(HEAD);
    head[..4].copy_from_slice(MAGIC);
    head[4..8].copy_from_slice(&VERSION.to_le_bytes());
    head[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    head[12..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

/// Reads what [`to_bytes`] made, which may be anything by now.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<(Key, Value), String> {
    let (head, body) = bytes.split_at_checked(HEAD).ok_or("a record is cut short")?;
    let number = |at: usize| head[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    if &head[..4] != MAGIC {
        return Err("a record has no mark of ours".into());
    }
    if number(4) != VERSION {
        return Err(format!("a record has version {}, read here is {VERSION}", number(4)));
    }
    if number(8) as usize != body.len() || number(12) != crc32fast::hash(body) {
        return Err("a record's checksum is wrong".into());
    }
    let mut aligned: rkyv::util::AlignedVec = rkyv::util::AlignedVec::with_capacity(body.len());
    aligned.extend_from_slice(body);
    let Stored { key, value } = kinds::decode(&aligned).map_err(|error| error.to_string())?;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::record::{JobState, NodeState};

    #[test]
    fn what_was_committed_is_read_back_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.redb");
        let records = Records::open(&path).unwrap();
        let node = NodeState { incarnation: 3, closure: None };
        let put = |key: Key, value| Record { key, value: Some(value) };
        records
            .commit_all(&[
                put(Key::Next, Value::Next(7)),
                put(Key::Node("a".into()), Value::Node(node.clone())),
            ])
            .unwrap();
        records.commit_all(&[Record { key: Key::Next, value: None }]).unwrap();
        drop(records);
        let records = Records::open(&path).unwrap();
        assert_eq!(records.read_all().unwrap(), vec![(Key::Node("a".into()), Value::Node(node))]);

        // A copy of the file while it is open is what a killed head leaves.
        records.commit_all(&[put(Key::Next, Value::Next(8))]).unwrap();
        let left = dir.path().join("left.redb");
        std::fs::copy(&path, &left).unwrap();
        assert_eq!(Records::open(&left).unwrap().read_all().unwrap().len(), 2);

        let mut bytes = to_bytes(&Key::Next, &Value::Next(1)).unwrap();
        assert!(from_bytes(&bytes).is_ok());
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(from_bytes(&bytes).unwrap_err(), "a record's checksum is wrong");
        assert_eq!(from_bytes(&bytes[..5]).unwrap_err(), "a record is cut short");
    }

    #[test]
    fn a_crash_within_a_commit_leaves_what_was_before_or_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.redb");
        let records = Records::open(&path).unwrap();
        let put = |next| Record { key: Key::Next, value: Some(Value::Next(next)) };
        let job = |number| {
            let state = JobState { name: "x".repeat(300), bound_to: None, ended_by: None };
            Record { key: Key::Job(number), value: Some(Value::Job(state)) }
        };
        records.commit_all(&(0..40).map(job).chain([put(1)]).collect::<Vec<_>>()).unwrap();
        let before = std::fs::read(&path).unwrap();
        records.commit_all(&(20..60).map(job).chain([put(2)]).collect::<Vec<_>>()).unwrap();
        let after = std::fs::read(&path).unwrap();
        drop(records);
        // Of what was written until the crash, any blocks may be on the disk.
        let (mut old, mut new) = (0, 0);
        for crash in 0..=64_usize {
            let mut file = before.clone();
            file.resize(after.len(), 0);
            for (number, (place, block)) in file.chunks_mut(512).zip(after.chunks(512)).enumerate() {
                if (number * 7919 + crash * 104_729) % 64 < crash {
                    place.copy_from_slice(block);
                }
            }
            let left = dir.path().join(format!("{crash}.redb"));
            std::fs::write(&left, file).unwrap();
            let found = Records::open(&left).unwrap().read_all().unwrap();
            let next = found.iter().find(|(key, _)| *key == Key::Next).map(|(_, value)| value.clone());
            match (next, found.len()) {
                (Some(Value::Next(1)), 41) => old += 1,
                (Some(Value::Next(2)), 61) => new += 1,
                other => panic!("crash {crash}: {other:?}"),
            }
        }
        assert!(old > 0 && new > 0, "{old} before, {new} after");
    }
}
