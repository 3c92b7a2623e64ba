//! Two nodes over QUIC: senders, receivers and their agents killed at each step.

use std::time::Duration;

use lyceum_store::{ObjectId, ObjectRef, Receiver, StoreError};

use crate::node::{Cluster, Node};
use crate::process::Process;
use crate::{MIB, fill, is_whole, until, until_empty, write_reference};

async fn pair(cluster: &Cluster) -> (Node, Node) {
    let [n1, n2] = cluster.nodes();
    (n1, n2)
}

/// `until_empty` off the runtime's thread.
pub async fn empties(node: &Node) {
    let store = node.store.clone();
    tokio::task::spawn_blocking(move || until_empty(&store)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_crosses_to_another_node_and_the_senders_copy_ends_with_its_last_lease() {
    let (n1, n2) = pair(&Cluster::new()).await;
    let (sender, receiver) = (n1.client(1), n2.client(2));
    for len in [0, 1, 4096, 3 * MIB + 5] {
        let mut writer = sender.create(len).await.unwrap();
        fill(&mut writer);
        let object = writer.seal().await.unwrap();
        let (first, second) = (object.share().await.unwrap(), object.share().await.unwrap());
        drop(object);
        let here = receiver.open(&first).await.unwrap();
        assert!(is_whole(&here) && here.len() == len);
        let again = receiver.open(&second).await.unwrap();
        assert_eq!(again.as_ptr(), here.as_ptr(), "one copy per node");
        empties(&n1).await;
        assert_eq!(n2.store.usage().objects, 1);
        // And back, from the copy.
        let back = sender.open(&here.share().await.unwrap()).await.unwrap();
        drop((here, again));
        empties(&n2).await;
        assert!(is_whole(&back) && back.len() == len);
        drop(back);
        empties(&n1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_openers_share_one_fetch_and_many_objects_travel_at_once() {
    let (n1, n2) = pair(&Cluster::new()).await;
    let sender = n1.client(1);
    let mut opening = Vec::new();
    for i in 0..6u64 {
        let mut writer = sender.create(MIB).await.unwrap();
        fill(&mut writer);
        let object = writer.seal().await.unwrap();
        for holder in [10, 20] {
            let (reference, receiver) = (object.share().await.unwrap(), n2.client(holder + i));
            opening.push(tokio::spawn(async move { is_whole(&receiver.open(&reference).await.unwrap()) }));
        }
    }
    for opening in opening {
        assert!(opening.await.unwrap());
    }
    empties(&n1).await;
    empties(&n2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_what_is_gone_is_an_object_lost_that_says_why() {
    let (n1, n2) = pair(&Cluster::new()).await;
    let (sender, receiver) = (n1.client(1), n2.client(2));
    let object = sender.put(b"short lived").await.unwrap();
    let reference = object.share().await.unwrap();
    drop(receiver.open(&reference).await.unwrap());
    drop(object);
    empties(&n1).await;
    empties(&n2).await;
    let used = receiver.open(&reference).await.unwrap_err();
    assert!(matches!(&used, StoreError::ObjectLost { node, .. } if node == "n1"), "{used}");
    assert!(used.to_string().contains("each reference was used"), "{used}");
    let id = ObjectId { origin: 7, sequence: 7 };
    let nowhere = ObjectRef { id, node: "n9".into(), len: 5, ticket: 1 };
    let lost = receiver.open(&nowhere).await.unwrap_err().to_string();
    assert!(lost.contains("n9") && lost.contains("there is no node n9"), "{lost}");
    empties(&n2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_senders_agent_killed_at_any_moment_is_an_object_lost_and_never_a_hang() {
    let cluster = Cluster::new();
    let n2 = cluster.node("n2", 2);
    let receiver = n2.client(2);
    // Before the fetch, within it (by chance, early and late), and after it.
    for (incarnation, delay) in (10..).zip([None, Some(0), Some(5), Some(60), Some(2000)]) {
        let len = 48 * MIB;
        let mut agent = cluster.process("n1", incarnation, &n2, &[&format!("create {len}"), "seal", "share"]);
        agent.after(2);
        let reference = agent.shares();
        if delay.is_none() {
            agent.kill();
        }
        let opening = tokio::spawn({
            let (receiver, reference) = (receiver.clone(), reference.clone());
            async move { receiver.open(&reference).await }
        });
        tokio::time::sleep(Duration::from_millis(delay.unwrap_or(0))).await;
        agent.kill();
        match tokio::time::timeout(Duration::from_secs(15), opening).await.expect("a hang").unwrap() {
            Ok(object) => assert!(delay.is_some() && is_whole(&object)),
            Err(StoreError::ObjectLost { id, node, reason, .. }) => {
                assert_eq!((id, node.as_str()), (reference.id, "n1"));
                assert!(!reason.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
        empties(&n2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_receivers_agent_killed_at_any_moment_leaves_nothing_in_use_at_the_sender() {
    let cluster = Cluster::new();
    let n1 = cluster.node("n1", 1);
    let sender = n1.client(1);
    for (incarnation, delay) in (20..).zip([0, 5, 60, 2000]) {
        let mut writer = sender.create(48 * MIB).await.unwrap();
        fill(&mut writer);
        let object = writer.seal().await.unwrap();
        let there = Receiver { node: "n2".into(), process: incarnation };
        let reference = object.share_with(there.clone()).await.unwrap();
        drop(object);
        let open = format!("open {}", write_reference(&reference));
        let mut agent = cluster.process("n2", incarnation, &n1, &["announce opening", &open]);
        assert_eq!(agent.says(), "opening");
        tokio::time::sleep(Duration::from_millis(delay)).await;
        agent.kill();
        // What the cluster tells this agent when it hears of the death.
        n1.store.release_receiver(there);
        empties(&n1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_receiver_or_sender_killed_within_a_fetch_leaves_nothing_in_use_on_either_node() {
    let (n1, n2) = pair(&Cluster::new()).await;
    for (round, delay) in [0, 10, 80].into_iter().enumerate() {
        for sender_too in [false, true] {
            let holder = 100 + 10 * round as u64 + u64::from(sender_too);
            let script = ["create 30000000", "seal", "share", "drop"];
            let mut sender = Process::attached(&n1.store, holder, &script);
            sender.after(2);
            let open = format!("open {}", write_reference(&sender.shares()));
            sender.says();
            let mut receiver = Process::attached(&n2.store, holder, &["announce opening", &open]);
            receiver.says();
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if sender_too {
                sender.kill();
            }
            receiver.kill();
            if !sender_too {
                // While the sender lives, a receiver that died before it asked is told by the cluster.
                let store = n1.store.clone();
                let waited = tokio::task::spawn_blocking(move || {
                    until(&store, "claimed or untouched", |usage| usage.leases == 0);
                });
                waited.await.unwrap();
                sender.kill();
            }
            empties(&n2).await;
            empties(&n1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_fetch_waits_for_room_in_turn() {
    let (n1, n2) = pair(&Cluster::new()).await;
    let (sender, receiver) = (n1.client(1), n2.client(2));
    let half = crate::node::CAPACITY / 2 + MIB;
    let held = receiver.create(half).await.unwrap();
    let mut writer = sender.create(half).await.unwrap();
    fill(&mut writer);
    let object = writer.seal().await.unwrap();
    let (first, second) = (object.share().await.unwrap(), object.share().await.unwrap());
    let full = receiver.open_within(&first, Duration::from_millis(30)).await.unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    let opening = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.open(&second).await.map(|object| is_whole(&object)) }
    });
    drop(held);
    assert_eq!(opening.await.unwrap(), Ok(true));
    // The first reference was never claimed: its sender takes it back.
    sender.revoke(&first);
    drop(object);
    empties(&n1).await;
    empties(&n2).await;
}
