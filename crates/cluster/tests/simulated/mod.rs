//! A simulated cluster: the real head and agents, simulated processes, network and faults.

mod faults;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{
    Cause, GangRequest, Lifetime, ProcessAddress, ProcessDeath, ProcessKind, Resources, Restarts,
    SpawnRequest, Strategy,
};
use lyceum_cluster::control::record::{Key, Value};
use lyceum_cluster::control::resources::{Allotment, Capacity, Ledger};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Launch, Origin, Report, Running};
use lyceum_cluster::control::{
    Agent, AgentEffect, AgentEvent, AgentOptions, CordonRule, Head, HeadEffect, HeadEvent, HeadOptions,
    NodeOptions, Watcher,
};
use lyceum_cluster::units::Milli;

const CLIENT: u64 = 1 << 40;
const NODES: [&str; 3] = ["a", "b", "c"];

pub struct World {
    seed: u64,
    random: Random,
    now: u64,
    term_began: u64,
    head: Head,
    disk: BTreeMap<Key, Value>,
    agents: BTreeMap<String, SimAgent>,
    network: Vec<(u64, u64, Message)>,
    sent: u64,
    launched: BTreeSet<u64>,
    actor_of: BTreeMap<u64, u64>,
    jobs: BTreeSet<u64>,
    questions: u64,
    open_ends: BTreeSet<u64>,
    /// Questions for a node to be emptied that have no answer yet.
    drains: BTreeSet<u64>,
    /// Processes that were sent to a node once.
    placed: BTreeSet<u64>,
    term: u64,
    /// (watcher process, target process) that still wait for the news.
    watches: BTreeSet<(u64, u64)>,
    history: Vec<String>,
}

struct SimAgent {
    incarnation: u64,
    machine: Agent,
    began: u64,
    processes: BTreeMap<u64, SimProcess>,
    link: Link,
    connection: u64,
    /// The connection on which the head has heard it join; only there the head speaks.
    joined: u64,
    /// What an agent sends to the head on one connection arrives in order, not before this.
    lane: u64,
}

struct SimProcess {
    allotment: Allotment,
    obedient: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Up,
    Down { until: u64 },
    Dead { until: u64 },
}

#[expect(clippy::large_enum_variant, reason = "a few hundred at a time, in a test")]
enum Message {
    Command { node: String, connection: u64, command: Command },
    Report { node: String, connection: u64, report: Report },
    Joined { node: String, connection: u64, running: Vec<Running>, ended: Vec<ProcessDeath> },
    Heartbeat { node: String, connection: u64 },
    Probed { node: String, incarnation: u64, term: u64 },
    Evidence { node: String, incarnation: u64, term: u64 },
    WatchAt { from: String, target: ProcessAddress },
    PeerDeath { from: String, to: String, death: ProcessDeath },
    Ready { process: u64, node: String },
    Ends { process: u64, node: String },
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut world = World {
            seed,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            term_began: 0,
            head: Head::new(head_options(), []),
            disk: BTreeMap::new(),
            agents: BTreeMap::new(),
            network: Vec::new(),
            sent: 0,
            launched: BTreeSet::new(),
            actor_of: BTreeMap::new(),
            jobs: BTreeSet::new(),
            questions: 0,
            open_ends: BTreeSet::new(),
            drains: BTreeSet::new(),
            placed: BTreeSet::new(),
            term: 1,
            watches: BTreeSet::new(),
            history: Vec::new(),
        };
        for node in NODES {
            world.start_agent(node);
        }
        world
    }

    pub fn history(&self) -> &[String] {
        &self.history
    }

    /// Time passes; what is due arrives.
    pub fn advance(&mut self) {
        self.now += self.random.below(400);
        self.deliver_due();
        self.heal_links(false);
        for node in NODES {
            self.agent_event(node, AgentEvent::Tick);
            self.heartbeat(node);
        }
        self.head_event(HeadEvent::Tick);
        self.deliver_due();
    }

    pub fn assert_safety(&self) {
        self.assert_names_and_spawners();
        self.assert_gangs_are_whole();
        let seed = self.seed;
        for (name, agent) in &self.agents {
            let mut ledger = Ledger::new(capacity());
            for process in agent.processes.values() {
                ledger.take(&process.allotment);
            }
            assert!(!ledger.overdrawn(), "C2, seed {seed}: node {name} holds {:?}", ledger.used());
        }
        let status = self.head.status();
        for node in &status.nodes {
            assert!(
                node.used.cpus <= node.capacity.cpus,
                "C2, seed {seed}: the head's account of {}",
                node.name
            );
        }
        let current: BTreeMap<u64, u64> =
            status.actors.iter().map(|actor| (actor.actor, actor.process)).collect();
        for agent in self.agents.values() {
            for process in agent.processes.keys() {
                let newest = self.actor_of.get(process).and_then(|actor| current.get(actor));
                let effective = newest.is_none_or(|newest| *newest == 0 || process <= newest);
                assert!(
                    effective,
                    "C1, seed {seed}: process {process} is newer than the effective {newest:?}"
                );
            }
        }
    }

    pub fn heal_and_end_everything(&mut self) {
        self.heal_links(true);
        // Those of detached actors too.
        let jobs: BTreeSet<u64> = self.head.status().jobs.iter().map(|job| job.job).collect();
        for job in &jobs | &self.jobs {
            self.open_ends.insert(self.questions + 1);
            self.ask(|_| Ask::EndJob { job, by: "the test".into(), kill: false });
        }
        for _ in 0..300 {
            self.now += 200;
            self.deliver_due();
            self.heal_links(true);
            for node in NODES {
                self.agent_event(node, AgentEvent::Tick);
                self.heartbeat(node);
            }
            self.head_event(HeadEvent::Tick);
            self.assert_safety();
        }
        assert!(self.drains.is_empty(), "C7, seed {}: drains never answered {:?}", self.seed, self.drains);
        for node in NODES {
            self.ask(|_| Ask::Uncordon { node: node.into() });
        }
    }

    pub fn assert_nothing_left(&self) {
        let seed = self.seed;
        let status = self.head.status();
        assert!(status.jobs.is_empty(), "C3, seed {seed}: {:?}", status.jobs);
        assert!(status.actors.is_empty(), "C3, seed {seed}: {:?}", status.actors);
        for node in &status.nodes {
            assert_eq!(node.state, "joined", "seed {seed}: node {}", node.name);
            assert_eq!(node.used, Allotment::default(), "C3, seed {seed}: node {}", node.name);
            assert_eq!(node.processes, 0, "C3, seed {seed}: node {}", node.name);
        }
        for (name, agent) in &self.agents {
            assert!(agent.processes.is_empty(), "C3, seed {seed}: processes left on {name}");
        }
        assert!(self.open_ends.is_empty(), "L3, seed {seed}: job ends never answered {:?}", self.open_ends);
        assert!(self.watches.is_empty(), "L3, seed {seed}: watchers never told {:?}", self.watches);
        let durable: Vec<&Key> =
            self.disk.keys().filter(|key| !matches!(key, Key::Next | Key::Node(_))).collect();
        assert!(durable.is_empty(), "C3, seed {seed}: records left {durable:?}");
    }

    fn process_ends(&mut self, node: &str, process: u64, cause: Cause) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        if agent.processes.remove(&process).is_some() {
            self.watches.retain(|(watcher, _)| *watcher != process);
            self.agent_event(node, AgentEvent::Ended { process, cause, log_tail: Vec::new() });
        }
    }

    fn ask(&mut self, ask: impl FnOnce(u64) -> Ask) {
        self.ask_as(Origin::Client(CLIENT), ask);
    }

    fn ask_as(&mut self, origin: Origin, ask: impl FnOnce(u64) -> Ask) {
        self.questions += 1;
        let request = self.questions;
        let ask = ask(request);
        self.head_event(HeadEvent::Asked { origin, request, ask });
    }

    /// Of what the head has written down.
    fn assert_names_and_spawners(&self) {
        let seed = self.seed;
        let mut names = BTreeMap::new();
        for (key, value) in &self.disk {
            let (Key::Actor(actor), Value::Actor(state)) = (key, value) else { continue };
            let request = &state.request;
            if let Some(name) = &request.name {
                let job = request.namespace.is_none().then_some(request.job);
                let named = state.seat.map_or(*actor, |seat| seat.gang);
                let other = names.insert((job, name), named).filter(|other| *other != named);
                assert_eq!(other, None, "C5, seed {seed}: `{name}` is {actor}'s too");
            }
            let process = |process: u64| match self.disk.get(&Key::Process(process)) {
                Some(Value::Process(state)) => Some(state),
                _ => None,
            };
            if let (Lifetime::Spawner, Origin::Worker(spawner)) = (request.lifetime, state.spawner) {
                let ends = state.process.and_then(process).is_some_and(|own| own.stopped_by.is_some());
                assert!(
                    ends || process(spawner).is_some(),
                    "C6, seed {seed}: {actor} outlives its spawner {spawner}"
                );
            }
        }
    }

    /// Of what the head has written down.
    fn assert_gangs_are_whole(&self) {
        let mut processes: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
        for value in self.disk.values() {
            let Value::Actor(state) = value else { continue };
            if let Some(seat) = state.seat {
                processes.entry(seat.gang).or_default().push(state.process.is_some());
            }
        }
        let seed = self.seed;
        for (gang, runs) in processes {
            let Some(Value::Gang(state)) = self.disk.get(&Key::Gang(gang)) else {
                panic!("C8, seed {seed}: gang {gang} has members and no record")
            };
            let whole = runs.iter().all(|runs| *runs) || !runs.contains(&true);
            assert!(whole || state.ending.is_some(), "C8, seed {seed}: of gang {gang} some run: {runs:?}");
            let runs = runs.contains(&true);
            assert!(runs || state.ending.is_none(), "C8, seed {seed}: gang {gang} ends and has ended");
        }
    }

    fn head_event(&mut self, event: HeadEvent) {
        for effect in self.commit(event) {
            self.head_effect(effect);
        }
    }

    fn commit(&mut self, event: HeadEvent) -> Vec<HeadEffect> {
        let now = Duration::from_millis(self.now - self.term_began);
        let (records, effects) = self.head.apply(event, now);
        for record in records {
            match record.value {
                Some(value) => drop(self.disk.insert(record.key, value)),
                None => drop(self.disk.remove(&record.key)),
            }
        }
        effects
    }

    fn head_effect(&mut self, effect: HeadEffect) {
        self.history.push(format!("{} {effect:?}", self.now));
        match effect {
            HeadEffect::ToAgent { node, incarnation, command } => {
                if let Command::Launch(launch) = &command
                    && self.placed.insert(launch.process)
                {
                    let closure = match self.disk.get(&Key::Node(node.clone())) {
                        Some(Value::Node(state)) => state.closure.as_ref(),
                        _ => None,
                    };
                    let process = launch.process;
                    assert_eq!(closure, None, "C7, seed {}: {process} is placed on {node}", self.seed);
                }
                let agent = &self.agents[&node];
                let connection = agent.connection;
                if agent.incarnation != incarnation || agent.link != Link::Up || agent.joined != connection {
                    return;
                }
                if self.random.below(5) == 0 {
                    let (node, command) = (node.clone(), command.clone());
                    self.send_within(3000, Message::Command { node, connection, command });
                }
                self.send_within(1000, Message::Command { node, connection, command });
            }
            HeadEffect::Reply { request, answer, .. } => {
                self.open_ends.remove(&request);
                self.drains.remove(&request);
                if let Answer::Job(job) = answer {
                    self.jobs.insert(job);
                }
            }
            HeadEffect::Notify { .. } => {
                let live = self.head.status();
                self.jobs.retain(|job| live.jobs.iter().any(|other| other.job == *job));
            }
            HeadEffect::Probe { node, incarnation, .. } => {
                let term = self.term;
                self.send(Message::Probed { node, incarnation, term });
            }
            HeadEffect::RefuseAgent { .. } | HeadEffect::Exit => {}
        }
    }

    fn agent_event(&mut self, node: &str, event: AgentEvent) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        if matches!(agent.link, Link::Dead { .. }) {
            return;
        }
        let now = Duration::from_millis(self.now - agent.began);
        for effect in agent.machine.apply(event, now) {
            self.agent_effect(node, effect);
        }
    }

    fn agent_effect(&mut self, node: &str, effect: AgentEffect) {
        let connection = self.agents[node].connection;
        let here = node.to_owned();
        match effect {
            AgentEffect::Start { launch, .. } => self.start_process(node, launch),
            AgentEffect::AskToStop { process, .. } => {
                let obedient =
                    self.agents[node].processes.get(&process).is_some_and(|process| process.obedient);
                if obedient {
                    self.send(Message::Ends { process, node: here });
                }
            }
            AgentEffect::Kill { process } => self.process_ends(node, process, Cause::Signal(9)),
            AgentEffect::Report(report) if self.agents[node].link == Link::Up => {
                self.send(Message::Report { node: here, connection, report });
            }
            AgentEffect::TellWorker { process, death } => {
                self.watches.remove(&(process, death.process));
            }
            AgentEffect::TellAgent { node: to, death } => {
                self.send(Message::PeerDeath { from: here, to, death });
            }
            AgentEffect::WatchAt(target) => self.send(Message::WatchAt { from: here, target }),
            AgentEffect::Report(_)
            | AgentEffect::TellSuspicion { .. }
            | AgentEffect::WatchAtHead { .. }
            | AgentEffect::Peer { .. }
            | AgentEffect::Exit(_) => {}
        }
    }

    fn start_process(&mut self, node: &str, launch: Launch) {
        let process = launch.process;
        assert!(
            self.launched.insert(process),
            "C1, seed {}: process {process} was launched twice",
            self.seed
        );
        self.actor_of.insert(process, launch.actor);
        let obedient = self.random.below(5) > 0;
        let message = match self.random.below(10) {
            0 => Message::Ends { process, node: node.to_owned() },
            _ => Message::Ready { process, node: node.to_owned() },
        };
        if let Some(agent) = self.agents.get_mut(node) {
            agent.processes.insert(process, SimProcess { allotment: launch.allotment, obedient });
        }
        self.send(message);
    }
}

fn head_options() -> HeadOptions {
    let node = || NodeOptions { capacity: capacity(), labels: BTreeMap::new() };
    HeadOptions {
        cluster: "simulated".into(),
        owned: false,
        unreachable: Duration::from_millis(2500),
        verdict: Duration::from_secs(10),
        stop_grace: Duration::from_secs(2),
        cordon: CordonRule { failures: 4, within: Duration::from_secs(20) },
        nodes: NODES.iter().map(|name| (name.to_string(), node())).collect(),
    }
}

fn capacity() -> Capacity {
    Capacity { cpus: Milli::whole(4), gpus: 2, memory: 1 << 30, custom: BTreeMap::new() }
}

fn endpoint() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000))
}

fn pick(random: &mut Random, from: &BTreeSet<u64>) -> Option<u64> {
    match from.len() as u64 {
        0 => None,
        len => from.iter().nth(random.below(len) as usize).copied(),
    }
}

/// xorshift64*: <https://en.wikipedia.org/wiki/Xorshift>.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}
