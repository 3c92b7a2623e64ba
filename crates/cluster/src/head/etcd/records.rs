//! The head's records as keys of etcd.
//!
//! etcd takes a bounded number of operations in one transaction. A batch of more is first put beside the records, in parts; one
//! small transaction then says that it is whole, and from there on it is carried out, by whoever leads: a batch is there
//! with all its records or with none, whenever its writer ends.

use std::sync::Arc;

use super::gateway::{Failure, Op, Range};
use super::leader::Leadership;
use crate::control::record::{Key, Record, Value};
use crate::error::ClusterError;
use crate::head::database::{from_bytes, to_bytes};
use crate::head::decide::RecordStore;
use crate::kinds;

/// Operations of one transaction; etcd takes 128, unless it is told otherwise.
const MAX_OPERATIONS: usize = 96;
/// Bytes of one transaction; etcd takes 1.5 MiB, in base64 a third more.
const MAX_BYTES: usize = 1 << 20;
/// How often reading is begun again that etcd refuses.
const REFUSALS: u32 = 5;
/// Keys that are read at a time.
const PAGE: i64 = 64;

/// Records of the term that holds `leadership`.
#[derive(Debug)]
pub(in crate::head) struct EtcdRecords {
    leadership: Arc<Leadership>,
    batches: u64,
}

impl EtcdRecords {
    pub(in crate::head) fn new(leadership: Arc<Leadership>) -> EtcdRecords {
        EtcdRecords { leadership, batches: 0 }
    }

    fn key(&self, folder: &str, name: &[u8]) -> Vec<u8> {
        [self.leadership.prefix().as_bytes(), folder.as_bytes(), b"/", name].concat()
    }

    /// All pairs whose keys begin so, by key, as they are at one moment.
    fn pairs(&self, folder: &str) -> Result<Vec<Found>, ClusterError> {
        let mut refusals = 0;
        loop {
            match self.pairs_of_one_moment(folder) {
                // What was at a revision may have been compacted away meanwhile.
                Err(ClusterError::Database { .. }) if refusals < REFUSALS => refusals += 1,
                read => return read,
            }
        }
    }

    fn pairs_of_one_moment(&self, folder: &str) -> Result<Vec<Found>, ClusterError> {
        let prefix = self.key(folder, b"");
        let (mut from, mut revision, mut all) = (prefix.clone(), super::gateway::Int(0), Vec::new());
        loop {
            let page = Range::page(from, &prefix, PAGE, revision);
            let found = loop {
                match self.leadership.etcd().range(&page) {
                    Ok(found) => break found,
                    Err(Failure::Refused(why)) => return Err(self.damaged(why)),
                    Err(failure) if self.leadership.is_over() => {
                        return Err(ClusterError::Deposed(failure.to_string()));
                    }
                    Err(failure) => tracing::warn!("the records cannot be read yet: {failure}"),
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            };
            revision = if revision.0 == 0 { found.header.revision } else { revision };
            all.extend(found.pairs.into_iter().map(|pair| (pair.key.0, pair.value.0)));
            match all.last() {
                // The first key behind it.
                Some((last, _)) if found.more => from = [last.as_slice(), &[0]].concat(),
                _ => return Ok(all),
            }
        }
    }

    /// Carries out the batches that an earlier term left whole, and takes away the others' parts.
    fn finish_batches(&mut self) -> Result<(), ClusterError> {
        let prefix = self.key(BATCHES, b"");
        let parts = self.pairs(BATCHES)?;
        let is_mark = |name: &[u8]| name.ends_with(WHOLE);
        let names = parts.iter().map(|(key, value)| (key.get(prefix.len()..).unwrap_or_default(), value));
        for (mark, _) in names.clone().filter(|(name, _)| is_mark(name)) {
            let batch = mark.strip_suffix(WHOLE).unwrap_or_default();
            let parts = names.clone().filter(|(name, _)| name.starts_with(batch) && !is_mark(name));
            for (_, part) in parts {
                let operations = decode_part(part).map_err(|reason| self.damaged(reason))?;
                self.leadership.write(operations.into_iter().map(|op| self.operation(op)).collect())?;
            }
        }
        match parts.is_empty() {
            true => Ok(()),
            false => self.leadership.write(vec![Op::delete_all(&prefix)]),
        }
    }

    fn operation(&self, (key, value): Change) -> Op {
        match value {
            Some(value) => Op::put(self.key(RECORDS, &key), value),
            None => Op::delete(self.key(RECORDS, &key)),
        }
    }

    fn damaged(&self, reason: String) -> ClusterError {
        ClusterError::Database { path: self.leadership.name(), reason }
    }
}

const RECORDS: &str = "records";
const BATCHES: &str = "batches";
/// Ends the key that says of a batch's parts that all are there.
const WHOLE: &[u8] = b"whole";

/// A key of etcd, and its value.
type Found = (Vec<u8>, Vec<u8>);
/// A record's key, and its value unless it is no more.
type Change = (Vec<u8>, Option<Vec<u8>>);

impl RecordStore for EtcdRecords {
    fn read(&mut self) -> Result<Vec<(Key, Value)>, ClusterError> {
        self.finish_batches()?;
        let pairs = self.pairs(RECORDS)?;
        let stored = pairs.into_iter().map(|(_, bytes)| {
            let (key, value) = from_bytes(&bytes).map_err(|reason| self.damaged(reason))?;
            Ok((key, value))
        });
        stored.collect()
    }

    fn commit(&mut self, batch: &[Record]) -> Result<(), ClusterError> {
        let mut parts: Vec<Vec<Change>> = vec![Vec::new()];
        let mut bytes = 0;
        for record in batch {
            let change = change(record)?;
            let size = change.0.len() + change.1.as_ref().map_or(0, Vec::len);
            if parts.last().is_some_and(|part| {
                !part.is_empty() && (part.len() == MAX_OPERATIONS || bytes + size > MAX_BYTES)
            }) {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(part) = parts.last_mut() {
                part.push(change);
            }
        }
        let write = |part: Vec<Change>| {
            self.leadership.write(part.into_iter().map(|change| self.operation(change)).collect())
        };
        if parts.len() == 1 {
            return parts.into_iter().try_for_each(write);
        }
        let name = [self.leadership.term().to_be_bytes(), self.batches.to_be_bytes()].concat();
        let prefix = self.key(BATCHES, &name);
        for (at, part) in parts.iter().enumerate() {
            let key = [prefix.as_slice(), &(at as u32).to_be_bytes()].concat();
            self.leadership.write(vec![Op::put(key, encode_part(part))])?;
        }
        // The last of these to take effect is what commits.
        self.leadership.write(vec![Op::put([prefix.as_slice(), WHOLE].concat(), Vec::new())])?;
        parts.into_iter().try_for_each(write)?;
        self.leadership.write(vec![Op::delete_all(&prefix)])?;
        self.batches += 1;
        Ok(())
    }
}

fn change(record: &Record) -> Result<Change, ClusterError> {
    let key = kinds::encode(&record.key)?;
    let value = record.value.as_ref().map(|value| to_bytes(&record.key, value)).transpose()?;
    Ok((key.to_vec(), value))
}

/// Each change as its key's length, the value's length and one more, or 0 for none, and both.
fn encode_part(part: &[Change]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in part {
        bytes.extend((key.len() as u32).to_le_bytes());
        bytes.extend(value.as_ref().map_or(0, |value| value.len() as u32 + 1).to_le_bytes());
        bytes.extend(key);
        bytes.extend(value.iter().flatten());
    }
    bytes
}

fn decode_part(mut bytes: &[u8]) -> Result<Vec<Change>, String> {
    let mut part = Vec::new();
    let cut = || "a batch's part is cut short".to_owned();
    let mut take = |len: usize| -> Result<&[u8], String> {
        let (taken, rest) = bytes.split_at_checked(len).ok_or_else(cut)?;
        bytes = rest;
        Ok(taken)
    };
    while let Ok(lengths) = take(8) {
        let number = |at: usize| lengths[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
        let (key, value) = (number(0) as usize, number(4) as usize);
        let key = take(key)?.to_vec();
        part.push((key, value.checked_sub(1).map(|len| take(len).map(<[u8]>::to_vec)).transpose()?));
    }
    match bytes.is_empty() {
        true => Ok(part),
        false => Err(cut()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::etcd::etcd_server::{EtcdServer, have_etcd};
    use crate::head::etcd::{Etcd, campaign};

    fn lead(server: &EtcdServer) -> Arc<Leadership> {
        let etcd = Etcd::of(&[server.member()]);
        Arc::new(campaign(etcd, "/test/", b"me", || true).unwrap().unwrap())
    }

    fn job(number: u64) -> Record {
        let name = "j".repeat(20_000);
        let state = crate::control::record::JobState { name, bound_to: None, ended_by: None };
        Record { key: Key::Job(number), value: Some(Value::Job(state)) }
    }

    fn part(data: &[u8]) {
        if let Ok(part) = decode_part(data) {
            assert_eq!(encode_part(&part), data, "a part has one form");
        }
    }

    #[test]
    fn parts_of_batches_are_read_or_refused() {
        let changes = [job(7), Record { key: Key::Next, value: None }];
        let small = changes.iter().map(|record| {
            let (key, value) = change(record).unwrap();
            (key, value.map(|value| value[..40].to_vec()))
        });
        let seed = encode_part(&small.collect::<Vec<_>>());
        lyceum_fuzz::Fuzz::new("etcd part").seeds([seed]).runs(20_000).memory(1 << 20).run(part);
    }

    #[test]
    fn a_batch_is_there_whole_or_not_at_all_however_large_it_is() {
        if !have_etcd() {
            return;
        }
        let server = EtcdServer::start();
        let leadership = lead(&server);
        let mut records = EtcdRecords::new(leadership.clone());
        // More than etcd takes at once, in operations and in bytes.
        let batch: Vec<Record> = (0..300).map(job).collect();
        records.commit(&batch).unwrap();
        records.commit(&[Record { key: Key::Job(7), value: None }]).unwrap();
        assert_eq!(records.read().unwrap().len(), 299);

        // Its writer ended when the parts were there, and not the word that they are all.
        let (half, whole) = ([b"0123456789abcdef".as_slice(), &0u32.to_be_bytes()], b"fedcba9876543210");
        let part = |number| encode_part(&[change(&job(number)).unwrap()]);
        leadership.write(vec![Op::put(records.key(BATCHES, &half.concat()), part(1000))]).unwrap();
        // That of another was, and it was carried out by half.
        for at in 0..3u32 {
            let key = records.key(BATCHES, &[whole.as_slice(), &at.to_be_bytes()].concat());
            leadership.write(vec![Op::put(key, part(2000 + u64::from(at)))]).unwrap();
        }
        let mark = records.key(BATCHES, &[whole.as_slice(), WHOLE].concat());
        leadership.write(vec![Op::put(mark, Vec::new())]).unwrap();
        records.commit(&[job(2001)]).unwrap();

        drop(records);
        let term = leadership.term();
        drop(leadership);
        let next = lead(&server);
        assert!(next.term() > term);
        let mut records = EtcdRecords::new(next);
        let keys: Vec<Key> = records.read().unwrap().into_iter().map(|(key, _)| key).collect();
        assert!(!keys.contains(&Key::Job(1000)));
        assert!((2000..2003).all(|number| keys.contains(&Key::Job(number))));
        assert_eq!(keys.len(), 302);
        assert!(records.pairs(BATCHES).unwrap().is_empty());
    }

    #[test]
    fn who_leads_no_more_writes_nothing() {
        if !have_etcd() {
            return;
        }
        let server = EtcdServer::start();
        let first = lead(&server);
        let mut late = EtcdRecords::new(first.clone());
        late.commit(&[job(1)]).unwrap();
        // Its lease ends, though it does not know.
        let etcd = Etcd::of(&[server.member()]);
        first.end_lease(&etcd);
        let second = lead(&server);
        assert!(matches!(late.commit(&[job(2)]), Err(ClusterError::Deposed(_))));
        let large: Vec<Record> = (10..200).map(job).collect();
        assert!(matches!(late.commit(&large), Err(ClusterError::Deposed(_))));
        let mut records = EtcdRecords::new(second.clone());
        assert_eq!(records.read().unwrap().len(), 1);
        second.clear().unwrap();
        assert!(second.is_over() || records.commit(&[job(3)]).is_err(), "its own key is gone too");
    }

    #[test]
    fn parts_of_batches_come_back_as_they_were() {
        let part = vec![(vec![1, 2], Some(vec![3; 300])), (Vec::new(), None), (vec![9], Some(Vec::new()))];
        let bytes = encode_part(&part);
        assert_eq!(decode_part(&bytes), Ok(part));
        assert_eq!(decode_part(&[]), Ok(Vec::new()));
        for len in [1, 7, 9, bytes.len() - 1] {
            assert!(decode_part(&bytes[..len]).is_err(), "{len}");
        }
    }
}
