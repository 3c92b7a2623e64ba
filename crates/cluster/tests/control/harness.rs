//! A head with two nodes, and how the tests speak to it.

use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{Cause, ProcessDeath, Resources, SpawnRequest};
use lyceum_cluster::control::elastic::Elastic;
use lyceum_cluster::control::record::{Key, Record, Value};
use lyceum_cluster::control::resources::Capacity;
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Labels, Origin, Report, Running, StoreUse};
use lyceum_cluster::control::{
    Agent, AgentOptions, CordonRule, Head, HeadEffect, HeadEvent, HeadOptions, NodeOptions,
};
use lyceum_cluster::units::Milli;

pub const CLIENT: Origin = Origin::Client(1);

pub struct Cluster {
    pub head: Head,
    pub now: Duration,
}

impl Cluster {
    /// Two nodes, `a` and `b`, of two cores each, joined as incarnation 1.
    pub fn new() -> Cluster {
        let mut cluster = Cluster::after([]);
        for node in ["a", "b"] {
            cluster.joins(node, Vec::new());
        }
        cluster
    }

    /// A head of two nodes that goes on from these records; no agent has joined.
    pub fn after(records: impl IntoIterator<Item = (Key, Value)>) -> Cluster {
        Cluster::of(records, None, None)
    }

    /// The same, which has yet to be told what one of them has.
    pub fn with_found(node: &str) -> Cluster {
        Cluster::of([], Some(node), None)
    }

    /// The same two nodes, which may ask for further ones.
    pub fn with_elastic(elastic: Elastic) -> Cluster {
        let mut cluster = Cluster::of([], None, Some(elastic));
        for node in ["a", "b"] {
            cluster.joins(node, Vec::new());
        }
        cluster
    }

    fn of(
        records: impl IntoIterator<Item = (Key, Value)>,
        found: Option<&str>,
        elastic: Option<Elastic>,
    ) -> Cluster {
        let capacity = Capacity { cpus: Milli::whole(2), ..Capacity::default() };
        let node = |name: &str| NodeOptions {
            capacity: (found != Some(name)).then(|| capacity.clone()),
            labels: Labels::new(),
        };
        let options = HeadOptions {
            cluster: "c".into(),
            owned: false,
            unreachable: Duration::from_millis(2500),
            verdict: Duration::from_secs(10),
            stop_grace: Duration::from_secs(1),
            cordon: CordonRule { failures: 3, within: Duration::from_secs(60) },
            nodes: ["a", "b"].map(|name| (name.to_owned(), node(name))).into(),
            elastic,
        };
        Cluster { head: Head::new(options, records), now: Duration::ZERO }
    }

    /// An agent joins, again or for the first time, and says what runs on its node.
    pub fn joins(&mut self, node: &str, running: Vec<Running>) -> Vec<HeadEffect> {
        self.event(HeadEvent::Joined {
            node: node.into(),
            incarnation: 1,
            address: address(),
            pid: 1,
            running,
            ended: Vec::new(),
            offer: None,
        })
    }

    pub fn event(&mut self, event: HeadEvent) -> Vec<HeadEffect> {
        self.head.apply(event, self.now).1
    }

    pub fn ask(&mut self, origin: Origin, ask: Ask) -> Vec<HeadEffect> {
        self.event(HeadEvent::Asked { origin, request: 1, ask })
    }

    /// What the head writes down when a person asks for this.
    pub fn orders(&mut self, ask: Ask) -> Vec<Record> {
        self.head.apply(HeadEvent::Asked { origin: CLIENT, request: 1, ask }, self.now).0
    }

    pub fn answer(&mut self, origin: Origin, ask: Ask) -> Answer {
        let effects = self.ask(origin, ask);
        let answer = effects.into_iter().find_map(|effect| match effect {
            HeadEffect::Reply { answer, .. } => Some(answer),
            _ => None,
        });
        answer.expect("an answer at once")
    }

    pub fn heard(&mut self, node: &str) -> Vec<HeadEffect> {
        let store = StoreUse::default();
        self.event(HeadEvent::Heartbeat { node: node.into(), incarnation: 1, store })
    }

    /// Half a second passes; `b` is heard of.
    pub fn half_a_second(&mut self) -> Vec<HeadEffect> {
        self.now += Duration::from_millis(500);
        let mut effects = self.heard("b");
        effects.extend(self.event(HeadEvent::Tick));
        effects
    }

    pub fn job(&mut self) -> u64 {
        match self.answer(CLIENT, Ask::BeginJob { name: "job".into(), bound: true }) {
            Answer::Job(job) => job,
            other => panic!("no job: {other:?}"),
        }
    }

    /// A process of `job` that has started.
    pub fn process(&mut self, job: u64, cpus: u64) -> u64 {
        self.started(CLIENT, spawn(job, cpus))
    }

    /// The process of an actor that `origin` asks for, once it has started.
    pub fn started(&mut self, origin: Origin, request: SpawnRequest) -> u64 {
        let launched = self.ask(origin, Ask::Spawn(request));
        let (node, process) = launched.iter().find_map(launch).expect("it is launched at once");
        self.ready(&node, process);
        process
    }

    pub fn ready(&mut self, node: &str, process: u64) -> Vec<HeadEffect> {
        let report = Report::Ready { process, address: address(), pid: 2 };
        self.event(HeadEvent::Reported { node: node.into(), incarnation: 1, report })
    }

    /// `process` is killed by somebody.
    pub fn dies(&mut self, process: u64) -> Vec<HeadEffect> {
        let node = self.head.node_of(process).expect("it is not known to have ended");
        let death =
            ProcessDeath { process, node: node.clone(), cause: Cause::Signal(9), log_tail: Vec::new() };
        self.event(HeadEvent::Reported { node, incarnation: 1, report: Report::Ended(death) })
    }

    pub fn lookup(&mut self, origin: Origin, job: u64, namespace: Option<&str>, name: &str) -> Option<u64> {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        match self.answer(origin, Ask::Lookup { job, namespace, name }) {
            Answer::Actor(address) => Some(address.incarnation),
            Answer::Nobody => None,
            other => panic!("no answer to a lookup: {other:?}"),
        }
    }
}

/// The agent of a node, of a cluster that stands.
pub fn agent(node: &str) -> Agent {
    Agent::new(AgentOptions {
        node: node.into(),
        owned: false,
        verdict: Duration::from_secs(10),
        stop_grace: Duration::from_secs(1),
        cores: Vec::new(),
    })
}

pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000))
}

pub fn spawn(job: u64, cpus: u64) -> SpawnRequest {
    let resources = Resources { milli_cpus: cpus * 1000, ..Resources::default() };
    SpawnRequest { role: "role".into(), job, resources, ..SpawnRequest::default() }
}

pub fn launch(effect: &HeadEffect) -> Option<(String, u64)> {
    match effect {
        HeadEffect::ToAgent { node, command: Command::Launch(launch), .. } => {
            Some((node.clone(), launch.process))
        }
        _ => None,
    }
}

pub fn tells_suspicion(effect: &HeadEffect) -> bool {
    matches!(effect, HeadEffect::ToAgent { command: Command::Suspect { unreachable: true, .. }, .. })
}

pub fn named(job: u64, namespace: Option<&str>, or_get: bool) -> SpawnRequest {
    let namespace = namespace.map(str::to_owned);
    SpawnRequest { name: Some("ada".into()), namespace, or_get, ..spawn(job, 1) }
}

pub fn stops(effects: &[HeadEffect]) -> Vec<u64> {
    let stop = |effect: &HeadEffect| match effect {
        HeadEffect::ToAgent { command: Command::Stop { process, .. }, .. } => Some(*process),
        _ => None,
    };
    effects.iter().filter_map(stop).collect()
}

/// Where the process that is launched goes.
pub fn launched_on(effects: &[HeadEffect]) -> Option<String> {
    effects.iter().find_map(launch).map(|(node, _)| node)
}

impl Cluster {
    pub fn state_of(&self, node: &str) -> String {
        let status = self.head.status();
        status.nodes.iter().find(|found| found.name == node).unwrap().state.clone()
    }

    /// An actor of `role` that goes to node `a`, which comes first of two that are alike, and has started there.
    pub fn lands_on_a(&mut self, job: u64, role: &str) -> u64 {
        let process = self.started(CLIENT, SpawnRequest { role: role.into(), ..spawn(job, 0) });
        assert_eq!(self.head.node_of(process).as_deref(), Some("a"));
        process
    }

    /// An actor of `role` that may be on node `a` only, and has started there.
    pub fn on_a(&mut self, job: u64, role: &str) -> u64 {
        self.started(CLIENT, SpawnRequest { role: role.into(), node: Some("a".into()), ..spawn(job, 0) })
    }
}

/// The next launch, and when it came, within ten minutes; `process` has just died.
pub fn next_launch(cluster: &mut Cluster, mut effects: Vec<HeadEffect>) -> Option<(Duration, u64)> {
    let began = cluster.now;
    loop {
        if let Some((node, process)) = effects.iter().find_map(launch) {
            cluster.ready(&node, process);
            return Some((cluster.now - began, process));
        }
        if cluster.now - began > Duration::from_secs(600) {
            return None;
        }
        cluster.heard("a");
        effects = cluster.half_a_second();
    }
}

impl Cluster {
    /// An actor with a core of this node, which has started.
    pub fn on_a_core(&mut self, job: u64, node: &str) -> u64 {
        self.started(CLIENT, SpawnRequest { node: Some(node.into()), ..spawn(job, 1) })
    }
}
