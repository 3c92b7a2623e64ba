//! What the head decides, event by event.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{ControlError, Resources, SpawnRequest};
use lyceum_cluster::control::resources::{Allotment, Capacity};
use lyceum_cluster::control::vocabulary::{
    Answer, Ask, Command, Labels, Launch, Notice, Origin, Report, StoreUse,
};
use lyceum_cluster::control::{
    Agent, AgentEffect, AgentEvent, AgentOptions, Head, HeadEffect, HeadEvent, HeadOptions, NodeOptions,
};
use lyceum_cluster::units::Milli;

const CLIENT: Origin = Origin::Client(1);

struct Cluster {
    head: Head,
    now: Duration,
}

impl Cluster {
    /// Two nodes, `a` and `b`, of two cores each, joined as incarnation 1.
    fn new() -> Cluster {
        let node = || NodeOptions {
            capacity: Capacity { cpus: Milli::whole(2), ..Capacity::default() },
            labels: Labels::new(),
        };
        let options = HeadOptions {
            cluster: "c".into(),
            owned: false,
            unreachable: Duration::from_millis(2500),
            verdict: Duration::from_secs(10),
            stop_grace: Duration::from_secs(1),
            nodes: BTreeMap::from([("a".to_owned(), node()), ("b".to_owned(), node())]),
        };
        let mut cluster = Cluster { head: Head::new(options, []), now: Duration::ZERO };
        for node in ["a", "b"] {
            cluster.event(HeadEvent::Joined {
                node: node.into(),
                incarnation: 1,
                address: address(),
                pid: 1,
                running: Vec::new(),
                ended: Vec::new(),
            });
        }
        cluster
    }

    fn event(&mut self, event: HeadEvent) -> Vec<HeadEffect> {
        self.head.apply(event, self.now).1
    }

    fn ask(&mut self, origin: Origin, ask: Ask) -> Vec<HeadEffect> {
        self.event(HeadEvent::Asked { origin, request: 1, ask })
    }

    fn answer(&mut self, origin: Origin, ask: Ask) -> Answer {
        let effects = self.ask(origin, ask);
        let answer = effects.into_iter().find_map(|effect| match effect {
            HeadEffect::Reply { answer, .. } => Some(answer),
            _ => None,
        });
        answer.expect("an answer at once")
    }

    /// Half a second passes; `b` is heard of.
    fn half_a_second(&mut self) -> Vec<HeadEffect> {
        self.now += Duration::from_millis(500);
        let store = StoreUse::default();
        self.event(HeadEvent::Heartbeat { node: "b".into(), incarnation: 1, store });
        self.event(HeadEvent::Tick)
    }

    fn job(&mut self) -> u64 {
        match self.answer(CLIENT, Ask::BeginJob { name: "job".into(), bound: true }) {
            Answer::Job(job) => job,
            other => panic!("no job: {other:?}"),
        }
    }

    /// A process of `job` that has started.
    fn process(&mut self, job: u64, cpus: u64) -> u64 {
        let launched = self.ask(CLIENT, Ask::Spawn(spawn(job, cpus)));
        let (node, process) = launched.iter().find_map(launch).expect("it is launched at once");
        let report = Report::Ready { process, address: address(), pid: 2 };
        self.event(HeadEvent::Reported { node, incarnation: 1, report });
        process
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000))
}

fn spawn(job: u64, cpus: u64) -> SpawnRequest {
    let resources = Resources { milli_cpus: cpus * 1000, ..Resources::default() };
    SpawnRequest { role: "role".into(), job, resources, ..SpawnRequest::default() }
}

fn launch(effect: &HeadEffect) -> Option<(String, u64)> {
    match effect {
        HeadEffect::ToAgent { node, command: Command::Launch(launch), .. } => {
            Some((node.clone(), launch.process))
        }
        _ => None,
    }
}

fn tells_suspicion(effect: &HeadEffect) -> bool {
    matches!(effect, HeadEffect::ToAgent { command: Command::Suspect { unreachable: true, .. }, .. })
}

#[test]
fn l3_a_silent_node_is_unreachable_within_3_s_and_lost_only_when_a_second_path_failed() {
    for second_path_answers in [true, false] {
        let mut cluster = Cluster::new();
        let mut suspected = None;
        let mut lost = None;
        for _ in 0..40 {
            for effect in cluster.half_a_second() {
                if tells_suspicion(&effect) {
                    suspected.get_or_insert(cluster.now);
                }
                if let HeadEffect::Probe { node, incarnation, .. } = &effect {
                    let (node, incarnation) = (node.clone(), *incarnation);
                    cluster.event(HeadEvent::Probed { node, incarnation, answered: second_path_answers });
                }
                if matches!(&effect, HeadEffect::ToAgent { command: Command::NodeLost { .. }, .. }) {
                    lost.get_or_insert(cluster.now);
                }
            }
        }
        assert!(suspected.unwrap() <= Duration::from_secs(3), "suspected after {suspected:?}");
        match second_path_answers {
            true => assert_eq!(lost, None, "a node that answers on a second path is not lost"),
            false => assert_eq!(lost, Some(Duration::from_secs(10))),
        }
    }
}

#[test]
fn a_node_that_is_heard_again_is_not_lost() {
    let mut cluster = Cluster::new();
    for _ in 0..16 {
        cluster.half_a_second();
    }
    let store = StoreUse::default();
    let effects = cluster.event(HeadEvent::Heartbeat { node: "a".into(), incarnation: 1, store });
    let cleared = |effect: &HeadEffect| {
        matches!(effect, HeadEffect::ToAgent { command: Command::Suspect { unreachable: false, .. }, .. })
    };
    assert!(effects.iter().any(cleared), "{effects:?}");
    assert!(cluster.head.status().nodes[0].joined);
}

#[test]
fn whoever_comes_late_hears_which_nodes_are_silent() {
    let mut cluster = Cluster::new();
    for _ in 0..6 {
        cluster.half_a_second();
    }
    assert_eq!(cluster.head.status().nodes[0].state, "unreachable");
    let b_joins = HeadEvent::Joined {
        node: "b".into(),
        incarnation: 1,
        address: address(),
        pid: 1,
        running: Vec::new(),
        ended: Vec::new(),
    };
    let told = |node: &str| Command::Suspect { node: node.into(), unreachable: true };
    let effects = cluster.event(b_joins);
    let to_b = HeadEffect::ToAgent { node: "b".into(), incarnation: 1, command: told("a") };
    assert!(effects.contains(&to_b), "an agent that joins: {effects:?}");
    let effects = cluster.ask(CLIENT, Ask::IssueClient);
    let notice = Notice::Suspect { node: "a".into(), unreachable: true };
    assert!(effects.contains(&HeadEffect::Notify { client: 1, notice }), "a client's process: {effects:?}");

    let mut agent = Agent::new(AgentOptions {
        node: "b".into(),
        owned: false,
        verdict: Duration::from_secs(10),
        stop_grace: Duration::from_secs(1),
        cores: Vec::new(),
        ports: 0..0,
    });
    agent.apply(AgentEvent::Commanded(told("a")), Duration::ZERO);
    let launch = Launch { process: 7, actor: 6, request: spawn(5, 1), allotment: Allotment::default() };
    let effects = agent.apply(AgentEvent::Commanded(Command::Launch(launch)), Duration::ZERO);
    let suspicion = AgentEffect::TellSuspicion { node: "a".into(), unreachable: true };
    assert!(matches!(effects[..], [AgentEffect::Start { .. }, _]), "{effects:?}");
    assert_eq!(effects[1], suspicion, "a process that starts");
}

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
