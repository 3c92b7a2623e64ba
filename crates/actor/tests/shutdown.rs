//! What a process says last is heard.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use lyceum_actor::*;
use lyceum_wire::testing::Faults;

#[test]
fn every_answer_that_was_given_before_a_shutdown_arrives_over_a_bad_network_too() {
    for seed in 1..=3 {
        println!("seed {seed}");
        let distant = distant(Faults::bad(seed));
        block_on(async {
            let (theirs, desk) = distant.desk::<Clerk>("ada").await;
            let asked = join_all((0..1000).map(|number| desk.ask(Count(number))));
            let shutdown = async {
                // All are handled; of their answers some have hardly left.
                while theirs.ask(Counted).await.unwrap().len() < 1000 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                distant.pair.there.shut_down(Duration::from_secs(1)).await;
            };
            let (answers, ()) = tokio::join!(asked, shutdown);
            for (number, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.unwrap().to_native() as usize, number + 1, "seed {seed}");
            }
        });
        assert!(distant.relay.lost() > 0, "the network was bad (seed {seed})");
    }
}

#[test]
fn a_message_that_was_handed_over_before_a_shutdown_arrives() {
    let distant = distant(Faults::bad(4));
    block_on(async {
        let (theirs, desk) = distant.desk::<Clerk>("ada").await;
        for number in 0..100 {
            desk.tell(Count(number)).await.unwrap();
        }
        distant.pair.here.shut_down(Duration::from_secs(1)).await;
        while theirs.ask(Counted).await.unwrap().len() < 100 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(theirs.ask(Counted).await.unwrap().read().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn a_shutdown_does_not_wait_for_a_peer_that_hears_nothing() {
    let distant = distant(Faults { loss: 0.0, duplication: 0.0, ..Faults::bad(5) });
    block_on(async {
        let (_, desk) = distant.desk::<Clerk>("ada").await;
        desk.ask(Echo("hello".into())).await.unwrap();
        distant.relay.sever();
        // Comes to its end although nobody acknowledges anything.
        distant.pair.there.shut_down(Duration::from_secs(1)).await;
    });
}

#[test]
fn what_is_sent_during_a_shutdown_comes_back() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        desk.ask(Echo("hello".into())).await.unwrap();
        pair.here.shut_down(Duration::ZERO).await;
        match desk.ask(Echo("too late".into())).await {
            Err(CallError::NotSent(Echo(text), _)) => assert_eq!(text, "too late"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_second_shutdown_returns_at_once() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let other = pair.desk::<Clerk>("bob").await;
        let ended = async {
            // While ada computes, and hears of no end.
            for _ in 0..100 {
                other.ask(Count(1)).await.unwrap();
            }
            pair.there.shut_down(Duration::ZERO).await;
            pair.there.shut_down(Duration::from_secs(600)).await;
        };
        let (spin, ()) = futures_util::future::join(desk.ask(Spin(1000)), ended).await;
        assert!(spin.is_err());
        pair.here.shut_down(Duration::ZERO).await;
    });
}
