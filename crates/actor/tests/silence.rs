//! A node that falls silent, and comes back.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use lyceum_actor::*;
use lyceum_wire::testing::Faults;

#[test]
fn l3_a_caller_of_a_silent_node_is_told_so_unless_it_waits_through_the_silence() {
    let distant = distant(Faults::none());
    let (here, relay) = (&distant.pair.here, &distant.relay);
    block_on(async {
        let (theirs, desk) = distant.desk::<Clerk>("ada").await;
        let (ends, waits) = (desk.ask(WaitForOpen(1)), desk.ask(WaitForOpen(2)).through_silence());
        let scene = async {
            // Both are sent: this one is behind them.
            desk.ask(Echo("are you there?".into())).await.unwrap();
            relay.sever();
            here.node_suspected("n2", true);
            // Sent before the silence was noticed, or handed back after it.
            while !matches!(desk.ask(Echo("hello?".into())).await, Err(CallError::NotSent(Echo(_), _))) {}
            relay.restore();
            // The control plane says nothing: the connection itself tells that the node is back.
            while desk.ask(Echo("hello?".into())).await.is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
            here.node_suspected("n2", false);
            desk.ask(Open).await.unwrap();
        };
        let (ended, answered, ()) = tokio::join!(ends, waits, scene);
        match ended {
            Err(CallError::Unreachable(why)) => {
                assert!(why.contains("nothing is heard from node n2"), "{why}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(answered.unwrap().to_native(), 2);
        assert!(theirs.ask(Counted).await.unwrap().is_empty());
    });
}

#[test]
fn a_suspicion_ends_no_call_whose_connection_answers() {
    let distant = distant(Faults::none());
    block_on(async {
        let (_, desk) = distant.desk::<Clerk>("ada").await;
        let waits = desk.ask(WaitForOpen(1));
        let scene = async {
            distant.pair.here.node_suspected("n2", true);
            // Several probes long.
            desk.ask(Nap(1600)).await.unwrap();
            desk.ask(Echo("still there?".into())).await.unwrap();
            desk.ask(Open).await.unwrap();
        };
        let (answered, ()) = tokio::join!(waits, scene);
        assert_eq!(answered.unwrap().to_native(), 1);
    });
}

#[test]
fn a_call_that_its_caller_was_told_is_unreachable_is_not_executed_when_the_node_comes_back() {
    let distant = distant(Faults::none());
    let (here, relay) = (&distant.pair.here, &distant.relay);
    block_on(async {
        let (theirs, desk) = distant.desk::<Clerk>("ada").await;
        desk.ask(Echo("hello".into())).await.unwrap();
        // Its handler naps, so the next one waits in the mailbox.
        let naps = theirs.ask(Nap(3000));
        let waits = async {
            let told = desk.ask(Count(7)).await;
            assert!(matches!(told, Err(CallError::Unreachable(_))), "{told:?}");
            relay.restore();
            here.node_suspected("n2", false);
            while desk.ask(Echo("hello?".into())).await.is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let scene = async {
            // The nap has begun and the call is in the mailbox: what is local is not held up by the network.
            std::thread::sleep(Duration::from_millis(200));
            relay.sever();
            here.node_suspected("n2", true);
        };
        let (napped, (), ()) = tokio::join!(naps, waits, scene);
        napped.unwrap();
        assert!(theirs.ask(Counted).await.unwrap().is_empty(), "it was taken back");
    });
}
