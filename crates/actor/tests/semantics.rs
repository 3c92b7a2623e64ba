//! What a call means, asserted for an actor in this process and for one behind a connection alike: the sentences of
//! `docs/semantics.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use lyceum_actor::*;

/// Runs `test` with an actor of this process, then with one of another system.
fn local_and_remote<A: Actor<Role = Desk>>(test: impl AsyncFn(&System, ActorRef<Desk>)) {
    let system = alone();
    block_on(async {
        let desk = system.spawn::<A>("ada".to_owned()).await.unwrap();
        test(&system, desk).await;
        system.shut_down(Duration::from_secs(1)).await;
    });
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<A>("ada").await;
        test(&pair.there, desk).await;
        pair.here.shut_down(Duration::from_secs(1)).await;
        pair.there.shut_down(Duration::from_secs(1)).await;
    });
}

#[test]
fn an_ask_is_answered() {
    local_and_remote::<Clerk>(async |_, desk| {
        assert_eq!(desk.ask(Echo("hello".into())).await.unwrap(), "ada: hello");
        assert_eq!(desk.ask(Echo("again".into())).await.unwrap().read().unwrap(), "ada: again");
    });
}

#[test]
fn messages_of_one_sender_arrive_in_the_order_sent() {
    local_and_remote::<Clerk<16>>(async |_, desk| {
        for number in 0..1000 {
            desk.tell(Count(number)).await.unwrap();
        }
        let counted = desk.ask(Counted).await.unwrap().read().unwrap();
        assert_eq!(counted, (0..1000).collect::<Vec<_>>());
        let asks = join_all((1000..2000).map(|number| desk.ask(Count(number)))).await;
        assert!(asks.iter().all(Result::is_ok));
        let counted = desk.ask(Counted).await.unwrap().read().unwrap();
        assert_eq!(counted, (0..2000).collect::<Vec<_>>());
    });
}

#[test]
fn a_handlers_error_is_the_callers_with_its_chain_and_the_actor_lives() {
    local_and_remote::<Clerk>(async |_, desk| {
        match desk.ask(Fail).await {
            Err(CallError::Failed(chain)) => assert_eq!(chain, ["the outer reason", "the inner reason"]),
            other => panic!("{other:?}"),
        }
        assert_eq!(desk.ask(Echo("still here".into())).await.unwrap(), "ada: still here");
    });
}

#[test]
fn a_panic_kills_the_actor_and_every_caller_is_told_its_text() {
    local_and_remote::<Clerk>(async |_, desk| {
        let waiting = desk.ask(WaitForOpen(1));
        let panics = desk.ask(Panic("the lamp fell over".into()));
        let behind = desk.ask(Echo("too late".into()));
        let (waiting, panics, behind) = tokio::join!(waiting, panics, behind);
        let reports = [
            waiting.unwrap_err().erase(),
            panics.unwrap_err().erase(),
            behind.unwrap_err().erase(),
            desk.ask(Counted).await.unwrap_err().erase(),
        ];
        for error in reports {
            let report = error.death().unwrap_or_else(|| panic!("{error:?}"));
            assert_eq!(report.cause, Cause::Panicked("the lamp fell over".into()));
            assert_eq!(report.role, "desk");
            assert_eq!(report.actor, Some(desk.address().actor));
        }
        assert_eq!(desk.died().await.cause, Cause::Panicked("the lamp fell over".into()));
    });
}

#[test]
fn an_answer_can_be_given_later_while_the_mailbox_goes_on() {
    local_and_remote::<Clerk>(async |_, desk| {
        let waiting = join_all((0..5).map(|number| desk.ask(WaitForOpen(number))));
        let open = async {
            while desk.ask(Echo("busy?".into())).await.is_err() {}
            desk.ask(Open).await.unwrap();
        };
        let (waited, ()) = tokio::join!(waiting, open);
        let numbers: Vec<u32> = waited.into_iter().map(|reply| reply.unwrap().to_native()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    });
}

#[test]
fn a_deadline_ends_the_wait_and_a_message_whose_time_is_up_is_not_executed() {
    local_and_remote::<Clerk>(async |_, desk| {
        let nap = desk.ask(Nap(300));
        let late = desk.ask(Count(1)).deadline(Duration::from_millis(50));
        let (nap, late) = tokio::join!(nap, late);
        nap.unwrap();
        assert!(matches!(late, Err(CallError::Deadline)), "{late:?}");
        assert_eq!(desk.ask(Counted).await.unwrap().read().unwrap(), Vec::<u32>::new());
    });
}

#[test]
fn a_dropped_ask_that_waits_in_the_mailbox_is_not_executed() {
    local_and_remote::<Clerk>(async |_, desk| {
        desk.ask(Echo("so that credit is here".into())).await.unwrap();
        let nap = desk.ask(Nap(500));
        let dropped = async {
            let mut ask = desk.ask(Count(1));
            // Polled once, and so sent; then given up.
            std::future::poll_fn(|cx| {
                let _ = std::pin::Pin::new(&mut ask).poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
            drop(ask);
        };
        let (nap, ()) = tokio::join!(nap, dropped);
        nap.unwrap();
        assert_eq!(desk.ask(Counted).await.unwrap().read().unwrap(), Vec::<u32>::new());
    });
}

#[test]
fn a_call_that_is_given_up_is_news_to_its_handler() {
    local_and_remote::<Clerk>(async |system, desk| {
        let witness = system.spawn::<Clerk>("witness".to_owned()).await.unwrap();
        tokio::join!(
            begun(&witness, 1, desk.ask(Search(witness.clone()))),
            // The mailbox goes on only when the search has been ended.
            async { assert_eq!(counted(&desk, 1).await, [1]) },
        );
        begun(&witness, 2, desk.ask(SearchBeside(witness.clone()))).await;
        assert_eq!(counted(&desk, 2).await, [1, 2]);
    });
}

#[test]
fn a_handler_knows_how_long_its_caller_waits() {
    local_and_remote::<Clerk>(async |_, desk| {
        assert_eq!(desk.ask(TimeLeft).await.unwrap().read().unwrap(), None);
        let left = desk.ask(TimeLeft).deadline(Duration::from_secs(60)).await.unwrap().read().unwrap();
        assert!(left.is_some_and(|left| (30_000..=60_000).contains(&left)), "{left:?}");
    });
}

#[test]
fn l2_a_full_mailbox_makes_senders_wait_and_loses_nothing() {
    local_and_remote::<Clerk<4>>(async |_, desk| {
        let nap = desk.ask(Nap(100));
        let sent = join_all((0..500).map(|number| desk.tell(Count(number))));
        let (nap, sent) = tokio::join!(nap, sent);
        nap.unwrap();
        assert!(sent.iter().all(Result::is_ok));
        assert_eq!(desk.ask(Counted).await.unwrap().len(), 500);
    });
}

#[test]
fn a_message_larger_than_the_mailbox_comes_back_unsent() {
    local_and_remote::<Clerk>(async |_, desk| match desk.ask(Sum(vec![1; 17 << 20])).await {
        Err(CallError::NotSent(Sum(bytes), why)) => {
            assert_eq!(bytes.len(), 17 << 20);
            assert!(why.contains("larger than the mailbox"), "{why}");
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn large_messages_and_replies_arrive_whole_and_in_order() {
    local_and_remote::<Clerk>(async |_, desk| {
        send_large_and_small(&desk).await;
    });
}

#[test]
fn references_travel_in_messages_and_work_where_they_arrive() {
    local_and_remote::<Clerk>(async |system, desk| {
        let other = system.spawn::<Clerk>("bob".to_owned()).await.unwrap();
        let to = desk.ask(SpawnChild).await.unwrap().read().unwrap();
        assert_eq!(to.ask(Echo("hi".into())).await.unwrap(), "child of ada: hi");
        let heard = desk.ask(Forward { to, text: "psst".into() }).await.unwrap();
        assert_eq!(heard, "ada heard child of ada: psst");
        let heard = desk.ask(Forward { to: other, text: "psst".into() }).await.unwrap();
        assert_eq!(heard, "ada heard bob: psst");
    });
}

#[test]
fn a_graceful_stop_does_what_was_accepted_and_later_callers_are_told() {
    local_and_remote::<Clerk>(async |system, desk| {
        let child = desk.ask(SpawnChild).await.unwrap().read().unwrap();
        child.ask(Echo("so that credit is here".into())).await.unwrap();
        let nap = desk.ask(Nap(300));
        let counts = join_all((0..10).map(|number| desk.ask(Count(number))));
        let stop = async {
            // Behind all of the above on the same lane: once it is answered they are in the mailbox.
            child.ask(Echo("have they arrived?".into())).await.unwrap();
            assert!(system.stop_actor(desk.address().actor, "the test"));
        };
        let (nap, counts, ()) = tokio::join!(nap, counts, stop);
        nap.unwrap();
        assert!(counts.iter().all(Result::is_ok));
        assert_eq!(desk.died().await.cause, Cause::OrderedBy("the test".into()));
        assert!(matches!(desk.ask(Counted).await, Err(CallError::Dead(_))));
    });
}

#[test]
fn a_kill_ends_the_actor_in_the_midst_of_a_handler() {
    local_and_remote::<Clerk>(async |system, desk| {
        let nap = desk.ask(Nap(60_000));
        let kill = async {
            desk.tell(Count(1)).await.unwrap();
            std::thread::sleep(Duration::from_millis(50));
            system.kill_actor(desk.address().actor, Cause::OrderedBy("the test".into()));
        };
        let (nap, ()) = tokio::join!(nap, kill);
        assert_eq!(nap.unwrap_err().death().unwrap().cause, Cause::OrderedBy("the test".into()));
    });
}

#[test]
fn children_end_with_their_parent() {
    local_and_remote::<Clerk>(async |system, desk| {
        let child = desk.ask(SpawnChild).await.unwrap().read().unwrap();
        system.stop_actor(desk.address().actor, "the test");
        assert!(matches!(child.died().await.cause, Cause::OrderedBy(_)));
    });
}

#[test]
fn a_monitor_is_told_of_an_end_in_its_mailbox_however_it_came() {
    local_and_remote::<Clerk>(async |system, desk| {
        let [ordered, panics, gone] = [0; 3].map(|_| system.spawn::<Clerk>("other".to_owned()));
        let (ordered, panics, gone) = tokio::join!(ordered, panics, gone);
        let (ordered, panics, gone) = (ordered.unwrap(), panics.unwrap(), gone.unwrap());
        system.kill_actor(gone.address().actor, Cause::OrderedBy("the test".into()));
        gone.died().await;
        for (number, other) in [(1, &ordered), (2, &panics), (3, &gone)] {
            desk.ask(MonitorOther(other.clone(), number)).await.unwrap();
        }
        assert_eq!(counted(&desk, 1).await, [3], "who comes late is told too");
        system.stop_actor(ordered.address().actor, "the test");
        assert_eq!(counted(&desk, 2).await, [3, 1]);
        panics.tell(Panic("the lamp fell over".into())).await.unwrap();
        assert_eq!(counted(&desk, 3).await, [3, 1, 102]);
    });
}

#[test]
fn a_link_ends_an_actor_with_anothers_fault_and_names_it() {
    local_and_remote::<Clerk>(async |system, desk| {
        let ordered = system.spawn::<Clerk>("ordered".to_owned()).await.unwrap();
        let panics = system.spawn::<Clerk>("panics".to_owned()).await.unwrap();
        desk.ask(LinkTo(ordered.clone())).await.unwrap();
        desk.ask(LinkTo(panics.clone())).await.unwrap();
        desk.ask(MonitorOther(ordered.clone(), 1)).await.unwrap();
        system.stop_actor(ordered.address().actor, "the test");
        assert_eq!(counted(&desk, 1).await, [1], "an end in good order ends nobody else");
        panics.tell(Panic("the lamp fell over".into())).await.unwrap();
        let cause = desk.died().await.cause;
        let Cause::Failed(chain) = &cause else { panic!("{cause:?}") };
        assert!(chain[0].starts_with("it was linked to desk"), "{chain:?}");
        assert!(chain[1].contains("panicked: the lamp fell over"), "{chain:?}");
    });
}

#[test]
fn a_timers_message_comes_from_the_actor_itself() {
    local_and_remote::<Clerk>(async |_, desk| {
        desk.ask(CountLater(20, 9)).await.unwrap();
        while desk.ask(Counted).await.unwrap().is_empty() {}
        assert_eq!(desk.ask(Counted).await.unwrap().read().unwrap(), [9]);
    });
}

#[test]
fn an_actor_may_own_a_thread() {
    local_and_remote::<Clerk<64, true>>(async |_, desk| {
        assert_eq!(desk.ask(ThreadName).await.unwrap(), "desk");
        desk.ask(Nap(1)).await.unwrap();
    });
}

#[test]
fn a_failed_start_is_the_spawners_error() {
    let system = alone();
    block_on(async {
        for (name, cause) in [
            ("refuse", Cause::Failed(vec!["no clerk is called refuse".into()])),
            ("panic", Cause::Panicked("no clerk is called panic".into())),
        ] {
            match system.spawn::<Clerk>(name.to_owned()).await {
                Err(SpawnError::Died(report)) => assert_eq!(report.cause, cause),
                other => panic!("{other:?}"),
            }
        }
        system.shut_down(Duration::from_secs(1)).await;
    });
}
