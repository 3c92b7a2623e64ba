//! Who may ask for what, and what is refused.

use lyceum_actor::ControlError;
use lyceum_cluster::control::resources::Allotment;
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Origin, Running};
use lyceum_cluster::control::{HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, spawn};

#[test]
fn c4_what_no_node_can_ever_hold_is_refused_at_once() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let Answer::Error(ControlError::Refused(why)) = cluster.answer(CLIENT, Ask::Spawn(spawn(job, 3))) else {
        panic!("three cores are on no node");
    };
    assert!(why.contains("node `a`: cpus: 3 asked, 2 in all; node `b`"), "{why}");
}

#[test]
fn l6_a_worker_acts_in_its_own_job_only() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let process = cluster.process(job, 1);
    let worker = Origin::Worker(process);
    let forbidden = [
        Ask::Spawn(spawn(other, 1)),
        Ask::EndJob { job: other, by: "me".into(), kill: false },
        Ask::BeginJob { name: "mine".into(), bound: false },
        Ask::IssueNode { node: "a".into() },
        Ask::IssueClient,
        Ask::Shutdown { by: "me".into() },
        Ask::Follow { job },
    ];
    for ask in forbidden {
        let answer = cluster.answer(worker, ask.clone());
        assert!(matches!(answer, Answer::Error(ControlError::Refused(_))), "{ask:?} gave {answer:?}");
    }
    let stranger = cluster.answer(Origin::Worker(999), Ask::Status);
    assert!(matches!(stranger, Answer::Error(ControlError::Refused(_))));
    assert!(!cluster.ask(worker, Ask::Spawn(spawn(job, 1))).is_empty(), "its own job is its own");
}

#[test]
fn c3_a_job_that_ends_leaves_no_waiting_actor() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    cluster.process(job, 2);
    cluster.process(job, 2);
    assert!(cluster.ask(CLIENT, Ask::Spawn(spawn(job, 2))).is_empty(), "it waits for room");
    let effects = cluster.event(HeadEvent::ClientGone { client: 1 });
    let stops = effects
        .iter()
        .filter(|effect| matches!(effect, HeadEffect::ToAgent { command: Command::Stop { .. }, .. }))
        .count();
    assert_eq!(stops, 2, "both processes of the job are told to stop: {effects:?}");
    assert_eq!(cluster.head.status().actors.len(), 2, "the one that waited is gone at once");
}

#[test]
fn a_process_that_was_given_up_may_ask_for_nothing() {
    let mut cluster = Cluster::new();
    let unexpected = Running { process: 99, allotment: Allotment::default(), ready: None, stall: None };
    cluster.joins("a", vec![unexpected]);
    let answer = cluster.answer(Origin::Worker(99), Ask::Spawn(spawn(0, 1)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("was given up")),
        "{answer:?}"
    );
}
