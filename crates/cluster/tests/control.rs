//! What the head decides, event by event.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{Cause, ControlError, Lifetime, ProcessDeath, Resources, Restarts, SpawnRequest};
use lyceum_cluster::control::resources::{Allotment, Capacity};
use lyceum_cluster::control::vocabulary::{
    Answer, Ask, Command, Labels, Launch, Notice, Origin, Report, Running, StoreUse,
};
use lyceum_cluster::control::{
    Agent, AgentEffect, AgentEvent, AgentOptions, CordonRule, Head, HeadEffect, HeadEvent, HeadOptions,
    NodeOptions,
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
            cordon: CordonRule { failures: 3, within: Duration::from_secs(60) },
            nodes: BTreeMap::from([("a".to_owned(), node()), ("b".to_owned(), node())]),
        };
        let mut cluster = Cluster { head: Head::new(options, []), now: Duration::ZERO };
        for node in ["a", "b"] {
            cluster.joins(node, Vec::new());
        }
        cluster
    }

    /// An agent joins, again or for the first time, and says what runs on its node.
    fn joins(&mut self, node: &str, running: Vec<Running>) -> Vec<HeadEffect> {
        self.event(HeadEvent::Joined {
            node: node.into(),
            incarnation: 1,
            address: address(),
            pid: 1,
            running,
            ended: Vec::new(),
        })
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
        let mut effects = self.event(HeadEvent::Heartbeat { node: "b".into(), incarnation: 1, store });
        effects.extend(self.event(HeadEvent::Tick));
        effects
    }

    fn job(&mut self) -> u64 {
        match self.answer(CLIENT, Ask::BeginJob { name: "job".into(), bound: true }) {
            Answer::Job(job) => job,
            other => panic!("no job: {other:?}"),
        }
    }

    /// A process of `job` that has started.
    fn process(&mut self, job: u64, cpus: u64) -> u64 {
        self.started(CLIENT, spawn(job, cpus))
    }

    /// The process of an actor that `origin` asks for, once it has started.
    fn started(&mut self, origin: Origin, request: SpawnRequest) -> u64 {
        let launched = self.ask(origin, Ask::Spawn(request));
        let (node, process) = launched.iter().find_map(launch).expect("it is launched at once");
        self.ready(&node, process);
        process
    }

    fn ready(&mut self, node: &str, process: u64) -> Vec<HeadEffect> {
        let report = Report::Ready { process, address: address(), pid: 2 };
        self.event(HeadEvent::Reported { node: node.into(), incarnation: 1, report })
    }

    /// `process` is killed by somebody.
    fn dies(&mut self, process: u64) -> Vec<HeadEffect> {
        let node = self.head.node_of(process).expect("it is not known to have ended");
        let death =
            ProcessDeath { process, node: node.clone(), cause: Cause::Signal(9), log_tail: Vec::new() };
        self.event(HeadEvent::Reported { node, incarnation: 1, report: Report::Ended(death) })
    }

    fn lookup(&mut self, origin: Origin, job: u64, namespace: Option<&str>, name: &str) -> Option<u64> {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        match self.answer(origin, Ask::Lookup { job, namespace, name }) {
            Answer::Actor(address) => Some(address.incarnation),
            Answer::Nobody => None,
            other => panic!("no answer to a lookup: {other:?}"),
        }
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

fn named(job: u64, namespace: Option<&str>, or_get: bool) -> SpawnRequest {
    let namespace = namespace.map(str::to_owned);
    SpawnRequest { name: Some("ada".into()), namespace, or_get, ..spawn(job, 1) }
}

fn stops(effects: &[HeadEffect]) -> Vec<u64> {
    let stop = |effect: &HeadEffect| match effect {
        HeadEffect::ToAgent { command: Command::Stop { process, .. }, .. } => Some(*process),
        _ => None,
    };
    effects.iter().filter_map(stop).collect()
}

#[test]
fn names_are_a_jobs_own_or_a_namespaces() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let own = cluster.started(CLIENT, named(job, None, false));
    let others = cluster.started(CLIENT, named(other, None, false));
    let shared = cluster.started(CLIENT, named(job, Some("school"), false));
    assert_eq!(cluster.lookup(CLIENT, job, None, "ada"), Some(own));
    assert_eq!(
        cluster.lookup(Origin::Worker(others), job, None, "ada"),
        Some(others),
        "a worker's are its job's"
    );
    for worker in [own, others] {
        assert_eq!(cluster.lookup(Origin::Worker(worker), 0, Some("school"), "ada"), Some(shared));
    }
    assert_eq!(cluster.lookup(CLIENT, job, Some("college"), "ada"), None);
    cluster.dies(shared);
    assert_eq!(cluster.lookup(CLIENT, job, Some("school"), "ada"), None, "a name ends with its actor");
    cluster.started(CLIENT, named(other, Some("school"), false));
}

#[test]
fn c5_of_all_that_ask_for_a_name_at_once_all_get_the_same_actor() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let first = cluster.ask(CLIENT, Ask::Spawn(named(job, Some("school"), true)));
    let (node, process) = first.iter().find_map(launch).expect("it is launched at once");
    for job in [job, other] {
        assert!(cluster.ask(CLIENT, Ask::Spawn(named(job, Some("school"), true))).is_empty(), "it waits");
    }
    let started = cluster.ready(&node, process);
    let answers = started.iter().filter(|effect| {
        matches!(effect, HeadEffect::Reply { answer: Answer::Actor(address), .. } if address.incarnation == process)
    });
    assert_eq!(answers.count(), 3, "{started:?}");
    let late = cluster.answer(CLIENT, Ask::Spawn(named(other, Some("school"), true)));
    assert!(matches!(late, Answer::Actor(address) if address.incarnation == process));

    let taken = named(job, Some("school"), false);
    let another_role = SpawnRequest { role: "teacher".into(), ..named(job, Some("school"), true) };
    let another_build = SpawnRequest { fingerprint: 7, ..named(job, Some("school"), true) };
    let nameless = SpawnRequest { or_get: true, ..spawn(job, 1) };
    for (request, why) in [
        (taken, "the name `ada` is taken by a role"),
        (another_role, "`ada` is a role, and a teacher is asked for"),
        (another_build, "knows another role"),
        (nameless, "needs a name"),
    ] {
        let answer = cluster.answer(CLIENT, Ask::Spawn(request));
        let Answer::Error(ControlError::Refused(said)) = &answer else { panic!("{answer:?}") };
        assert!(said.contains(why), "{said}");
    }
    cluster.ask(CLIENT, Ask::EndJob { job, by: "the test".into(), kill: false });
    let answer = cluster.answer(CLIENT, Ask::Spawn(named(other, Some("school"), true)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("ended by the test"))
    );
}

#[test]
fn c6_an_actor_that_is_bound_to_its_spawner_ends_with_it() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let parent = cluster.process(job, 1);
    let bound = |cpus| SpawnRequest { lifetime: Lifetime::Spawner, ..spawn(job, cpus) };
    let child = cluster.started(Origin::Worker(parent), bound(1));
    let grandchild = cluster.started(Origin::Worker(child), bound(1));
    let free = cluster.started(Origin::Worker(parent), spawn(job, 1));
    assert!(cluster.ask(Origin::Worker(parent), Ask::Spawn(bound(2))).is_empty(), "it waits for room");
    assert_eq!(stops(&cluster.dies(parent)), [child]);
    assert_eq!(cluster.head.status().actors.len(), 3, "the one that waited is gone at once");
    assert_eq!(stops(&cluster.dies(child)), [grandchild]);
    cluster.dies(grandchild);
    assert_eq!(cluster.head.status().actors[0].process, free);

    cluster.started(Origin::Client(2), bound(1));
    assert_eq!(stops(&cluster.event(HeadEvent::ClientGone { client: 2 })).len(), 1);
}

#[test]
fn a_detached_actor_outlives_its_job_and_spawns_for_itself() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let detached = |namespace| SpawnRequest { lifetime: Lifetime::Detached, ..named(job, namespace, true) };
    let answer = cluster.answer(CLIENT, Ask::Spawn(detached(None)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("a name in a namespace"))
    );
    let worker = cluster.process(job, 1);
    let process = cluster.started(Origin::Worker(worker), detached(Some("school")));
    let status = cluster.head.status();
    let found = status.actors.iter().find(|actor| actor.process == process).unwrap();
    let (actor, own) = (found.actor, found.job);
    assert!(own != job && own != 0, "it has a job of its own");
    let mut in_job = |job| cluster.started(Origin::Worker(process), spawn(job, 1));
    let child = in_job(own);
    cluster.ask(CLIENT, Ask::EndJob { job, by: "the test".into(), kill: false });
    cluster.dies(worker);
    assert!(cluster.head.status().jobs.iter().all(|found| found.job != job), "the job has ended");
    assert_eq!(cluster.lookup(CLIENT, other, Some("school"), "ada"), Some(process));
    let pupil = cluster.process(other, 1);
    let ended = cluster.ask(Origin::Worker(pupil), Ask::StopActor { actor, kill: true });
    assert_eq!(stops(&ended), [process], "whoever finds it may end it");
    assert_eq!(stops(&cluster.dies(process)), [child], "what it spawned ends with it");
    cluster.dies(child);
    assert!(cluster.head.status().jobs.iter().all(|found| found.job == other), "its job has ended");
}

#[test]
fn two_detached_actors_share_no_names_and_may_not_end_each_others_actors() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let detached = |name: &str| SpawnRequest {
        lifetime: Lifetime::Detached,
        name: Some(name.into()),
        ..named(job, Some("school"), false)
    };
    let processes = ["ada", "bob"].map(|name| cluster.started(CLIENT, detached(name)));
    let [ours, theirs] = processes.map(|process| {
        let status = cluster.head.status();
        let own = status.actors.iter().find(|actor| actor.process == process).unwrap().job;
        cluster.started(Origin::Worker(process), named(own, None, false))
    });
    let status = cluster.head.status();
    let actor = status.actors.iter().find(|actor| actor.process == theirs).unwrap().actor;
    let refused = cluster.answer(Origin::Worker(processes[0]), Ask::StopActor { actor, kill: true });
    assert!(
        matches!(&refused, Answer::Error(ControlError::Refused(why)) if why.contains("may not act in job"))
    );
    assert_ne!(ours, theirs);
}

#[test]
fn an_actor_that_asks_for_its_own_name_while_it_starts_is_told_so() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let effects = cluster.ask(CLIENT, Ask::Spawn(named(job, None, true)));
    let (_, process) = effects.iter().find_map(launch).unwrap();
    let answer = cluster.answer(Origin::Worker(process), Ask::Spawn(named(job, None, true)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("is the role that asks")),
        "{answer:?}"
    );
}

#[test]
fn a_process_that_was_given_up_may_ask_for_nothing() {
    let mut cluster = Cluster::new();
    let unexpected = Running { process: 99, allotment: Allotment::default(), ready: None };
    cluster.joins("a", vec![unexpected]);
    let answer = cluster.answer(Origin::Worker(99), Ask::Spawn(spawn(0, 1)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("was given up")),
        "{answer:?}"
    );
}

/// Where the process that is launched goes.
fn launched_on(effects: &[HeadEffect]) -> Option<String> {
    effects.iter().find_map(launch).map(|(node, _)| node)
}

impl Cluster {
    fn fails(&mut self, process: u64) -> Vec<HeadEffect> {
        self.dies(process)
    }

    fn state_of(&self, node: &str) -> String {
        let status = self.head.status();
        status.nodes.iter().find(|found| found.name == node).unwrap().state.clone()
    }

    /// An actor of `role` on node `a`, which has started.
    fn on_a(&mut self, job: u64, role: &str) -> u64 {
        self.started(CLIENT, SpawnRequest { role: role.into(), node: Some("a".into()), ..spawn(job, 0) })
    }
}

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
    for number in 0..3 {
        assert_eq!(cluster.state_of("a"), "joined", "after {number} failures");
        let process = cluster.on_a(job, "gpu-user");
        cluster.fails(process);
    }
    let said = "joined, closed: 3 actors failed on it within 60 s, the last, a gpu-user: ended by signal 9";
    assert!(cluster.state_of("a").starts_with(said), "{}", cluster.state_of("a"));
    for _ in 0..4 {
        let effects = cluster.ask(CLIENT, Ask::Spawn(spawn(job, 0)));
        assert_eq!(launched_on(&effects).as_deref(), Some("b"));
    }
    // The last one that takes anything is never closed for that.
    for _ in 0..9 {
        let process = cluster.process(job, 0);
        cluster.fails(process);
    }
    assert_eq!(cluster.state_of("b"), "joined");
    cluster.ask(CLIENT, Ask::Uncordon { node: "a".into() });
    assert_eq!(cluster.state_of("a"), "joined");
    let process = cluster.on_a(job, "gpu-user");
    cluster.fails(process);
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
        cluster.fails(process);
        nodes.push(node);
    }
    assert_eq!(nodes, ["a", "b", "a", "b", "a", "b", "a", "b"]);
    assert_eq!((cluster.state_of("a"), cluster.state_of("b")), ("joined".into(), "joined".into()));
}

#[test]
fn failures_that_are_long_past_and_ordered_ends_close_no_node() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    for _ in 0..2 {
        let process = cluster.on_a(job, "role");
        cluster.fails(process);
    }
    cluster.now += Duration::from_secs(61);
    let process = cluster.on_a(job, "role");
    cluster.fails(process);
    for _ in 0..5 {
        let process = cluster.on_a(job, "role");
        let actor = cluster.head.status().actors.iter().find(|actor| actor.process == process).unwrap().actor;
        cluster.ask(CLIENT, Ask::StopActor { actor, kill: true });
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

/// The next launch, and when it came, within ten minutes; `process` has just died.
fn next_launch(cluster: &mut Cluster, mut effects: Vec<HeadEffect>) -> Option<(Duration, u64)> {
    let began = cluster.now;
    loop {
        if let Some((node, process)) = effects.iter().find_map(launch) {
            cluster.ready(&node, process);
            return Some((cluster.now - began, process));
        }
        if cluster.now - began > Duration::from_secs(600) {
            return None;
        }
        let store = StoreUse::default();
        cluster.event(HeadEvent::Heartbeat { node: "a".into(), incarnation: 1, store });
        effects = cluster.half_a_second();
    }
}

#[test]
fn restarts_pause_twice_as_long_each_time_and_end_with_their_count() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 4, within_ms: 0, pause_ms: 20_000 };
    let mut process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    let mut pauses = Vec::new();
    loop {
        let died = cluster.dies(process);
        let Some((pause, next)) = next_launch(&mut cluster, died) else { break };
        assert!(next > process);
        pauses.push(pause.as_secs());
        process = next;
    }
    assert_eq!(pauses, [20, 40, 60, 60], "a minute at most");
    assert!(cluster.head.status().actors.is_empty());
}

#[test]
fn restarts_that_are_long_past_do_not_count_where_there_is_a_window() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 2, within_ms: 60_000, pause_ms: 0 };
    let mut process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    for round in 0..5 {
        for _ in 0..2 {
            let died = cluster.dies(process);
            let (pause, next) = next_launch(&mut cluster, died).unwrap_or_else(|| panic!("round {round}"));
            assert_eq!(pause, Duration::ZERO);
            process = next;
        }
        cluster.now += Duration::from_secs(60);
    }
    for _ in 0..2 {
        let died = cluster.dies(process);
        process = next_launch(&mut cluster, died).expect("two within the window").1;
    }
    cluster.dies(process);
    assert!(cluster.head.status().actors.is_empty(), "the third within the window is the last");
}

#[test]
fn an_actor_that_rests_before_its_restart_can_be_ended() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, within_ms: 0, pause_ms: 20_000 };
    let process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    cluster.dies(process);
    let actor = cluster.head.status().actors[0].clone();
    assert_eq!(actor.state, "waiting to be started again");
    cluster.ask(CLIENT, Ask::StopActor { actor: actor.actor, kill: false });
    assert!(cluster.head.status().actors.is_empty());
    assert_eq!(next_launch(&mut cluster, Vec::new()), None);
}
