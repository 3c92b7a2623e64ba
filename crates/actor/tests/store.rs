//! Large payloads between systems that have a store.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use common::*;
use lyceum_actor::*;
use lyceum_store::{NodeStore, Receiver, StoreClient, StoreOptions, socket_pair};
use lyceum_wire::PeerRole;

/// Two systems on one node, whose store they share.
fn pair_with_store() -> (Pair, NodeStore) {
    pair_with_store_of(16 << 20)
}

fn pair_with_store_of(capacity: u64) -> (Pair, NodeStore) {
    let pair = pair();
    let store = NodeStore::new(StoreOptions::new("n1", 1, capacity)).unwrap();
    for system in [&pair.here, &pair.there] {
        give_store(system, &store);
    }
    (pair, store)
}

fn give_store(system: &System, store: &NodeStore) {
    let (agents_end, processes_end) = socket_pair().unwrap();
    store.attach(system.address().process, agents_end).unwrap();
    system.set_large_payloads(Arc::new(StoreClient::attach(processes_end).unwrap()));
}

#[test]
fn a_persons_program_has_no_store_and_is_sent_large_replies_on_the_lane() {
    let pair = pair_of(PeerRole::Client, registry(), registry());
    let store = NodeStore::new(StoreOptions::new("n2", 1, 16 << 20)).unwrap();
    give_store(&pair.there, &store);
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        drop(send_large_and_small(&desk).await);
        assert_eq!(store.usage().bytes_in_use, 0);
    });
}

#[test]
fn l2_large_payloads_lie_in_the_store_keep_their_place_in_the_order_and_leave_nothing_behind() {
    let (pair, store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let reply = send_large_and_small(&desk).await;
        assert!(store.usage().bytes_in_use >= 2_500_003, "the reply is read where it lies");
        drop(reply);
        assert_emptied(&store);
    });
}

#[test]
fn a_payload_that_finds_no_room_in_the_store_travels_on_the_lane_and_keeps_its_place() {
    let (pair, store) = pair_with_store_of(1 << 20);
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        drop(send_large_and_small(&desk).await);
        assert_eq!(store.usage().bytes_in_use, 0);
    });
}

/// Comes to zero bytes in use, and soon: not when some lease has expired.
fn assert_emptied(store: &NodeStore) {
    let began = Instant::now();
    while store.usage().bytes_in_use > 0 {
        assert!(began.elapsed() < Duration::from_secs(8), "left behind: {:?}", store.usage());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Looks again and again, and lets what is awaited beside it go on in between.
async fn until(done: impl Fn() -> bool) {
    poll_fn(|cx| {
        if done() {
            return Poll::Ready(());
        }
        std::thread::sleep(Duration::from_millis(1));
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn large() -> Sum {
    Sum(vec![1; 200_000])
}

#[test]
fn l2_a_message_for_nobody_leaves_nothing_in_the_store() {
    let (pair, store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let mut unknown = desk.address().clone();
        unknown.actor = ActorId(77);
        let unknown = pair.here.actor_ref::<Desk>(unknown).unwrap();
        assert!(matches!(unknown.ask(large()).await, Err(CallError::Refused(_))));
        assert_emptied(&store);
        assert!(unknown.tell(large()).await.is_err());
        assert_emptied(&store);

        pair.there.stop_actor(desk.address().actor, "the test");
        desk.died().await;
        assert!(matches!(desk.ask(large()).await, Err(CallError::Dead(_))));
        assert_emptied(&store);
    });
}

#[test]
fn l2_a_message_that_is_never_handled_leaves_nothing_in_the_store() {
    let (pair, store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        // Its time is up while it waits behind the nap.
        desk.tell(Nap(300)).await.unwrap();
        let late = desk.ask(large()).deadline(Duration::from_millis(100)).await;
        assert!(matches!(late, Err(CallError::Deadline)), "{late:?}");
        assert_emptied(&store);

        // Its caller is gone while it waits behind the nap.
        desk.tell(Nap(300)).await.unwrap();
        {
            let mut asked = pin!(desk.ask(large()));
            poll_fn(|cx| {
                assert!(asked.as_mut().poll(cx).is_pending());
                if store.usage().in_transit > 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        assert_emptied(&store);

        // The actor is killed while messages wait in its mailbox.
        desk.tell(Nap(60_000)).await.unwrap();
        desk.tell(large()).await.unwrap();
        let kill = async {
            until(|| store.usage().in_transit == 2).await;
            pair.there.kill_actor(desk.address().actor, Cause::OrderedBy("the test".into()));
        };
        let (asked, ()) = tokio::join!(desk.ask(large()), kill);
        assert!(matches!(asked, Err(CallError::Dead(_) | CallError::NotSent(..))), "{asked:?}");
        assert_emptied(&store);
    });
}

#[test]
fn l2_a_reply_that_nobody_takes_leaves_nothing_in_the_store() {
    let (pair, store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        {
            let mut asked = pin!(desk.ask(Bytes(300_000)));
            poll_fn(|cx| {
                assert!(asked.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            until(|| store.usage().in_transit > 0).await;
            // On its way, or come and not looked at.
        }
        desk.ask(Echo("it is not held up".into())).await.unwrap();
        assert_emptied(&store);
    });
}

#[test]
fn l2_messages_and_replies_for_a_process_that_is_gone_leave_nothing_in_the_store() {
    let (pair, store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        desk.tell(Nap(60_000)).await.unwrap();
        desk.tell(large()).await.unwrap();
        let asked = desk.ask(large());
        let verdict = async {
            let process = pair.there.address();
            let death = ProcessDeath {
                process: process.process,
                node: process.node.clone(),
                cause: Cause::Signal(9),
                log_tail: Vec::new(),
            };
            until(|| store.usage().in_transit == 2).await;
            // As its agent does.
            let (node, process) = (death.node.clone(), death.process);
            store.release_receiver(Receiver { node, process });
            pair.here.process_died(death);
        };
        let (asked, ()) = tokio::join!(asked, verdict);
        match asked {
            Err(CallError::Dead(report)) => assert_eq!(report.cause, Cause::Signal(9)),
            Err(CallError::NotSent(_, why)) => assert!(why.contains("ended by signal 9"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_emptied(&store);
    });
}

#[test]
fn a_large_reply_that_is_being_stored_at_a_shutdown_arrives() {
    let (pair, _store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let shutdown = async {
            // It is behind the large one.
            desk.ask(Echo("was it handled?".into())).await.unwrap();
            pair.there.shut_down(Duration::from_secs(1)).await;
        };
        let (large, ()) = tokio::join!(desk.ask(Bytes(3_000_000)), shutdown);
        assert_eq!(large.unwrap().as_slice(), pattern(3_000_000));
    });
}
