//! Objects that go to disk and come back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lyceum_store::{NodeStore, ObjectRef, SpillOptions, StoreClient, StoreError, StoreOptions};

use crate::node::Cluster;
use crate::remote::empties;
use crate::{MIB, block_on, client, fill, here, is_whole, options, until, until_empty};

/// A store for `mebibytes` of objects, and three times as many on disk, a third of which is kept for reading back.
fn with_disk(folder: &Path, mebibytes: usize) -> StoreOptions {
    let spill = SpillOptions { folder: folder.join("spill"), bytes: 3 * (mebibytes * MIB) as u64 };
    StoreOptions { spill: Some(spill), ..options("n1", 1, mebibytes * MIB) }
}

/// Objects that are in transit to process 2, of `len` bytes each.
async fn send(from: &StoreClient, count: usize, len: usize) -> Vec<ObjectRef> {
    let mut references = Vec::new();
    for _ in 0..count {
        let mut writer = from.create(len).await.unwrap();
        fill(&mut writer);
        references.push(writer.send_to(here(2)).await.unwrap());
    }
    references
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder.join("spill")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn l2_what_is_sent_and_not_opened_goes_to_disk_when_there_is_no_room_and_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = NodeStore::new(with_disk(folder.path(), 4)).unwrap();
    let (sender, receiver) = (client(&store, 1), client(&store, 2));
    // Not a whole number of blocks.
    let len = MIB + MIB / 2 + 1;
    let references = block_on(send(&sender, 6, len));
    let usage = store.usage();
    assert!(usage.bytes_on_disk >= 4 * len as u64, "four of six have no room: {usage:?}");
    assert_eq!(usage.objects, 6);
    assert!(files(folder.path()).len() >= 4);
    for reference in &references {
        let object = block_on(receiver.open(reference)).unwrap();
        assert!(is_whole(&object) && object.len() == len);
    }
    until_empty(&store);
    drop((sender, receiver, store));
    assert!(!folder.path().join("spill").exists(), "the folder ends with the store");
}

#[test]
fn l2_when_the_disk_is_full_too_creators_wait_and_are_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let store = NodeStore::new(with_disk(folder.path(), 2)).unwrap();
    let (sender, receiver) = (client(&store, 1), client(&store, 2));
    let references = block_on(send(&sender, 6, MIB));
    let full = block_on(sender.create_within(MIB, Duration::from_millis(400))).unwrap_err();
    let said = full.to_string();
    assert!(matches!(full, StoreError::Full { .. }), "{said}");
    assert!(said.contains("4194304 of 6291456 bytes are used on disk, and 2097152 are kept"), "{said}");
    let waiting = std::thread::spawn({
        let sender = sender.clone();
        move || block_on(sender.create(MIB)).map(drop)
    });
    until(&store, "waiting", |usage| usage.waiting == 1);
    for reference in &references {
        assert!(is_whole(&block_on(receiver.open(reference)).unwrap()));
    }
    waiting.join().unwrap().unwrap();
    until_empty(&store);
}

#[test]
fn l3_a_file_that_was_changed_is_an_object_lost_and_never_other_bytes() {
    let len = MIB + 5;
    // A byte of the header, of the checksums, of each block, and of the length.
    for (at, cut) in [(0, false), (20, false), (45, false), (60, false), (MIB + 54, false), (70, true)] {
        let folder = tempfile::tempdir().unwrap();
        let store = NodeStore::new(with_disk(folder.path(), 2)).unwrap();
        let (sender, receiver) = (client(&store, 1), client(&store, 2));
        let references = block_on(send(&sender, 2, len));
        let [file] = &files(folder.path())[..] else { panic!("one of two has no room") };
        let mut bytes = fs::read(file).unwrap();
        assert_eq!(bytes.len(), 44 + 2 * 4 + len);
        bytes[at] ^= 1;
        fs::write(file, if cut { &bytes[..at] } else { &bytes }).unwrap();
        // The other makes room for it.
        let lost = block_on(receiver.open(&references[0])).unwrap_err();
        assert!(matches!(&lost, StoreError::ObjectLost { node, .. } if node == "n1"), "{lost}");
        assert!(lost.to_string().contains("it was on disk and cannot be read back: "), "{lost}");
        assert!(is_whole(&block_on(receiver.open(&references[1])).unwrap()));
        until_empty(&store);
    }
}

#[test]
fn a_store_deletes_what_one_that_was_killed_has_left_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    fs::create_dir(&spill).unwrap();
    fs::write(spill.join("7.spill"), b"of another life").unwrap();
    fs::write(spill.join("a person's"), b"own").unwrap();
    let store = NodeStore::new(with_disk(folder.path(), 2)).unwrap();
    assert_eq!(files(folder.path()), [spill.join("a person's")]);
    drop(store);
    assert_eq!(files(folder.path()), [spill.join("a person's")]);
    let nowhere = with_disk(&spill.join("a person's"), 2);
    let refused = NodeStore::new(nowhere).unwrap_err().to_string();
    assert!(refused.contains("a person's"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_on_disk_is_sent_to_another_node_without_coming_back_first() {
    let (folder, cluster) = (tempfile::tempdir().unwrap(), Cluster::new());
    let n1 = cluster.node_with(with_disk(folder.path(), 20));
    let n2 = cluster.node("n2", 2);
    n2.knows("n1", n1.address());
    n1.knows("n2", n2.address());
    let (sender, receiver) = (n1.client(1), n2.client(2));
    // Large enough for two connections.
    let references = send(&sender, 1, 17 * MIB).await;
    // Nothing else fits, and this must stay.
    let held = sender.create(20 * MIB).await.unwrap();
    assert_eq!(n1.store.usage().bytes_on_disk, 17 * MIB as u64);
    let object = receiver.open(&references[0]).await.unwrap();
    assert!(is_whole(&object) && object.len() == 17 * MIB);
    assert_eq!(n1.store.usage().objects, 1);
    drop((object, held));
    empties(&n1).await;
    empties(&n2).await;
    assert!(files(folder.path()).is_empty());
}
