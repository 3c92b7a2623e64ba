//! Where the head writes its records: a redb file. Every record carries magic, version, length and checksum.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use rkyv::{Archive, Deserialize, Serialize};

use super::decide::RecordStore;
use crate::control::record::{Key, Record, Value};
use crate::error::ClusterError;
use crate::message;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const MAGIC: &[u8; 4] = b"LYRC";
const VERSION: u32 = 6;
const HEAD: usize = 16;

/// A record as it is kept: with its key, so that it can be read without another.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) key: Key,
    pub(super) value: Value,
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
        let database = Database::create(path).map_err(|error| fault(path, error))?;
        let records = Records { path: path.to_owned(), database };
        // The table is there from the first commit on.
        records.commit_all(&[])?;
        Ok(records)
    }

    /// Everything that is written down.
    fn read_all(&self) -> Result<Vec<(Key, Value)>, ClusterError> {
        let fault = |error: redb::Error| fault(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let mut all = Vec::new();
        for entry in table.iter().map_err(|error| fault(error.into()))? {
            let (_, bytes) = entry.map_err(|error| fault(error.into()))?;
            let stored = unframe(bytes.value()).map_err(|reason| self.damaged(reason))?;
            all.push((stored.key, stored.value));
        }
        Ok(all)
    }

    /// Writes a batch down, all of it or nothing; it is on the disk when this returns.
    fn commit_all(&self, batch: &[Record]) -> Result<(), ClusterError> {
        let fault = |error: redb::Error| fault(&self.path, error);
        let transaction = self.database.begin_write().map_err(|error| fault(error.into()))?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
            for record in batch {
                let key = message::encode(&record.key)?;
                match &record.value {
                    None => drop(table.remove(&key[..]).map_err(|error| fault(error.into()))?),
                    Some(value) => {
                        let stored = Stored { key: record.key.clone(), value: value.clone() };
                        let bytes = frame(&message::encode(&stored)?);
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

fn fault(path: &Path, reason: impl ToString) -> ClusterError {
    ClusterError::Database { path: path.display().to_string(), reason: reason.to_string() }
}

/// Magic, version, length, checksum, body.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn unframe(bytes: &[u8]) -> Result<Stored, String> {
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
    message::decode(&aligned).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::record::NodeState;

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

        let mut bytes = frame(&message::encode(&Stored { key: Key::Next, value: Value::Next(1) }).unwrap());
        assert!(unframe(&bytes).is_ok());
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(unframe(&bytes).unwrap_err(), "a record's checksum is wrong");
        assert_eq!(unframe(&bytes[..5]).unwrap_err(), "a record is cut short");
    }
}
