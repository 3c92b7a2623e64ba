//! A simulated cluster: the real head and agents, simulated processes, network and faults.

mod asserted;
mod faults;
mod network;
mod planted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{
    Cause, GangRequest, Lifetime, ProcessAddress, ProcessDeath, ProcessKind, Resources, Restarts,
    SpawnRequest, Strategy,
};
use lyceum_cluster::control::record::{Key, Record, Value};
use lyceum_cluster::control::resources::{Allotment, Capacity, Ledger};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Launch, Origin, Report, Running};
use lyceum_cluster::control::{
    Agent, AgentEffect, AgentEvent, AgentOptions, CordonRule, Head, HeadEffect, HeadEvent, HeadOptions,
    NodeOptions, Watcher,
};
use lyceum_cluster::units::Milli;

pub use planted::Planted;

const CLIENT: u64 = 1 << 40;
/// Silence after which a node is lost, in milliseconds.
const VERDICT: u64 = 10_000;

pub struct World {
    seed: u64,
    /// What is wrong with this world.
    planted: Option<Planted>,
    nodes: Vec<String>,
    /// Events that head and agents have taken in.
    events: u64,
    random: Random,
    now: u64,
    term_began: u64,
    head: Head,
    disk: BTreeMap<Key, Value>,
    agents: BTreeMap<String, SimAgent>,
    /// What is on its way, by the time it arrives at.
    network: BTreeMap<u64, VecDeque<Message>>,
    launched: BTreeSet<u64>,
    actor_of: BTreeMap<u64, u64>,
    jobs: BTreeSet<u64>,
    questions: u64,
    open_ends: BTreeSet<u64>,
    /// Questions for a node to be emptied that have no answer yet.
    drains: BTreeSet<u64>,
    term: u64,
    /// (watcher process, target process) that still wait for the news.
    watches: BTreeSet<(u64, u64)>,
    /// Nodes of which the end was seen, by incarnation.
    evidence: BTreeSet<(String, u64)>,
    /// The disk as it was before the newest commit.
    before: Option<BTreeMap<Key, Value>>,
    /// The head takes in an agent's inventory.
    joining: bool,
    /// Every effect, where that is asked for.
    history: Option<Vec<String>>,
    aloud: bool,
}

struct SimAgent {
    incarnation: u64,
    machine: Agent,
    began: u64,
    processes: BTreeMap<u64, SimProcess>,
    link: Link,
    /// Nodes that its workers take for silent.
    suspects: BTreeSet<String>,
    /// Since when its link has been broken, until it joins.
    silent_since: Option<u64>,
    connection: u64,
    /// The connection on which the head has heard it join; only there the head speaks.
    joined: u64,
    /// What an agent sends to the head on one connection arrives in order, not before this.
    lane: u64,
    /// Until then nothing that it says arrives, while it hears the head.
    mute_until: u64,
    /// The connection on which it does not hear the head, which hears it, and when it gives that connection up.
    deaf: Option<(u64, u64)>,
    /// The same of what the head says to it of suspicions.
    heads_lane: u64,
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
    Report { from: Speaker, report: Report },
    Joined { from: Speaker, running: Vec<Running>, ended: Vec<ProcessDeath> },
    Heartbeat { from: Speaker },
    Probed { node: String, incarnation: u64, term: u64 },
    Evidence { node: String, incarnation: u64, term: u64 },
    WatchAt { from: String, target: ProcessAddress },
    PeerDeath { from: String, to: String, death: ProcessDeath },
    Ready { process: u64, node: String },
    Ends { process: u64, node: String },
}

/// An agent that speaks to the head, on one of its connections.
#[derive(Clone)]
struct Speaker {
    node: String,
    incarnation: u64,
    connection: u64,
}

impl World {
    /// A world of 3 to 12 nodes.
    pub fn new(seed: u64) -> World {
        World::of(seed, 3 + seed as usize % 10, None)
    }

    pub fn of(seed: u64, nodes: usize, planted: Option<Planted>) -> World {
        let nodes: Vec<String> = (0..nodes).map(|number| format!("n{number:03}")).collect();
        let head = Head::new(head_options(&nodes, planted), []);
        let mut world = World {
            seed,
            planted,
            nodes: nodes.clone(),
            events: 0,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            term_began: 0,
            head,
            disk: BTreeMap::new(),
            agents: BTreeMap::new(),
            network: BTreeMap::new(),
            launched: BTreeSet::new(),
            actor_of: BTreeMap::new(),
            jobs: BTreeSet::new(),
            questions: 0,
            open_ends: BTreeSet::new(),
            drains: BTreeSet::new(),
            term: 1,
            watches: BTreeSet::new(),
            evidence: BTreeSet::new(),
            before: None,
            joining: false,
            history: None,
            aloud: false,
        };
        for node in &nodes {
            world.start_agent(node);
        }
        world
    }

    /// The same, which keeps its history, and prints it if `aloud`.
    pub fn recorded(mut self, aloud: bool) -> World {
        self.history = Some(Vec::new());
        self.aloud = aloud;
        self
    }

    pub fn history(&self) -> &[String] {
        self.history.as_deref().unwrap_or_default()
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// Time passes; what is due arrives.
    pub fn advance(&mut self) {
        self.now += self.random.below(400);
        self.deliver_due();
        self.heal_links(false);
        self.tick();
        self.deliver_due();
    }

    fn tick(&mut self) {
        for node in self.nodes.clone() {
            self.agent_event(&node, AgentEvent::Tick);
            self.heartbeat(&node);
        }
        self.head_event(HeadEvent::Tick);
    }

    /// Every fault is over: whoever waits is placed where there is room, and nobody is lost. Then all jobs end.
    pub fn heal_and_end_everything(&mut self) {
        for node in self.nodes.clone() {
            self.ask(|_| Ask::Uncordon { node });
        }
        // Nodes that were lost are found again, and restarts have had their pauses.
        self.go_on(40);
        self.assert_nobody_waits_beside_room();
        self.assert_watchers_are_told();
        self.assert_names_are_found();
        // Those of detached actors too.
        let jobs = &self.jobs_on_disk() | &self.jobs;
        for job in jobs {
            self.open_ends.insert(self.questions + 1);
            self.ask(|_| Ask::EndJob { job, by: "the test".into(), kill: false });
        }
        for _ in 0..25 {
            self.go_on(10);
            if self.open_ends.is_empty() && self.network_is_idle() {
                break;
            }
        }
        // Those who were told twice are heard of.
        self.go_on(16);
    }

    fn go_on(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.now += 200;
            self.deliver_due();
            self.heal_links(true);
            self.tick();
            self.assert_safety();
        }
    }

    /// What happens, in the history and, where that is asked for, on the screen.
    fn note(&mut self, what: &str, happens: &dyn std::fmt::Debug) {
        let Some(history) = &mut self.history else { return };
        let line = format!("{} {what} {happens:?}", self.now);
        if self.aloud {
            println!("{line}");
        }
        history.push(line);
    }

    fn jobs_on_disk(&self) -> BTreeSet<u64> {
        let job = |(key, _): (&Key, &Value)| match key {
            Key::Job(job) => Some(*job),
            _ => None,
        };
        self.disk.range(Key::Job(0)..=Key::Job(u64::MAX)).filter_map(job).collect()
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

    fn head_event(&mut self, event: HeadEvent) {
        for effect in self.commit(event) {
            self.head_effect(effect);
        }
    }

    fn commit(&mut self, event: HeadEvent) -> Vec<HeadEffect> {
        self.events += 1;
        self.note("head", &event);
        let uncordoned = match &event {
            HeadEvent::Asked { ask: Ask::Uncordon { node }, .. } => Some(node.clone()),
            _ => None,
        };
        let now = Duration::from_millis(self.now - self.term_began) + self.skipped_lease();
        let (records, effects) = self.head.apply(event, now);
        if self.planted == Some(Planted::EffectsBeforeCommit) && !records.is_empty() {
            self.before = Some(self.disk.clone());
        }
        let is_new = |record: &&Record| !self.disk.contains_key(&record.key);
        let new: Vec<Record> = records.iter().filter(is_new).cloned().collect();
        for record in records {
            self.assert_closure_stays(&record, uncordoned.as_deref());
            match record.value {
                Some(value) => drop(self.disk.insert(record.key, value)),
                None => drop(self.disk.remove(&record.key)),
            }
        }
        for record in new {
            self.assert_open(&record);
        }
        effects
    }

    fn head_effect(&mut self, effect: HeadEffect) {
        self.note("->", &effect);
        match effect {
            HeadEffect::ToAgent { node, incarnation, command } => {
                if let Command::NodeLost { node, reason, .. } = &command {
                    self.assert_verdict(node, reason);
                }
                if self.loses(&command) {
                    return;
                }
                let agent = &self.agents[&node];
                let connection = agent.connection;
                if agent.incarnation != incarnation || agent.link != Link::Up || agent.joined != connection {
                    return;
                }
                // The newest word on a suspicion counts, so that these come in order, and once, as everything does in truth.
                let in_order = matches!(command, Command::Suspect { .. } | Command::NodeLost { .. });
                if !in_order && self.random.below(5) == 0 {
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
            HeadEffect::Notify { notice, .. } => {
                self.assert_cause(&notice);
                let live = self.jobs_on_disk();
                self.jobs.retain(|job| live.contains(job));
            }
            HeadEffect::Probe { node, incarnation, .. } => {
                let term = self.term;
                self.send(Message::Probed { node, incarnation, term });
            }
            HeadEffect::CutAgent { .. } if self.planted == Some(Planted::GivenUpNotCut) => {}
            HeadEffect::CutAgent { node, incarnation } => {
                let until = self.now + 500;
                let up = |agent: &&mut SimAgent| agent.link == Link::Up && agent.incarnation == incarnation;
                if let Some(agent) = self.agents.get_mut(&node).filter(up) {
                    agent.link = Link::Down { until };
                    agent.connection += 1;
                }
            }
            HeadEffect::RefuseAgent { .. } | HeadEffect::Exit => {}
        }
    }

    fn agent_event(&mut self, node: &str, event: AgentEvent) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        if matches!(agent.link, Link::Dead { .. }) {
            return;
        }
        self.events += 1;
        let now = Duration::from_millis(self.now - agent.began);
        for effect in agent.machine.apply(event, now) {
            self.agent_effect(node, effect);
        }
    }

    fn agent_effect(&mut self, node: &str, effect: AgentEffect) {
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
                let from = self.speaker(node);
                self.send(Message::Report { from, report });
            }
            AgentEffect::TellWorker { process, death } => {
                self.watches.remove(&(process, death.process));
            }
            AgentEffect::TellAgent { node: to, death } => {
                self.send(Message::PeerDeath { from: here, to, death });
            }
            AgentEffect::WatchAt(target) => self.send(Message::WatchAt { from: here, target }),
            AgentEffect::TellSuspicion { node: silent, unreachable } => {
                if let Some(agent) = self.agents.get_mut(node) {
                    match unreachable {
                        true => agent.suspects.insert(silent),
                        false => agent.suspects.remove(&silent),
                    };
                }
            }
            AgentEffect::Report(_)
            | AgentEffect::WatchAtHead { .. }
            | AgentEffect::Peer { .. }
            | AgentEffect::Holders { .. }
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

fn head_options(nodes: &[String], planted: Option<Planted>) -> HeadOptions {
    let capacity = match planted {
        Some(Planted::Overcommitted) => {
            let Capacity { cpus, gpus, memory, custom } = capacity();
            Capacity { cpus: Milli(cpus.0 * 2), gpus: gpus * 2, memory: memory * 2, custom }
        }
        _ => capacity(),
    };
    let node = || NodeOptions { capacity: capacity.clone(), labels: BTreeMap::new() };
    HeadOptions {
        cluster: "simulated".into(),
        owned: false,
        unreachable: Duration::from_millis(2500),
        verdict: Duration::from_millis(VERDICT),
        stop_grace: Duration::from_secs(2),
        cordon: CordonRule { failures: 4, within: Duration::from_secs(20) },
        nodes: nodes.iter().map(|name| (name.clone(), node())).collect(),
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
