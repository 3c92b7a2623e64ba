//! What is sent between processes of a node in regions: nobody is asked, and nothing is left, whoever is killed when.

use lyceum_store::{NodeStore, RegionRef, StoreClient, StoreError};

use crate::process::Process;
use crate::{MIB, block_on, client, fill, is_whole, options, until, write_region};

fn store(capacity: usize) -> NodeStore {
    NodeStore::new(options("n1", 1, capacity)).unwrap()
}

/// A message of `len` bytes for process `receiver`.
fn send(client: &StoreClient, len: usize, receiver: u64) -> RegionRef {
    let mut region = block_on(client.keep_region(len)).unwrap();
    fill(&mut region[..len]);
    region.send_to(receiver, len)
}

/// Nothing is in anybody's hand; what processes keep is still theirs.
fn until_idle(store: &NodeStore) {
    until(store, "idle", |usage| {
        (usage.bytes_in_use, usage.objects, usage.leases, usage.in_transit) == (0, 0, 0, 0)
    });
}

/// Nothing is in use, and nothing kept.
fn until_empty(store: &NodeStore) {
    until(store, "empty", |usage| (usage.bytes_in_use, usage.bytes_kept) == (0, 0));
}

#[test]
fn a_region_serves_for_one_message_after_the_other_and_waits_for_its_reader() {
    let store = store(16 * MIB);
    let [sender, reader] = [1, 2].map(|holder| client(&store, holder));
    let first = send(&sender, MIB + 1, 2);
    assert_eq!((store.usage().in_transit, store.usage().bytes_kept), (1, 0));
    let open = block_on(reader.open_region(&first)).unwrap();
    assert!(is_whole(&open) && open.len() == MIB + 1);
    assert_eq!((store.usage().in_transit, store.usage().leases), (0, 1));
    assert!(sender.region(MIB).is_none(), "it is being read");
    assert!(matches!(block_on(reader.open_region(&first)), Err(StoreError::ObjectLost { .. })), "once");
    drop(open);
    until_idle(&store);
    let kept = store.usage().bytes_kept;
    for _ in 0..10 {
        let mut region = sender.region(MIB + 1).expect("the same again");
        fill(&mut region[..MIB]);
        let open = block_on(reader.open_region(&region.send_to(2, MIB))).unwrap();
        assert!(is_whole(&open) && open.len() == MIB);
    }
    drop(sender.region(5).expect("a smaller one too"));
    until_idle(&store);
    assert_eq!(store.usage().bytes_kept, kept);
    // Given up by either side.
    for who in [&sender, &reader] {
        let unopened = send(&sender, MIB, 2);
        who.give_up_region(&unopened);
        assert!(block_on(reader.open_region(&unopened)).is_err());
    }
    until_idle(&store);
    drop((sender, reader));
    until_empty(&store);
}

#[test]
fn l2_what_is_kept_makes_room_for_whoever_waits_for_some_and_is_bounded() {
    let store = store(8 * MIB);
    let [sender, reader] = [1, 2].map(|holder| client(&store, holder));
    let message = send(&sender, MIB / 2, 2);
    let open = block_on(reader.open_region(&message)).unwrap();
    let _in_transit = send(&sender, MIB / 2 - 1, 2);
    assert!(block_on(sender.keep_region(MIB / 2)).is_none(), "an eighth of the store is the most");
    assert!(block_on(sender.keep_region(64 * MIB)).is_none());
    // All of it is wanted: what is free comes at once, what is read when it has been.
    let all = block_on(async {
        let create = sender.create(8 * MIB);
        tokio::pin!(create);
        tokio::select! {
            biased;
            made = &mut create => panic!("there was no room: {made:?}"),
            () = async { until(&store, "waited for", |usage| usage.waiting == 1) } => {}
        }
        assert!(is_whole(&open));
        drop(open);
        assert!(sender.region(5).is_none(), "wanted");
        reader.give_up_region(&message);
        // The other one is in transit still.
        store.release_holder(2);
        create.await
    });
    assert_eq!(store.usage().bytes_kept, 0);
    drop(all.unwrap());
    until_empty(&store);
}

#[test]
fn l1_a_sender_killed_at_any_step_leaves_nothing() {
    let mib = MIB.to_string();
    for steps in 1..=2 {
        let store = store(16 * MIB);
        let script = [&*format!("keep {mib}"), "mail 2"];
        let mut sender = Process::attached(&store, 1, &script[..steps]);
        sender.after(steps);
        assert_eq!(store.usage().in_transit, u64::from(steps == 2));
        assert!(store.usage().bytes_in_use >= MIB as u64);
        sender.kill();
        until_empty(&store);
    }
}

#[test]
fn l1_a_message_outlives_its_sender_for_as_long_as_it_is_read() {
    let store = store(16 * MIB);
    let reader = client(&store, 2);
    for (opened_before, third) in [(true, 3), (false, 4)] {
        let mut sender = Process::attached(&store, 1, &[&format!("keep {MIB}"), "mail 2"]);
        sender.says();
        let message = sender.mails();
        let before = opened_before.then(|| block_on(reader.open_region(&message)).unwrap());
        sender.kill();
        let open = before.unwrap_or_else(|| block_on(reader.open_region(&message)).unwrap());
        until(&store, "without the sender", |usage| usage.bytes_kept == 0 && usage.leases == 1);
        // It is nobody else's: whoever wants all waits.
        let third = client(&store, third);
        let refused = block_on(third.create_within(16 * MIB, std::time::Duration::from_millis(20)));
        assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
        assert!(is_whole(&open));
        drop(open);
        until_empty(&store);
        drop(block_on(third.create(16 * MIB)).unwrap());
    }
}

#[test]
fn l1_a_reader_killed_at_any_step_frees_what_was_sent_to_it_and_its_sender_goes_on() {
    for opens in [false, true] {
        let store = store(16 * MIB);
        let sender = client(&store, 1);
        let message = send(&sender, MIB, 2);
        let open = format!("read {}", write_region(&message));
        let mut reader = Process::attached(&store, 2, &[if opens { &open } else { "announce ready" }]);
        assert_eq!(reader.says(), if opens { "read" } else { "ready" });
        assert!(sender.region(MIB).is_none());
        reader.kill();
        until_idle(&store);
        drop(sender.region(MIB).expect("free again"));
        drop(sender);
        until_empty(&store);
    }
}

#[test]
fn what_is_said_of_regions_harms_nobody() {
    let store = store(16 * MIB);
    let [sender, reader, third] = [1, 2, 3].map(|holder| client(&store, holder));
    let message = send(&sender, MIB, 2);
    for wrong in [
        RegionRef { origin: 9, ..message.clone() },
        RegionRef { slot: message.slot + 1, ..message.clone() },
        RegionRef { slot: u32::MAX, ..message.clone() },
        RegionRef { ticket: message.ticket ^ 1, ..message.clone() },
    ] {
        assert!(matches!(block_on(reader.open_region(&wrong)), Err(StoreError::ObjectLost { .. })));
        reader.give_up_region(&wrong);
    }
    assert!(block_on(third.open_region(&message)).is_err(), "not sent to it");
    let open = block_on(reader.open_region(&message)).unwrap();
    assert!(is_whole(&open));
}

#[test]
fn l3_without_its_agent_a_process_takes_no_region_and_reads_what_it_has_open() {
    let store = store(16 * MIB);
    let [sender, reader] = [1, 2].map(|holder| client(&store, holder));
    let (message, late) = (send(&sender, MIB, 2), send(&sender, MIB / 2, 2));
    let open = block_on(reader.open_region(&message)).unwrap();
    drop(store);
    // The end is heard of by whoever asks.
    let ended = loop {
        if let Err(error) = block_on(sender.create(1)) {
            break error;
        }
    };
    assert!(matches!(ended, StoreError::AgentLost { .. }), "{ended}");
    assert!(sender.region(5).is_none());
    assert!(block_on(sender.keep_region(5)).is_none());
    assert!(is_whole(&open));
    drop((open, late));
}
