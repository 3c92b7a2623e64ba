//! Actors that make no progress, as head and agents tell of them.

use std::time::Duration;

use lyceum_actor::{ActorId, Cause, ProcessDeath};
use lyceum_cluster::control::vocabulary::{Ask, Command, JobEvent, Launch, Notice, Report, Running};
use lyceum_cluster::control::{AgentEffect, AgentEvent, HeadEffect, HeadEvent};
use lyceum_cluster::control::{resources::Allotment, vocabulary::Answer};

use super::harness::{CLIENT, Cluster, address, agent, spawn};

fn told(effects: &[HeadEffect]) -> Vec<Option<String>> {
    let stall = |effect: &HeadEffect| match effect {
        HeadEffect::Notify { notice: Notice::Job { event: JobEvent::Stalled { stall, .. }, .. }, .. } => {
            Some(stall.clone())
        }
        _ => None,
    };
    effects.iter().filter_map(stall).collect()
}

#[test]
fn what_makes_no_progress_shows_in_the_status_until_it_does_or_ends() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    assert_eq!(cluster.answer(CLIENT, Ask::Follow { job }), Answer::Done);
    let process = cluster.started(CLIENT, spawn(job, 1));
    let node = cluster.head.node_of(process).unwrap();
    let reported = |cluster: &mut Cluster, node: &str, stall: Option<&str>| {
        let report = Report::Stalled { process, stall: stall.map(str::to_owned) };
        told(&cluster.event(HeadEvent::Reported { node: node.into(), incarnation: 1, report }))
    };
    let state = |cluster: &Cluster| cluster.head.status().actors[0].state.clone();
    assert_eq!(reported(&mut cluster, &node, Some("it sleeps")), [Some("it sleeps".to_owned())]);
    assert_eq!(state(&cluster), "running, it sleeps");
    assert_eq!(reported(&mut cluster, &node, Some("it sleeps")), [], "it is told once");
    let other = if node == "a" { "b" } else { "a" };
    assert_eq!(reported(&mut cluster, other, None), [], "another node's agent knows nothing of it");
    assert_eq!(state(&cluster), "running, it sleeps");
    assert_eq!(reported(&mut cluster, &node, None), [None]);
    assert_eq!(state(&cluster), "running");

    let long = "é".repeat(5000);
    let kept = reported(&mut cluster, &node, Some(&long)).remove(0).unwrap();
    assert!(kept.len() <= 1024 && long.starts_with(&kept), "what an agent says is bounded");
    cluster.dies(process);
    assert_eq!(reported(&mut cluster, &node, Some("it sleeps")), []);
}

#[test]
fn an_agent_tells_it_again_when_it_joins() {
    let mut agent = agent("a");
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let process = cluster.started(CLIENT, spawn(job, 1));
    let launch =
        Launch { process, actor: 6, request: spawn(job, 1), allotment: Allotment::default(), saved: None };
    agent.apply(AgentEvent::Commanded(Command::Launch(launch)), Duration::ZERO);
    agent.apply(AgentEvent::Ready { process, address: address(), pid: 7 }, Duration::ZERO);
    let mut stalled = |actor: u64, stall: Option<&str>| {
        let stall = stall.map(str::to_owned);
        let event = AgentEvent::Stalled { process, actor: ActorId(actor), stall };
        match agent.apply(event, Duration::ZERO).as_slice() {
            [AgentEffect::Report(Report::Stalled { stall, .. })] => stall.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(stalled(6, Some("one sleeps")).unwrap(), "one sleeps");
    assert_eq!(stalled(7, Some("another too")).unwrap(), "one sleeps; another too");
    assert_eq!(stalled(6, None).unwrap(), "another too");
    for actor in 8..100 {
        stalled(actor, Some("and another"));
    }
    assert!(stalled(7, None).unwrap().len() < 200, "what is kept of one process is bounded");
    let (running, _) = agent.inventory();
    let stall: Vec<Option<&str>> = running.iter().map(|running: &Running| running.stall.as_deref()).collect();
    assert!(matches!(stall[..], [Some(words)] if words.starts_with("and another")), "{stall:?}");

    let node = cluster.head.node_of(process).unwrap();
    cluster.joins(&node, running);
    assert!(cluster.head.status().actors[0].state.starts_with("running, and another"));
    let death = ProcessDeath { process, node, cause: Cause::Signal(9), log_tail: Vec::new() };
    cluster.event(HeadEvent::Reported {
        node: death.node.clone(),
        incarnation: 1,
        report: Report::Ended(death),
    });
    assert!(cluster.head.status().actors.is_empty());
}
