//! L3: nodes that fall silent, and come back.

use std::time::Duration;

use lyceum_actor::{ActorRef, CallError};
use rustix::process::Signal;

use crate::harness::{Testbed, kill, look, manifest_text, until_held, within};
use crate::probe::{LetGo, Look, Probe, WaitOn, clock, hold};

/// Two nodes; suspicion after so many seconds, by default 2, and the default verdict after 10.
async fn patient_cluster(unreachable: f64) -> Testbed {
    let text = manifest_text(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]);
    let health = format!("unreachable = {unreachable:?}\nverdict = 10.0");
    Testbed::of(&text.replace("unreachable = 1.0\nverdict = 3.0", &health)).started().await
}

async fn until_node_b_is(testbed: &Testbed, state: &str) {
    while testbed.status().await.nodes[1].state != state {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn holds(probe: &ActorRef<Probe>) -> tokio::task::JoinHandle<crate::probe::Ended> {
    tokio::spawn(hold(probe.clone()))
}

#[tokio::test]
async fn l3_waiters_on_a_silent_node_see_unreachable_before_any_verdict_and_the_node_comes_back() {
    let testbed = patient_cluster(2.0).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let waiter = within(cluster.spawn::<Probe>("waiter".into()).node("a").into_future()).await.unwrap();
    let silent = within(cluster.spawn::<Probe>("silent".into()).node("b").into_future()).await.unwrap();
    let sight = look(&silent, &[]).await;
    let calls = tokio::spawn(waiter.ask(WaitOn { other: silent.address().clone(), calls: 3 }).into_future());
    let own = holds(&silent);
    let patient = tokio::spawn(silent.ask(crate::probe::Hold).through_silence());
    until_held(&silent, 5).await;

    let stopped = clock();
    for pid in [sight.parent, sight.pid] {
        kill(pid, Signal::STOP);
    }
    let mut ends = within(calls).await.unwrap().unwrap().read().unwrap();
    ends.push(within(own).await.unwrap());
    for end in ends {
        println!("told {:.2} s after the stop: {}", (end.at - stopped) as f64 / 1e9, end.words);
        assert!(
            end.words.starts_with("no answer for now, it may or may not have been executed"),
            "{}",
            end.words
        );
        assert!(end.words.contains("nothing is heard from node b"), "{}", end.words);
    }
    // No verdict was needed for that.
    assert_eq!(testbed.status().await.nodes[1].state, "unreachable");
    match within(silent.ask(Look { variables: Vec::new() })).await {
        Err(CallError::NotSent(_, why)) => assert!(why.contains("is unreachable"), "{why}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a stopped process has answered"),
    }
    assert!(!patient.is_finished());

    for pid in [sight.pid, sight.parent] {
        kill(pid, Signal::CONT);
    }
    until_node_b_is(&testbed, "joined").await;
    // From outside, and from the other node.
    while within(silent.ask(Look { variables: Vec::new() })).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(look(&silent, &[]).await.pid, sight.pid, "nothing was lost");
    within(silent.ask(LetGo)).await.unwrap();
    within(patient).await.unwrap().expect("it waited through the silence");
    let again = tokio::spawn(waiter.ask(WaitOn { other: silent.address().clone(), calls: 1 }).into_future());
    until_held(&silent, 1).await;
    within(silent.ask(LetGo)).await.unwrap();
    assert_eq!(within(again).await.unwrap().unwrap()[0].words.as_str(), "answered");
    testbed.down().await;
}

#[tokio::test]
async fn a_stopped_agent_whose_workers_go_on_costs_no_call() {
    let testbed = patient_cluster(1.0).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let waiter = within(cluster.spawn::<Probe>("waiter".into()).node("a").into_future()).await.unwrap();
    let busy = within(cluster.spawn::<Probe>("busy".into()).node("b").into_future()).await.unwrap();
    let sight = look(&busy, &[]).await;
    let calls = tokio::spawn(waiter.ask(WaitOn { other: busy.address().clone(), calls: 3 }).into_future());
    let own = holds(&busy);
    until_held(&busy, 4).await;

    kill(sight.parent, Signal::STOP);
    until_node_b_is(&testbed, "unreachable").await;
    // Time for more than one probe.
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(look(&busy, &[]).await.pid, sight.pid, "new calls are taken");
    within(busy.ask(LetGo)).await.unwrap();
    assert_eq!(within(own).await.unwrap().words, "answered");
    for end in within(calls).await.unwrap().unwrap().read().unwrap() {
        assert_eq!(end.words, "answered");
    }
    kill(sight.parent, Signal::CONT);
    until_node_b_is(&testbed, "joined").await;
    testbed.down().await;
}

#[tokio::test]
async fn a_node_that_stands_still_for_two_seconds_is_not_lost() {
    let testbed = patient_cluster(2.0).await;
    let (job, system) = testbed.job().await;
    let probe =
        within(job.cluster(&system).spawn::<Probe>("calm".into()).node("b").into_future()).await.unwrap();
    let sight = look(&probe, &[]).await;
    let before = testbed.status().await.nodes[1].incarnation;
    for pid in [sight.parent, sight.pid] {
        kill(pid, Signal::STOP);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for pid in [sight.parent, sight.pid] {
        kill(pid, Signal::CONT);
    }
    until_node_b_is(&testbed, "joined").await;
    while within(probe.ask(Look { variables: Vec::new() })).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(look(&probe, &[]).await.pid, sight.pid);
    assert_eq!(testbed.status().await.nodes[1].incarnation, before);
    testbed.down().await;
}
