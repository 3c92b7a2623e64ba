//! A simulated cluster: the real head and agents, simulated processes, network and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{Cause, ProcessAddress, ProcessDeath, ProcessKind, Resources, SpawnRequest};
use lyceum_cluster::control::record::{Key, Value};
use lyceum_cluster::control::resources::{Allotment, Capacity, Ledger};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Launch, Origin, Report, Running};
use lyceum_cluster::control::{
    Agent, AgentEffect, AgentEvent, AgentOptions, Head, HeadEffect, HeadEvent, HeadOptions, NodeOptions,
    Watcher,
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

    /// One random thing happens.
    pub fn disturb(&mut self) {
        let node = NODES[self.random.below(3) as usize].to_owned();
        match self.random.below(100) {
            0..8 => self.ask(|_| Ask::BeginJob { name: "job".into(), bound: false }),
            8..38 => self.spawn(),
            38..42 => self.end_some_job(),
            42..52 => self.kill_some_process(&node),
            52..54 => self.kill_agent(&node),
            54..57 => self.cut_link(&node),
            57..58 => self.restart_head(),
            58..62 => self.stop_some_actor(),
            62..72 => self.watch_something(),
            _ => {}
        }
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
        for job in self.jobs.clone() {
            self.open_ends.insert(self.questions + 1);
            self.ask(|_| Ask::EndJob { job, by: "the test".into() });
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

    fn spawn(&mut self) {
        let Some(job) = pick(&mut self.random, &self.jobs) else { return };
        let request = SpawnRequest {
            role: "role".into(),
            job,
            resources: Resources {
                milli_cpus: [0, 500, 1000, 2000, 4000][self.random.below(5) as usize],
                milli_gpus: [0, 0, 500, 1000][self.random.below(4) as usize],
                memory: self.random.below(3) << 28,
                ..Resources::default()
            },
            restarts: self.random.below(3) as u32,
            ..SpawnRequest::default()
        };
        self.ask(|_| Ask::Spawn(request));
    }

    fn end_some_job(&mut self) {
        if let Some(job) = pick(&mut self.random, &self.jobs) {
            self.open_ends.insert(self.questions + 1);
            self.ask(|_| Ask::EndJob { job, by: "the test".into() });
        }
    }

    fn stop_some_actor(&mut self) {
        let actors: BTreeSet<u64> = self.head.status().actors.iter().map(|actor| actor.actor).collect();
        if let Some(actor) = pick(&mut self.random, &actors) {
            let kill = self.random.below(2) == 0;
            self.ask(|_| Ask::StopActor { actor, kill });
        }
    }

    fn kill_some_process(&mut self, node: &str) {
        let processes: BTreeSet<u64> = self.agents[node].processes.keys().copied().collect();
        if let Some(process) = pick(&mut self.random, &processes) {
            self.process_ends(node, process, Cause::Signal(9));
        }
    }

    fn kill_agent(&mut self, node: &str) {
        let until = self.now + self.random.below(20_000);
        let Some(agent) = self.agents.get_mut(node) else { return };
        if matches!(agent.link, Link::Dead { .. }) {
            return;
        }
        let died: Vec<u64> = agent.processes.keys().copied().collect();
        agent.processes.clear();
        agent.link = Link::Dead { until };
        agent.connection += 1;
        let incarnation = agent.incarnation;
        self.watches.retain(|(watcher, _)| !died.contains(watcher));
        if self.random.below(2) == 0 {
            let term = self.term;
            self.send(Message::Evidence { node: node.to_owned(), incarnation, term });
        }
    }

    fn cut_link(&mut self, node: &str) {
        let until = self.now + self.random.below(20_000);
        if let Some(agent) = self.agents.get_mut(node).filter(|agent| agent.link == Link::Up) {
            agent.link = Link::Down { until };
            agent.connection += 1;
            let incarnation = agent.incarnation;
            if self.random.below(2) == 0 {
                self.head_event(HeadEvent::Disconnected { node: node.to_owned(), incarnation });
            }
        }
    }

    /// The head is killed and starts again from its records: all connections break, no answer comes any more.
    fn restart_head(&mut self) {
        self.head = Head::new(head_options(), self.disk.clone());
        self.term += 1;
        self.term_began = self.now;
        self.open_ends.clear();
        for agent in self.agents.values_mut().filter(|agent| agent.link == Link::Up) {
            agent.connection += 1;
            agent.link = Link::Down { until: self.now + 500 };
            agent.joined = 0;
        }
        self.jobs = self.head.status().jobs.iter().map(|job| job.job).collect();
    }

    fn heal_links(&mut self, all: bool) {
        for node in NODES {
            match self.agents[node].link {
                Link::Down { until } if all || self.now >= until => self.join(node),
                Link::Dead { until } if all || self.now >= until => self.start_agent(node),
                _ => {}
            }
        }
    }

    fn start_agent(&mut self, node: &str) {
        let question = self.questions + 1;
        let effects = self.commit(HeadEvent::Asked {
            origin: Origin::Client(CLIENT),
            request: question,
            ask: Ask::IssueNode { node: node.to_owned() },
        });
        self.questions = question;
        let mut identity = None;
        for effect in effects {
            match effect {
                HeadEffect::Reply { answer: Answer::Identity { incarnation, .. }, .. } => {
                    identity = Some(incarnation)
                }
                other => self.head_effect(other),
            }
        }
        let incarnation = identity.expect("the head issues identities for nodes of the manifest");
        let options = AgentOptions {
            node: node.to_owned(),
            owned: false,
            verdict: Duration::from_secs(10),
            stop_grace: Duration::from_secs(1),
            cores: (0..4).collect(),
            ports: 0..0,
        };
        let connection = self.agents.get(node).map_or(0, |agent| agent.connection + 1);
        self.agents.insert(
            node.to_owned(),
            SimAgent {
                incarnation,
                machine: Agent::new(options),
                began: self.now,
                processes: BTreeMap::new(),
                link: Link::Up,
                connection,
                joined: 0,
                lane: 0,
            },
        );
        self.join(node);
    }

    /// A new connection to the head and to the other agents.
    fn join(&mut self, node: &str) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        agent.link = Link::Up;
        agent.connection += 1;
        let connection = agent.connection;
        let (running, ended) = agent.machine.inventory();
        self.send(Message::Joined { node: node.to_owned(), connection, running, ended });
        for other in NODES.iter().filter(|other| **other != node) {
            self.agent_event(node, AgentEvent::PeerLinked { node: other.to_string() });
            self.agent_event(other, AgentEvent::PeerLinked { node: node.to_owned() });
        }
    }

    fn heartbeat(&mut self, node: &str) {
        let agent = &self.agents[node];
        if agent.link == Link::Up {
            let connection = agent.connection;
            self.send(Message::Heartbeat { node: node.to_owned(), connection });
        }
    }

    fn watch_something(&mut self) {
        let live: BTreeMap<u64, String> = self
            .agents
            .iter()
            .flat_map(|(node, agent)| agent.processes.keys().map(move |process| (*process, node.clone())))
            .collect();
        let numbers: BTreeSet<u64> = live.keys().copied().collect();
        let (Some(watcher), Some(target)) =
            (pick(&mut self.random, &numbers), pick(&mut self.random, &numbers))
        else {
            return;
        };
        if watcher == target {
            return;
        }
        self.watches.insert((watcher, target));
        let address = ProcessAddress {
            kind: ProcessKind::Worker,
            node: live[&target].clone(),
            process: target,
            addr: endpoint(),
        };
        let watch = AgentEvent::Watch { watcher: Watcher::Worker(watcher), target: address };
        let node = live[&watcher].clone();
        self.agent_event(&node, watch);
    }

    fn process_ends(&mut self, node: &str, process: u64, cause: Cause) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        if agent.processes.remove(&process).is_some() {
            self.watches.retain(|(watcher, _)| *watcher != process);
            self.agent_event(node, AgentEvent::Ended { process, cause, log_tail: Vec::new() });
        }
    }

    fn ask(&mut self, ask: impl FnOnce(u64) -> Ask) {
        self.questions += 1;
        let request = self.questions;
        let ask = ask(request);
        self.head_event(HeadEvent::Asked { origin: Origin::Client(CLIENT), request, ask });
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

    fn send(&mut self, message: Message) {
        self.send_within(300, message);
    }

    fn send_within(&mut self, longest: u64, message: Message) {
        let mut at = self.now + self.random.below(longest);
        if let Message::Report { node, .. } | Message::Joined { node, .. } = &message
            && let Some(agent) = self.agents.get_mut(node)
        {
            at = at.max(agent.lane);
            agent.lane = at;
        }
        self.sent += 1;
        self.network.push((at, self.sent, message));
    }

    fn deliver_due(&mut self) {
        loop {
            let due = self.network.iter().enumerate().filter(|(_, (at, _, _))| *at <= self.now);
            let Some(first) = due.min_by_key(|(_, (at, number, _))| (*at, *number)).map(|(index, _)| index)
            else {
                return;
            };
            let (_, _, message) = self.network.swap_remove(first);
            self.deliver(message);
        }
    }

    fn connected(&self, node: &str, connection: u64) -> Option<u64> {
        let agent = &self.agents[node];
        (agent.link == Link::Up && agent.connection == connection).then_some(agent.incarnation)
    }

    fn reachable(&self, node: &str) -> bool {
        self.agents[node].link == Link::Up
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Command { node, connection, command } => {
                if self.connected(&node, connection).is_some() {
                    self.agent_event(&node, AgentEvent::Commanded(command));
                }
            }
            Message::Report { node, connection, report } => {
                if let Some(incarnation) = self.connected(&node, connection) {
                    self.head_event(HeadEvent::Reported { node, incarnation, report });
                }
            }
            Message::Joined { node, connection, running, ended } => {
                if let Some(incarnation) = self.connected(&node, connection) {
                    if let Some(agent) = self.agents.get_mut(&node) {
                        agent.joined = connection;
                    }
                    let (address, pid) = (endpoint(), 1);
                    self.head_event(HeadEvent::Joined { node, incarnation, address, pid, running, ended });
                }
            }
            Message::Heartbeat { node, connection } => {
                if let Some(incarnation) = self.connected(&node, connection) {
                    let store = Default::default();
                    self.head_event(HeadEvent::Heartbeat { node, incarnation, store });
                }
            }
            Message::Probed { node, incarnation, term } if term == self.term => {
                let answered = self.reachable(&node) && self.agents[&node].incarnation == incarnation;
                self.head_event(HeadEvent::Probed { node, incarnation, answered });
            }
            Message::Evidence { node, incarnation, term } if term == self.term => {
                let evidence = "seen to end".to_owned();
                self.head_event(HeadEvent::AgentEnded { node, incarnation, evidence });
            }
            Message::Probed { .. } | Message::Evidence { .. } => {}
            Message::WatchAt { from, target } => {
                if self.reachable(&from) && self.reachable(&target.node) {
                    let node = target.node.clone();
                    self.agent_event(&node, AgentEvent::Watch { watcher: Watcher::Agent(from), target });
                }
            }
            Message::PeerDeath { from, to, death } => {
                if self.reachable(&from) && self.reachable(&to) {
                    self.agent_event(&to, AgentEvent::PeerReported(death));
                }
            }
            Message::Ready { process, node } => {
                if self.agents[&node].processes.contains_key(&process) {
                    self.agent_event(&node, AgentEvent::Ready { process, address: endpoint(), pid: 1 });
                }
            }
            Message::Ends { process, node } => self.process_ends(&node, process, Cause::Exited(1)),
        }
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
