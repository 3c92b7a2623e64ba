//! A journal keeps what was acknowledged and cuts off what was not.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::fs;
use std::path::Path;

use lyceum_corpus::journal::{Durability, Journal, JournalError, JournalOptions};

const OPTIONS: JournalOptions = JournalOptions { kind: 1, durability: Durability::OnSync, file_bytes: 400 };

fn payload(index: u8) -> Vec<u8> {
    vec![index; usize::from(index) * 7 % 61]
}

fn open(folder: &Path, epoch: u64) -> Result<(Journal, Vec<Vec<u8>>), JournalError> {
    let mut found = Vec::new();
    let journal = Journal::open(folder, epoch, OPTIONS, |_, payload| {
        found.push(payload.to_vec());
        Ok::<(), JournalError>(())
    })?;
    Ok((journal, found))
}

fn written(folder: &Path, records: u8) -> Vec<Vec<u8>> {
    let (mut journal, found) = open(folder, 1).unwrap();
    assert!(found.is_empty());
    for index in 0..records {
        let location = journal.append(&payload(index)).unwrap();
        assert_eq!(journal.read(location).unwrap(), payload(index));
    }
    journal.sync().unwrap();
    (0..records).map(payload).collect()
}

#[test]
fn records_are_found_again_in_order_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let records = written(folder.path(), 40);
    assert!(folder.path().join("00000003.log").exists());
    let (journal, found) = open(folder.path(), 1).unwrap();
    assert_eq!(found, records);
    assert_eq!(journal.cut(), 0);
}

#[test]
fn a_tail_cut_at_any_byte_leaves_the_whole_records_before_it_and_room_for_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let records = written(folder.path(), 6);
    let file = folder.path().join("00000000.log");
    let whole = fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        let (mut journal, found) = open(folder.path(), 1).unwrap();
        assert!(records.starts_with(&found), "cut at {cut}");
        journal.append(b"new").unwrap();
        let (_, again) = open(folder.path(), 1).unwrap();
        assert_eq!(again[..found.len()], found, "cut at {cut}");
        assert_eq!(again[found.len()..], [b"new".to_vec()], "cut at {cut}");
    }
}

#[test]
fn damage_before_whole_records_is_an_error_and_cuts_nothing_off() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3);
    let file = folder.path().join("00000000.log");
    let whole = fs::read(&file).unwrap();
    // Magic, length (of a record within the file, and far beyond it) and checksum of the first record, which is empty.
    for (at, change) in [(16, 1), (20, 0x10), (20, 1), (23, 0x20), (23, 0x80), (31, 1)] {
        let mut damaged = whole.clone();
        damaged[at] ^= change;
        fs::write(&file, &damaged).unwrap();
        let error = open(folder.path(), 1).unwrap_err();
        assert!(
            matches!(&error, JournalError::Damaged { path, offset: 16 } if *path == file),
            "byte {at}: {error}"
        );
        assert_eq!(fs::read(&file).unwrap(), damaged, "byte {at}");
    }
}

#[test]
fn holes_in_what_was_not_yet_durable_are_cut_off_with_all_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path(), 1).unwrap();
    let kept = journal.append(b"kept").unwrap();
    journal.sync().unwrap();
    let durable = fs::read(folder.path().join("00000000.log")).unwrap().len();
    for index in 1..4 {
        journal.append(&payload(index)).unwrap();
    }
    let file = folder.path().join("00000000.log");
    let whole = fs::read(&file).unwrap();
    // As a power loss may leave it: of the three, the disk has the last alone.
    let mut holed = whole.clone();
    holed[durable..durable + 32].fill(0);
    fs::write(&file, &holed).unwrap();
    let (mut journal, found) = open(folder.path(), 1).unwrap();
    assert_eq!((found, journal.cut()), (vec![b"kept".to_vec()], (whole.len() - durable) as u64));
    assert_eq!(journal.read(kept).unwrap(), b"kept");
    // It goes on from there; and what is found by the next opening is durable from then on.
    journal.append(&payload(1)).unwrap();
    journal.append(&payload(2)).unwrap();
    drop(open(folder.path(), 1).unwrap());
    let mut holed = fs::read(&file).unwrap();
    holed[durable..durable + 32].fill(0);
    fs::write(&file, &holed).unwrap();
    let error = open(folder.path(), 1).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { offset, .. } if offset == durable as u64), "{error}");
}

#[test]
fn a_torn_record_whose_payload_looks_like_headers_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path(), 1).unwrap();
    journal.append(b"kept").unwrap();
    journal.sync().unwrap();
    let file = folder.path().join("00000000.log");
    let kept = fs::read(&file).unwrap();
    // A header of this format at every place, with a checksum that does not fit.
    let torn = [&kept[16..24], &[0; 8][..]].concat().repeat(8);
    fs::write(&file, [&kept[..], &torn[..]].concat()).unwrap();
    let (journal, found) = open(folder.path(), 1).unwrap();
    assert_eq!(found, [b"kept".to_vec()]);
    assert_eq!(journal.cut(), torn.len() as u64);
    assert_eq!(fs::read(&file).unwrap(), kept);
}

#[test]
fn a_flipped_bit_is_never_read_as_data() {
    let folder = tempfile::tempdir().unwrap();
    let records = written(folder.path(), 6);
    let file = folder.path().join("00000000.log");
    let whole = fs::read(&file).unwrap();
    let mark = whole.len() - 16;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged).unwrap();
        match open(folder.path(), 1) {
            // Padding is not checked, for it is not read; nor is it missed when a mark at the very end is none.
            Ok((_, found)) => assert_eq!(found, records, "byte {at}"),
            Err(JournalError::Foreign { .. }) => assert!(at < 16, "byte {at}"),
            Err(JournalError::Damaged { offset, .. }) => {
                assert!((16..mark).contains(&at) && offset <= at as u64, "byte {at}: {offset}");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[test]
fn damage_in_an_earlier_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 40);
    let file = folder.path().join("00000001.log");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = open(folder.path(), 1).unwrap_err();
    assert!(matches!(&error, JournalError::Damaged { path, .. } if *path == file), "{error}");
}

#[test]
fn an_earlier_epoch_may_neither_append_nor_open() {
    let folder = tempfile::tempdir().unwrap();
    let (mut old, _) = open(folder.path(), 4).unwrap();
    old.append(b"one").unwrap();
    let (mut new, found) = open(folder.path(), 5).unwrap();
    assert_eq!(found, [b"one".to_vec()]);
    assert!(matches!(old.append(b"late"), Err(JournalError::Stale { ours: 4, current: 5 })));
    assert!(matches!(open(folder.path(), 4), Err(JournalError::Stale { ours: 4, current: 5 })));
    new.append(b"two").unwrap();
    assert_eq!(open(folder.path(), 5).unwrap().1, [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_journal_of_another_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 1);
    let other = JournalOptions { kind: 2, ..OPTIONS };
    let error = Journal::open(folder.path(), 1, other, |_, _| Ok::<(), JournalError>(())).unwrap_err();
    assert!(matches!(error, JournalError::Foreign { kind: 2, .. }), "{error}");
}
