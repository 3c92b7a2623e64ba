//! Nodes that take nothing new, and what waits for room.

use std::time::Duration;

use lyceum_actor::{Cause, ControlError, Restarts, SpawnRequest};
use lyceum_cluster::control::record::{Closure, Record, Value};
use lyceum_cluster::control::resources::Allotment;
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, JobEvent, Launch, Notice};
use lyceum_cluster::control::{AgentEffect, AgentEvent, HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, agent, launch, launched_on, spawn, stops};

#[test]
fn what_waits_says_for_what() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    cluster.process(job, 2);
    cluster.ask(CLIENT, Ask::Cordon { node: "b".into(), why: "it smells of smoke".into() });
    cluster.ask(CLIENT, Ask::Spawn(spawn(job, 1)));
    let status = cluster.head.status();
    let waiting = status.actors.iter().find(|actor| actor.process == 0).unwrap();
    assert_eq!(waiting.state, "waiting for room: a: cpus: 1 asked, 0 free; b: it smells of smoke");
    assert_eq!(cluster.state_of("b"), "joined, closed: it smells of smoke");
    let launched = cluster.ask(CLIENT, Ask::Uncordon { node: "b".into() });
    assert_eq!(launched_on(&launched).as_deref(), Some("b"), "it takes what waited");
}

#[test]
fn c7_a_node_on_which_too_many_actors_fail_takes_nothing_new() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let processes = [(); 3].map(|()| cluster.lands_on_a(job, "gpu-user"));
    for process in processes {
        assert_eq!(cluster.state_of("a"), "joined");
        cluster.dies(process);
    }
    let said = "joined, closed: 3 actors failed on it within 60 s, the last, a gpu-user: ended by signal 9";
    assert!(cluster.state_of("a").starts_with(said), "{}", cluster.state_of("a"));
    for _ in 0..4 {
        assert_eq!(goes_to(&mut cluster, job), "b");
    }
    // The last one that takes anything is never closed for that.
    for _ in 0..9 {
        let process = cluster.process(job, 0);
        cluster.dies(process);
    }
    assert_eq!(cluster.state_of("b"), "joined");
    cluster.ask(CLIENT, Ask::Uncordon { node: "a".into() });
    assert_eq!(cluster.state_of("a"), "joined");
    let process = cluster.lands_on_a(job, "gpu-user");
    cluster.dies(process);
    assert_eq!(cluster.state_of("a"), "joined", "what was is forgotten");
}

#[test]
fn a_role_that_fails_everywhere_speaks_against_no_node_and_goes_elsewhere_first() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let mut nodes = Vec::new();
    for _ in 0..8 {
        let effects = cluster.ask(CLIENT, Ask::Spawn(spawn(job, 0)));
        let (node, process) = effects.iter().find_map(launch).unwrap();
        cluster.ready(&node, process);
        cluster.dies(process);
        nodes.push(node);
    }
    assert_eq!(nodes, ["a", "b", "a", "b", "a", "b", "a", "b"]);
    let process = cluster.on_a(job, "role");
    cluster.dies(process);
    assert_eq!(goes_to(&mut cluster, job), "b", "it failed more often on the other");
    cluster.now += Duration::from_secs(61);
    cluster.heard("a");
    cluster.half_a_second();
    assert_eq!(goes_to(&mut cluster, job), "a", "what is long past speaks against no node");
    assert_eq!((cluster.state_of("a"), cluster.state_of("b")), ("joined".into(), "joined".into()));
}

/// Where an actor that needs nothing is started.
fn goes_to(cluster: &mut Cluster, job: u64) -> String {
    launched_on(&cluster.ask(CLIENT, Ask::Spawn(spawn(job, 0)))).expect("there is room")
}

#[test]
fn failures_that_are_long_past_and_ordered_ends_close_no_node() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    for process in [(); 2].map(|()| cluster.lands_on_a(job, "role")) {
        cluster.dies(process);
    }
    cluster.now += Duration::from_secs(61);
    cluster.heard("a");
    cluster.half_a_second();
    let process = cluster.lands_on_a(job, "role");
    cluster.dies(process);
    for _ in 0..5 {
        let process = cluster.on_a(job, "role");
        let actor = cluster.head.status().actors.iter().find(|actor| actor.process == process).unwrap().actor;
        cluster.ask(CLIENT, Ask::StopActor { actor, kill: true });
        cluster.dies(process);
    }
    assert_eq!(cluster.state_of("a"), "joined");
}

#[test]
fn the_failures_of_what_can_be_nowhere_else_close_no_node() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    for _ in 0..9 {
        let process = cluster.on_a(job, "pinned");
        cluster.dies(process);
    }
    assert_eq!(cluster.state_of("a"), "joined");
}

#[test]
fn a_drained_node_is_empty_in_time_and_what_has_restarts_goes_elsewhere() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, ..Restarts::default() };
    let lasting = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    assert_eq!(cluster.head.node_of(lasting).as_deref(), Some("a"));
    let brief = cluster.on_a(job, "role");
    let unknown = Ask::Drain { node: "c".into(), within_ms: 1, by: "the test".into() };
    let refused = cluster.answer(CLIENT, unknown);
    assert!(
        matches!(&refused, Answer::Error(ControlError::Refused(why)) if why.contains("`c`")),
        "{refused:?}"
    );

    let drain = Ask::Drain { node: "a".into(), within_ms: 2000, by: "the test".into() };
    assert!(cluster.ask(CLIENT, drain).is_empty(), "there is time");
    assert_eq!(cluster.state_of("a"), "joined, closed: drained by the test");
    cluster.now += Duration::from_millis(1999);
    assert!(stops(&cluster.event(HeadEvent::Tick)).is_empty());
    let records = cluster.orders(Ask::Cordon { node: "a".into(), why: "it smells of smoke".into() });
    let closed = |record: &Record| match &record.value {
        Some(Value::Node(node)) => node.closure.clone(),
        _ => None,
    };
    let closure = Closure { why: "it smells of smoke".into(), empty_within_ms: Some(2000) };
    assert_eq!(records.iter().find_map(closed), Some(closure), "a drain goes on when it is cordoned too");
    cluster.now += Duration::from_millis(1);
    let mut stopped = stops(&cluster.event(HeadEvent::Tick));
    stopped.sort_unstable();
    assert_eq!(stopped, [lasting, brief]);
    assert!(stops(&cluster.event(HeadEvent::Tick)).is_empty(), "ordered once");

    let effects = cluster.dies(lasting);
    let (node, moved) = effects.iter().find_map(launch).expect("it is started elsewhere");
    assert_eq!(node, "b");
    cluster.ready("b", moved);
    let ended = cluster.dies(brief);
    assert!(ended.iter().all(|effect| launch(effect).is_none()), "it has no restarts");
    let done = cluster.event(HeadEvent::Tick);
    assert!(
        done.iter().any(|effect| matches!(effect, HeadEffect::Reply { answer: Answer::Done, .. })),
        "who drains is told"
    );
    // It has its restart still.
    assert!(cluster.dies(moved).iter().any(|effect| launch(effect).is_some()));
}

#[test]
fn an_actor_that_is_being_moved_can_be_ended() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, ..Restarts::default() };
    let process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    let actor = cluster.head.status().actors[0].actor;
    cluster.ask(CLIENT, Ask::Drain { node: "a".into(), within_ms: 0, by: "the test".into() });
    assert_eq!(stops(&cluster.event(HeadEvent::Tick)), [process]);
    assert_eq!(stops(&cluster.ask(CLIENT, Ask::StopActor { actor, kill: false })), [process]);
    assert!(cluster.dies(process).iter().all(|effect| launch(effect).is_none()));
    assert!(cluster.head.status().actors.is_empty());
}

#[test]
fn an_actor_that_finishes_while_it_is_being_moved_has_finished() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, ..Restarts::default() };
    let process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    cluster.ask(CLIENT, Ask::Drain { node: "a".into(), within_ms: 0, by: "the test".into() });
    assert_eq!(stops(&cluster.event(HeadEvent::Tick)), [process]);
    let mut agent = agent("a");
    let launched = Command::Launch(Launch {
        process,
        actor: 1,
        request: spawn(job, 1),
        allotment: Allotment::default(),
        saved: None,
    });
    let stop = Command::Stop { process, grace_ms: 1000, by: "the head".into() };
    for command in [launched, stop] {
        agent.apply(AgentEvent::Commanded(command), Duration::ZERO);
    }
    let ended = AgentEvent::Ended { process, cause: Cause::Finished, log_tail: Vec::new() };
    let report = agent.apply(ended, Duration::ZERO).into_iter().find_map(|effect| match effect {
        AgentEffect::Report(report) => Some(report),
        _ => None,
    });
    let report = report.expect("its agent tells how it ended");
    let effects = cluster.event(HeadEvent::Reported { node: "a".into(), incarnation: 1, report });
    assert!(effects.iter().all(|effect| launch(effect).is_none()), "{effects:?}");
    assert!(cluster.head.status().actors.is_empty());
    let how = effects.iter().find_map(|effect| match effect {
        HeadEffect::Notify {
            notice: Notice::Job { event: JobEvent::Ended { report, expected }, .. },
            ..
        } => Some((report.cause.clone(), *expected)),
        _ => None,
    });
    assert_eq!(how, Some((Cause::Finished, true)));
}
