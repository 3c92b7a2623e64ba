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

/// Two systems that share a store, once as processes of one node, once as if they were of two.
fn each(test: impl Fn(Pair, NodeStore)) {
    for pair in [neighbours(), pair()] {
        let (pair, store) = with_store(pair, 16 << 20);
        test(pair, store);
    }
}

fn with_store(pair: Pair, capacity: u64) -> (Pair, NodeStore) {
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
    each(|pair, store| {
        block_on(async {
            let desk = pair.desk::<Clerk>("ada").await;
            let reply = send_large_and_small(&desk).await;
            assert!(store.usage().bytes_in_use >= 2_500_003, "the reply is read where it lies");
            drop(reply);
            assert_emptied(&store);
        })
    });
}

#[test]
fn what_goes_in_regions_asks_nobody_and_its_room_comes_back() {
    let (pair, store) = with_store(neighbours(), 16 << 20);
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        assert_eq!(desk.ask(large()).await.unwrap().to_native(), 200_000);
        let kept = store.usage().bytes_kept;
        assert!(kept >= 200_000, "its sender keeps the region");
        for _ in 0..20 {
            assert_eq!(desk.ask(large()).await.unwrap().to_native(), 200_000);
            let usage = store.usage();
            assert_eq!((usage.bytes_kept, usage.objects), (kept, 0), "the same again");
        }
        // The way back, too.
        let reply = desk.ask(Bytes(300_000)).await.unwrap();
        assert_eq!(reply.as_slice(), pattern(300_000));
        let before = store.usage();
        assert_eq!((before.leases, before.objects), (1, 0), "it is read where it lies");
        drop(reply);
        assert_emptied(&store);
        // Whoever wants all of the store gets it.
        let (agents_end, processes_end) = socket_pair().unwrap();
        store.attach(77, agents_end).unwrap();
        let other = StoreClient::attach(processes_end).unwrap();
        let all = other.create(16 << 20).await.unwrap();
        assert_eq!(store.usage().bytes_kept, 0);
        drop(all);
    });
}

#[test]
fn messages_of_any_size_are_whole_wherever_they_are_written() {
    let (pair, _store) = with_store(neighbours(), 16 << 20);
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        for len in [10, 70_000, 400_000, 1_900_000, 2_500_000, 70_000, 1_900_000] {
            let text: String = (0..len).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
            let echo = desk.ask(Echo(text.clone())).await.unwrap();
            assert!(echo.as_str().ends_with(&text), "{len}");
        }
    });
}

#[test]
fn a_payload_that_finds_no_room_in_the_store_travels_on_the_lane_and_keeps_its_place() {
    let (pair, store) = with_store(pair(), 1 << 20);
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
    each(|pair, store| {
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
        })
    });
}

#[test]
fn l2_a_message_that_is_never_handled_leaves_nothing_in_the_store() {
    each(|pair, store| {
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
        })
    });
}

#[test]
fn l2_a_reply_that_nobody_takes_leaves_nothing_in_the_store() {
    each(|pair, store| {
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
        })
    });
}

#[test]
fn l2_messages_and_replies_for_a_process_that_is_gone_leave_nothing_in_the_store() {
    each(|pair, store| {
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
                if node == store.node() {
                    store.release_holder(process);
                } else {
                    store.release_receiver(Receiver { node, process });
                }
                pair.here.process_died(death);
            };
            let (asked, ()) = tokio::join!(asked, verdict);
            match asked {
                Err(CallError::Dead(report)) => assert_eq!(report.cause, Cause::Signal(9)),
                Err(CallError::NotSent(_, why)) => assert!(why.contains("ended by signal 9"), "{why}"),
                other => panic!("{other:?}"),
            }
            assert_emptied(&store);
        })
    });
}

#[test]
fn a_large_reply_that_is_being_stored_at_a_shutdown_arrives() {
    each(|pair, _store| {
        block_on(async {
            let desk = pair.desk::<Clerk>("ada").await;
            let shutdown = async {
                // It is behind the large one.
                desk.ask(Echo("was it handled?".into())).await.unwrap();
                pair.there.shut_down(Duration::from_secs(1)).await;
            };
            let (large, ()) = tokio::join!(desk.ask(Bytes(3_000_000)), shutdown);
            assert_eq!(large.unwrap().as_slice(), pattern(3_000_000));
        })
    });
}
