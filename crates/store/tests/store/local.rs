//! One node: creators, readers and the agent, killed at each step.

use std::time::Duration;

use lyceum_store::{NodeStore, Object, StoreClient, StoreError, socket_pair};

use crate::node::{Cluster, Node};
use crate::process::Process;
use crate::{MIB, block_on, client, fill, here, is_whole, options, until, until_empty, write_reference};

fn store(capacity: usize) -> NodeStore {
    NodeStore::new(options("n1", 1, capacity)).unwrap()
}

#[test]
fn what_one_process_writes_another_reads_and_the_object_outlives_its_creator() {
    let store = store(8 * MIB);
    let mut creator = Process::attached(&store, 1, &["create 3000001", "seal", "share"]);
    creator.after(2);
    let reference = creator.shares();
    let mut reader =
        Process::attached(&store, 2, &[&format!("open {}", write_reference(&reference)), "drop"]);
    assert_eq!(reader.says(), "opened");
    creator.kill();
    assert_eq!(reader.says(), "dropped");
    until_empty(&store);
}

#[test]
fn what_is_sent_leaves_its_creator_nothing_and_its_receiver_everything() {
    let store = store(8 * MIB);
    let [creator, reader] = [1, 2].map(|holder| client(&store, holder));
    block_on(async {
        let mut writer = creator.create(MIB + 1).await.unwrap();
        fill(&mut writer);
        let reference = writer.send_to(here(2)).await.unwrap();
        assert_eq!((store.usage().in_transit, store.usage().leases), (1, 0));
        let object = reader.open(&reference).await.unwrap();
        assert!(is_whole(&object) && object.len() == MIB + 1);
        assert_eq!((store.usage().in_transit, store.usage().leases), (0, 1));
        drop(object);
        // For one who has gone before it came, and for one who never opens it.
        let reference = creator.create(MIB).await.unwrap().send_to(here(2)).await.unwrap();
        creator.revoke(&reference);
        let _unopened = creator.create(MIB).await.unwrap().send_to(here(2)).await.unwrap();
        store.release_holder(2);
    });
    until_empty(&store);
}

#[test]
fn l1_a_creator_killed_at_any_step_leaves_nothing_in_use() {
    for steps in 1..=3 {
        let store = store(8 * MIB);
        let mut creator = Process::attached(&store, 1, &["create 1000000", "seal", "share"][..steps]);
        creator.after(steps);
        assert!(store.usage().bytes_in_use >= 1_000_000);
        assert_eq!(store.usage().in_transit, u64::from(steps == 3));
        creator.kill();
        until_empty(&store);
    }
}

#[test]
fn l1_a_reader_killed_at_any_step_leaves_nothing_in_use() {
    for opened in [false, true] {
        let store = store(8 * MIB);
        let creator = client(&store, 1);
        let object = block_on(creator.put(&vec![0; MIB])).unwrap();
        let mut objects = vec![object];
        block_on(async {
            let mut writer = creator.create(MIB).await.unwrap();
            fill(&mut writer);
            objects.push(writer.seal().await.unwrap());
        });
        let reference = block_on(objects[1].share_with(here(2))).unwrap();
        drop(objects);
        until(&store, "one object in transit", |usage| (usage.objects, usage.in_transit) == (1, 1));
        let open = format!("open {}", write_reference(&reference));
        let mut reader = Process::attached(&store, 2, &[if opened { &open } else { "announce ready" }]);
        assert_eq!(reader.says(), if opened { "opened" } else { "ready" });
        assert_eq!(store.usage().in_transit, u64::from(!opened));
        reader.kill();
        until_empty(&store);
    }
}

#[test]
fn l1_a_sender_killed_while_its_message_travels_does_not_lose_it() {
    let store = store(8 * MIB);
    let mut sender = Process::attached(&store, 1, &["create 1000000", "seal", "share"]);
    sender.after(2);
    let reference = sender.shares();
    sender.kill();
    until(&store, "without the sender", |usage| usage.leases == 0);
    let object = block_on(client(&store, 2).open(&reference)).unwrap();
    assert!(is_whole(&object));
    drop(object);
    until_empty(&store);
}

#[test]
fn l2_creates_wait_for_room_and_a_killed_waiter_gives_up_its_turn() {
    let store = store(2 * MIB);
    let client = client(&store, 1);
    let held = block_on(client.put(&vec![1; 2 * MIB])).unwrap();
    let mut waiter = Process::attached(&store, 2, &["announce ready", "create 2000000"]);
    waiter.says();
    until(&store, "waiting", |usage| usage.waiting == 1);
    let full = block_on(client.create_within(1, Duration::from_millis(20))).unwrap_err();
    assert!(matches!(full, StoreError::Full { wanted: 1, .. }), "{full}");
    assert!(full.to_string().contains("2097152 of 2097152 bytes are in use by 1 objects"), "{full}");
    waiter.kill();
    until(&store, "without the waiter", |usage| usage.waiting == 0);
    drop(held);
    block_on(client.create(2 * MIB)).unwrap();
    let too_large = block_on(client.create(2 * MIB + 1)).unwrap_err();
    assert_eq!(too_large, StoreError::TooLarge { wanted: 2 * MIB as u64 + 1, largest: 2 * MIB as u64 });
    until_empty(&store);
}

#[test]
fn a_dropped_future_takes_its_place_in_the_queue_with_it() {
    let store = store(2 * MIB);
    let client = client(&store, 1);
    let held = block_on(client.put(&vec![1; 2 * MIB])).unwrap();
    block_on(async {
        let mut waiting = std::pin::pin!(client.create(MIB));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        until(&store, "waiting", |usage| usage.waiting == 1);
    });
    until(&store, "not waiting", |usage| usage.waiting == 0);
    drop(held);
    until_empty(&store);
}

#[test]
fn recycled_memory_is_written_and_read_where_it_lies() {
    let store = store(4 * MIB);
    let (writer, reader) = (client(&store, 1), client(&store, 2));
    for round in 0..50u8 {
        let object = block_on(writer.put(&vec![round; MIB + usize::from(round)])).unwrap();
        assert_eq!(object.as_ptr().addr() % 4096, 0, "page-aligned");
        let reference = block_on(object.share()).unwrap();
        drop(object);
        let object = block_on(reader.open(&reference)).unwrap();
        assert!(object.iter().all(|&byte| byte == round));
    }
    until_empty(&store);
}

#[test]
fn objects_of_one_process_may_be_used_on_many_threads() {
    let store = store(16 * MIB);
    let client = client(&store, 1);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let client = client.clone();
            scope.spawn(move || {
                for round in 0..100 {
                    let object = block_on(client.put(&vec![thread; 100 * round])).unwrap();
                    let again = block_on(async { client.open(&object.share().await?).await }).unwrap();
                    assert_eq!((again.id(), &again[..]), (object.id(), &object[..]));
                }
            });
        }
    });
    drop(client);
    until_empty(&store);
}

#[test]
fn a_revoked_reference_opens_nothing_once_the_object_is_dropped() {
    let store = store(MIB);
    let client = client(&store, 1);
    let object = block_on(client.put(b"something")).unwrap();
    let reference = block_on(object.share()).unwrap();
    client.revoke(&reference);
    drop(object);
    until_empty(&store);
    let lost = block_on(client.open(&reference)).unwrap_err();
    assert!(matches!(lost, StoreError::ObjectLost { .. }), "{lost}");
}

/// Processes that map the segments of store `name`.
fn mapped_by(name: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).ok()?;
        maps.contains(&format!("memfd:lyceum-store-{name}-")).then_some(id)
    });
    processes.collect()
}

#[test]
fn l3_a_killed_agent_fails_those_who_wait_and_leaves_no_memory_behind() {
    // A tokio runtime for the other node's endpoint; the client below needs none.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _guard = runtime.enter();
    let cluster = Cluster::new();
    let peer: Node = cluster.node("beside", 1);
    let (agents_end, processes_end) = socket_pair().unwrap();
    let mut agent = cluster.process_with("doomed", 2, &peer, &["announce ready"], agents_end);
    assert_eq!(agent.says(), "ready");
    let client = StoreClient::attach(processes_end).unwrap();
    let object: Object = block_on(client.put(b"still readable")).unwrap();
    let most = block_on(client.create(crate::node::CAPACITY - MIB)).unwrap();
    let waiting = std::thread::spawn({
        let client = client.clone();
        move || block_on(client.create(2 * MIB)).map(drop)
    });
    assert!(mapped_by("doomed").contains(&agent.id()));
    agent.kill();
    let lost = waiting.join().unwrap().unwrap_err();
    assert!(matches!(lost, StoreError::AgentLost { .. }), "{lost}");
    let lost = block_on(client.put(b"more")).unwrap_err();
    assert!(matches!(lost, StoreError::AgentLost { .. }), "{lost}");
    assert_eq!(&object[..], b"still readable");
    assert_eq!(mapped_by("doomed"), [std::process::id()], "only by those who still read it");
    drop((object, client, most));
    let begun = std::time::Instant::now();
    while !mapped_by("doomed").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no process, no memory");
    }
}
