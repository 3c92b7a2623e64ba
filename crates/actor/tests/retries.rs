//! Calls that come again, over a network that can be cut.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use lyceum_actor::*;
use lyceum_wire::testing::Faults;

/// Cuts the network, so that calls end as unreachable.
fn cut(distant: &Distant) {
    distant.relay.sever();
    distant.pair.here.node_suspected("n2", true);
}

fn mend(distant: &Distant) {
    distant.relay.restore();
    distant.pair.here.node_suspected("n2", false);
}

/// Waits until calls are refused because of the silence: those that were under way have ended.
async fn silent(desk: &ActorRef<Desk>) {
    while !matches!(desk.ask(Echo("hello?".into())).await, Err(CallError::NotSent(..))) {}
}

#[test]
fn a_call_that_comes_again_after_a_silence_is_executed_once_and_has_the_same_answer() {
    let distant = distant(Faults::none());
    block_on(async {
        let (theirs, desk) = distant.desk::<Clerk>("ada").await;
        let call = desk.ask(WaitForOpen(5)).retries(30);
        let scene = async {
            // The call is sent: this one is behind it.
            desk.ask(Echo("are you there?".into())).await.unwrap();
            cut(&distant);
            silent(&desk).await;
            // It is answered while nobody hears it. Executed again, it would wait for ever.
            theirs.ask(Open).await.unwrap();
            mend(&distant);
        };
        let (answered, ()) = tokio::join!(call, scene);
        assert_eq!(answered.unwrap().to_native(), 5);
    });
}

#[test]
fn a_call_that_comes_again_while_it_is_at_work_waits_for_its_answer() {
    let distant = distant(Faults::none());
    block_on(async {
        let (_, desk) = distant.desk::<Clerk>("ada").await;
        let call = desk.ask(WaitForOpen(5)).retries(30);
        let scene = async {
            desk.ask(Echo("are you there?".into())).await.unwrap();
            cut(&distant);
            silent(&desk).await;
            mend(&distant);
            // What comes again is before this.
            while desk.ask(Open).await.is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        // Whoever came again in between waits with the first.
        let (answered, ()) = tokio::join!(call, scene);
        assert_eq!(answered.unwrap().to_native(), 5);
    });
}

#[test]
fn a_call_comes_again_over_another_connection_when_the_first_is_lost() {
    let distant = distant(Faults::none());
    block_on(async {
        let (theirs, desk) = distant.desk::<Clerk>("ada").await;
        let other = distant.desk::<Clerk>("bob").await.1;
        let (call, naps) = (desk.ask(WaitForOpen(5)).retries(30), other.ask(Nap(600_000)));
        let scene = async {
            desk.ask(Echo("are you there?".into())).await.unwrap();
            distant.relay.sever();
            // It is answered while nobody hears it. Executed again, it would wait for ever.
            theirs.ask(Open).await.unwrap();
        };
        let lost = async {
            assert!(matches!(naps.await, Err(CallError::Unknown(_))), "this one is not sent again");
            distant.relay.restore();
        };
        let (answered, (), ()) = tokio::join!(call, scene, lost);
        assert_eq!(answered.unwrap().to_native(), 5);
        distant.pair.there.shut_down(Duration::ZERO).await;
    });
}

#[test]
fn a_call_that_was_passed_by_is_executed_when_it_comes_again() {
    let distant = distant(Faults::none());
    block_on(async {
        let (theirs, desk) = distant.desk::<Clerk>("ada").await;
        desk.ask(Echo("hello".into())).await.unwrap();
        // Its handler naps, so the call waits in the mailbox, and is taken back before its turn.
        let naps = theirs.ask(Nap(2500));
        let call = desk.ask(Count(7)).retries(30);
        let scene = async {
            std::thread::sleep(Duration::from_millis(200));
            cut(&distant);
            silent(&desk).await;
            mend(&distant);
        };
        let (napped, answered, ()) = tokio::join!(naps, call, scene);
        napped.unwrap();
        assert_eq!(answered.unwrap().to_native(), 1);
        assert_eq!(theirs.ask(Counted).await.unwrap().read().unwrap(), [7]);
    });
}

#[test]
fn l2_calls_that_could_come_again_do_not_wait_for_one_that_is_long_at_work() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let long = desk.ask(WaitForOpen(5)).retries(1);
        let others = async {
            // More than an actor keeps answers for, each less than the network takes at once.
            for _ in 0..10 {
                for answer in join_all((0..1000).map(|_| desk.ask(Echo("hello".into())).retries(1))).await {
                    assert_eq!(answer.unwrap(), "ada: hello");
                }
            }
            desk.ask(Open).await.unwrap();
        };
        let (long, ()) = tokio::join!(long, others);
        assert_eq!(long.unwrap().to_native(), 5);
        pair.here.shut_down(Duration::ZERO).await;
        pair.there.shut_down(Duration::ZERO).await;
    });
}

#[test]
fn a_death_ends_a_call_that_could_come_again() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        match desk.ask(Panic("I resign".into())).retries(30).await {
            Err(CallError::Dead(report)) => assert!(report.to_string().contains("I resign")),
            other => panic!("{other:?}"),
        }
        match desk.ask(Fail).retries(30).await {
            Err(CallError::Dead(_)) => {}
            other => panic!("{other:?}"),
        }
        pair.here.shut_down(Duration::ZERO).await;
        pair.there.shut_down(Duration::ZERO).await;
    });
}

#[test]
fn the_last_error_is_the_callers_when_no_retry_helped_in_its_time() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        match desk.ask(Sum(vec![0; 17 << 20])).retries(2).await {
            Err(CallError::NotSent(Sum(bytes), why)) => assert_eq!(bytes.len(), 17 << 20, "{why}"),
            other => panic!("{other:?}"),
        }
        pair.there.shut_down(Duration::ZERO).await;
        let late = desk.ask(Echo("hello".into())).retries(1000).deadline(Duration::from_millis(700)).await;
        // Its process may have said that it ended before its connections went.
        let known = matches!(late, Err(CallError::NotSent(..) | CallError::Deadline | CallError::Dead(_)));
        assert!(known, "{late:?}");
        pair.here.shut_down(Duration::ZERO).await;
    });
}
