//! The head: nodes, jobs, names, actors and processes, as a pure state machine.

mod actors;
mod asks;
mod certificates;
mod closing;
mod demand;
mod gangs;
mod members;
mod names;
mod nodes;
mod programs;
mod queue;
mod restarts;
mod saved;
mod status;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{ControlError, ProcessDeath};

pub(crate) use self::certificates::{MAX_LIFETIME, MAX_SHOWN, REVOKED_AT_A_TIME};
pub use self::closing::CordonRule;
use self::closing::Failures;
use self::demand::Further;
use self::gangs::Gang;
use self::names::Name;
use self::nodes::Node;
use self::programs::Programs;
use self::queue::{Kept, Queue};
use self::restarts::Rests;
use self::saved::Saved;
pub use self::tokens::Shown;
use super::elastic::Elastic;
use super::offer::Offer;
use super::papers::{CertificateState, Revoked, TokenState};
use super::record::{ActorState, JobState, Key, ProcessState, Record, Value};
use super::resources::Capacity;
use super::vocabulary::{
    Answer, Ask, Command, HEAD_NODE, JobEvent, Labels, Notice, Origin, Report, Running, StoreUse,
};

/// Most actors that may wait for room at a time.
const MAX_WAITING: usize = 4096;
/// Deaths that are remembered for those who ask late.
const MAX_DEATHS: usize = 1024;

/// What the head is told when it begins.
#[derive(Debug, Clone)]
pub struct HeadOptions {
    /// The cluster's name.
    pub cluster: String,
    /// Does the cluster end with its runner?
    pub owned: bool,
    /// Silence after which a node is called unreachable.
    pub unreachable: Duration,
    /// Silence after which a node is lost, if a second path failed too.
    pub verdict: Duration,
    /// How long a process may take to stop before it is killed.
    pub stop_grace: Duration,
    /// When a node is taken for the reason that actors fail on it.
    pub cordon: CordonRule,
    /// The nodes of the manifest, by name.
    pub nodes: BTreeMap<String, NodeOptions>,
    /// Nodes that may be asked for beside these.
    pub elastic: Option<Elastic>,
}

/// A node as the manifest describes it.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// What it has; `None`: what its agent says when it joins.
    pub capacity: Option<Capacity>,
    /// Free words that a spawn may ask for.
    pub labels: Labels,
}

/// What can happen to the head.
#[derive(Debug, Clone)]
pub enum HeadEvent {
    /// An agent has connected and says what runs on its node.
    Joined {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Its endpoint.
        address: SocketAddr,
        /// Its number on its own machine.
        pid: u32,
        /// What runs there.
        running: Vec<Running>,
        /// What has ended there and was not yet written down.
        ended: Vec<ProcessDeath>,
        /// What its node has; of a node whose resources the manifest gives it may be left out.
        offer: Option<Offer>,
    },
    /// An agent was heard.
    Heartbeat {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Its store.
        store: StoreUse,
    },
    /// The connection to an agent is gone; it may come back.
    Disconnected {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
    },
    /// An agent is certainly gone: its process was seen to end.
    AgentEnded {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// The evidence in words.
        evidence: String,
        /// The last lines of its log, where they can be read.
        log_tail: Vec<String>,
    },
    /// A second path to a silent agent was tried.
    Probed {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Did it answer there?
        answered: bool,
    },
    /// An agent reports on a process.
    Reported {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// The report.
        report: Report,
    },
    /// Somebody asks for something.
    Asked {
        /// Who.
        origin: Origin,
        /// The asker's own number for this question; the answer carries it.
        request: u64,
        /// What.
        ask: Ask,
    },
    /// A client has gone.
    ClientGone {
        /// The number of its connection.
        client: u64,
    },
    /// Somebody without a certificate shows a join token.
    TokenShown {
        /// The number of its connection.
        guest: u64,
        /// What it shows.
        shown: Shown,
    },
    /// A certificate was signed for an agent.
    Certified(CertificateState),
    /// What the head's own process has found to be wrong, all of it.
    Warned {
        /// One sentence each.
        warnings: Vec<String>,
    },
    /// What is done about what waits for nodes that are not there, in lines for people.
    Scaled {
        /// All of it, in place of what was said before.
        lines: Vec<String>,
    },
    /// Time has passed.
    Tick,
    /// End everything: the head was told to, or its runner is gone.
    Shutdown {
        /// By whom.
        by: String,
    },
}

/// What the head wants done, once its records are committed.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "effects are few, and go at once")]
pub enum HeadEffect {
    /// Tell an agent; dropped if that incarnation is not connected, and derived again when it joins.
    ToAgent {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// What to tell it.
        command: Command,
    },
    /// An agent that was given up: close its connection, if there is one. Where it is there still it joins again, and has those
    /// of its processes ended that were given up with it.
    CutAgent {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
    },
    /// An agent that may not join: close its connection.
    RefuseAgent {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Why.
        reason: String,
    },
    /// Answer a question.
    Reply {
        /// Whom.
        origin: Origin,
        /// The asker's number for the question.
        request: u64,
        /// The answer.
        answer: Answer,
    },
    /// Tell a client.
    Notify {
        /// The number of its connection.
        client: u64,
        /// What.
        notice: Notice,
    },
    /// Try a second path to a silent agent, and say [`HeadEvent::Probed`].
    Probe {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Its endpoint.
        address: SocketAddr,
    },
    /// Sign a certificate for a new key of the asker's own process, and answer with it.
    Certify {
        /// Who asks.
        origin: Origin,
        /// The asker's number for the question.
        request: u64,
        /// Its node.
        node: String,
        /// The number of its process.
        number: u64,
        /// The public half of its key.
        public_key: Vec<u8>,
    },
    /// Take certificates no more: close the connections of their holders.
    Revoke(Revoked),
    /// Give a guest a certificate for its node, and what it needs to start there.
    Admit {
        /// The number of its connection.
        guest: u64,
        /// Its node.
        node: String,
        /// The incarnation that it is given.
        incarnation: u64,
    },
    /// Tell a guest that it is not let in.
    TurnAway {
        /// The number of its connection.
        guest: u64,
        /// Why.
        why: String,
    },
    /// Everything has ended: so may the head.
    Exit,
}

/// The head's state. See the [module](crate::control).
#[derive(Debug, Clone)]
pub struct Head {
    options: HeadOptions,
    next: u64,
    nodes: BTreeMap<String, Node>,
    /// What a node is that may be asked for.
    further: Option<Further>,
    /// What is done about what waits.
    scaling: Vec<String>,
    jobs: BTreeMap<u64, JobState>,
    actors: BTreeMap<u64, ActorState>,
    processes: BTreeMap<u64, ProcessState>,
    gangs: BTreeMap<u64, Gang>,
    /// Whose names are whose: of actors, and of gangs. Derived from `actors`.
    names: BTreeMap<Name, u64>,
    /// What actors have saved for their next lives.
    saved: Saved,
    /// What is wrong, by who has found it.
    warnings: BTreeMap<String, Vec<String>>,
    /// Which nodes have which of the programs that jobs brought.
    programs: Programs,
    /// Processes that make no progress, and what is known of that.
    stalls: BTreeMap<u64, String>,
    /// Actors and gangs that wait for room, in order of asking.
    waiting: Queue,
    /// Room that is kept for the first of them. Of one term only, as the time for which they wait.
    kept: Option<Kept>,
    /// What is to be remembered of restarts.
    restarts: Rests,
    /// Failures that may speak against nodes.
    failures: Failures,
    /// Spawns whose askers have no answer yet, by actor or gang.
    spawners: BTreeMap<u64, Vec<(Origin, u64)>>,
    /// Those who wait for a job's end.
    enders: BTreeMap<u64, Vec<(Origin, u64)>>,
    clients: BTreeMap<u64, ClientState>,
    /// Join tokens by their numbers.
    tokens: BTreeMap<u64, TokenState>,
    /// Certificates of agents, in order of signing.
    certificates: BTreeMap<u64, CertificateState>,
    /// Of which nodes certificates are taken no more.
    revoked: BTreeMap<String, Revoked>,
    deaths: VecDeque<ProcessDeath>,
    shutdown: Option<Shutdown>,
    dirty: BTreeSet<Key>,
    effects: Vec<HeadEffect>,
    now: Duration,
    /// Milliseconds since 1970, for what must hold over terms.
    date: u64,
}

#[derive(Debug, Clone, Default)]
struct ClientState {
    /// The number of its own process, if it takes part with one.
    process: Option<u64>,
    follows: BTreeSet<u64>,
    watches: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
struct Shutdown {
    deadline: Duration,
    askers: Vec<(Origin, u64)>,
    done: bool,
}

impl Head {
    /// A head that goes on from what an earlier term wrote down; from nothing at the first term.
    pub fn new(options: HeadOptions, records: impl IntoIterator<Item = (Key, Value)>) -> Head {
        let nodes =
            options.nodes.iter().map(|(name, node)| (name.clone(), Node::new(Some(node.clone())))).collect();
        let mut head = Head {
            further: options.elastic.as_ref().and_then(Further::of),
            scaling: Vec::new(),
            options,
            next: 1,
            nodes,
            jobs: BTreeMap::new(),
            actors: BTreeMap::new(),
            processes: BTreeMap::new(),
            gangs: BTreeMap::new(),
            names: BTreeMap::new(),
            saved: Saved::default(),
            warnings: BTreeMap::new(),
            programs: Programs::default(),
            stalls: BTreeMap::new(),
            waiting: Queue::default(),
            kept: None,
            restarts: Rests::default(),
            failures: Failures::default(),
            spawners: BTreeMap::new(),
            enders: BTreeMap::new(),
            clients: BTreeMap::new(),
            tokens: BTreeMap::new(),
            certificates: BTreeMap::new(),
            revoked: BTreeMap::new(),
            deaths: VecDeque::new(),
            shutdown: None,
            dirty: BTreeSet::new(),
            effects: Vec::new(),
            now: Duration::ZERO,
            date: 0,
        };
        // Whatever else is said of a node, its offer makes it one.
        let is_offer = |(key, _): &(Key, Value)| matches!(key, Key::Offer(_));
        let (offers, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_offer);
        for (key, value) in offers.into_iter().chain(others) {
            head.restore(key, value);
        }
        head.derive();
        head
    }

    fn restore(&mut self, key: Key, value: Value) {
        match (key, value) {
            (Key::Next, Value::Next(next)) => self.next = next,
            (Key::Job(job), Value::Job(state)) => drop(self.jobs.insert(job, state)),
            (Key::Actor(actor), Value::Actor(state)) => drop(self.actors.insert(actor, state)),
            (Key::Gang(gang), Value::Gang(state)) => drop(self.gangs.insert(gang, Gang::new(state))),
            (Key::Saved(actor), Value::Saved(state)) => _ = self.saved.insert(actor, state),
            (Key::Process(process), Value::Process(state)) => drop(self.processes.insert(process, state)),
            (Key::Node(name), Value::Node(state)) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.restore(state);
                }
            }
            (Key::Token(id), Value::Token(state)) => drop(self.tokens.insert(id, state)),
            (Key::Certificate(number), Value::Certificate(state)) => {
                self.certificates.insert(number, state);
            }
            (Key::Revoked(node), Value::Revoked(revoked)) => drop(self.revoked.insert(node, revoked)),
            (Key::Offer(name), Value::Offer(offer)) => self.restore_member(name, offer),
            // Keys and values are written in pairs; another pairing is no record of ours.
            _ => {}
        }
    }

    /// What is not written down because it follows from what is.
    fn derive(&mut self) {
        for (actor, state) in &self.actors {
            if let Some(name) = Name::of(&state.request) {
                self.names.insert(name, state.seat.map_or(*actor, |seat| seat.gang));
            }
            match state.seat {
                None if state.process.is_none() => self.waiting.push(*actor, self.now),
                None => {}
                Some(seat) => self.gangs.entry(seat.gang).or_default().members.push(*actor),
            }
        }
        for gang in self.idle_gangs() {
            self.waiting.push(gang, self.now);
        }
        // Nobody is connected yet, so nobody is left of whom a bound job waited for.
        let bound: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.bound_to.is_some()).map(|(id, _)| *id).collect();
        for job in bound {
            self.end_job(job, "the head, which was started again after the job's client was lost", false);
        }
        let clients: BTreeSet<Origin> = self.actors.values().map(|actor| actor.spawner).collect();
        for client in clients.into_iter().filter(|spawner| matches!(spawner, Origin::Client(_))) {
            self.spawner_gone(client);
        }
        self.end_what_clients_waited_for();
    }

    /// Says what time it is, in milliseconds since 1970: before events of which that decides something.
    pub fn set_date(&mut self, date: u64) {
        self.date = self.date.max(date);
    }

    /// Takes in one event; `now` is the time since this term began and never goes back.
    ///
    /// The records are to be committed before any of the effects is released.
    pub fn apply(&mut self, event: HeadEvent, now: Duration) -> (Vec<Record>, Vec<HeadEffect>) {
        self.now = self.now.max(now);
        match event {
            HeadEvent::Joined { node, incarnation, address, pid, running, ended, offer } => {
                if self.admits(&node, incarnation, offer) {
                    self.agent_joined(&node, incarnation, address, pid, running, ended);
                }
            }
            HeadEvent::Heartbeat { node, incarnation, store } => {
                self.agent_heard(&node, incarnation, Some(store))
            }
            HeadEvent::Disconnected { node, incarnation } => self.agent_disconnected(&node, incarnation),
            HeadEvent::AgentEnded { node, incarnation, evidence, log_tail } => {
                self.agent_lost(&node, incarnation, evidence, log_tail)
            }
            HeadEvent::Probed { node, incarnation, answered } => {
                self.agent_probed(&node, incarnation, answered)
            }
            HeadEvent::Reported { node, incarnation, report } => {
                self.agent_reported(&node, incarnation, report)
            }
            HeadEvent::Asked { origin, request, ask } => self.asked(origin, request, ask),
            HeadEvent::Warned { warnings } => self.warned(HEAD_NODE, warnings),
            HeadEvent::ClientGone { client } => self.client_gone(client),
            HeadEvent::TokenShown { guest, shown } => self.token_shown(guest, &shown),
            HeadEvent::Certified(state) => self.certified(state),
            HeadEvent::Scaled { lines } => self.scaled(lines),
            HeadEvent::Tick => {
                self.forget_old_tokens();
                self.forget_old_certificates();
                self.forget_old_failures();
                self.look_at_silence();
                self.look_at_drains();
                self.forget_members();
                self.keep_room_again();
            }
            HeadEvent::Shutdown { by } => self.shut_down(None, &by),
        }
        for unit in self.restarts.due(self.now) {
            self.waiting.push(unit, self.now);
        }
        self.schedule();
        self.finish_jobs();
        self.finish_shutdown();
        (self.take_records(), std::mem::take(&mut self.effects))
    }

    fn take_records(&mut self) -> Vec<Record> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|key| Record { value: self.value_of(&key), key }).collect()
    }

    fn value_of(&self, key: &Key) -> Option<Value> {
        match key {
            Key::Next => Some(Value::Next(self.next)),
            Key::Job(job) => self.jobs.get(job).cloned().map(Value::Job),
            Key::Actor(actor) => self.actors.get(actor).cloned().map(Value::Actor),
            Key::Process(process) => self.processes.get(process).cloned().map(Value::Process),
            Key::Gang(gang) => self.gangs.get(gang).map(|gang| Value::Gang(gang.state.clone())),
            Key::Saved(actor) => self.saved.get(*actor).cloned().map(Value::Saved),
            Key::Token(id) => self.tokens.get(id).cloned().map(Value::Token),
            Key::Certificate(number) => self.certificates.get(number).cloned().map(Value::Certificate),
            Key::Revoked(node) => self.revoked.get(node).cloned().map(Value::Revoked),
            Key::Node(name) => self.nodes.get(name).map(|node| Value::Node(node.record())),
            Key::Offer(name) => self.nodes.get(name).and_then(Node::offer_record).map(Value::Offer),
        }
    }

    /// A number that was never used before and never will be again.
    fn allot(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.dirty.insert(Key::Next);
        number
    }

    fn reply(&mut self, (origin, request): (Origin, u64), answer: Answer) {
        self.effects.push(HeadEffect::Reply { origin, request, answer });
    }

    fn refuse(&mut self, asker: (Origin, u64), why: impl Into<String>) {
        self.reply(asker, Answer::Error(ControlError::Refused(why.into())));
    }

    /// Tells the newest incarnation of a node's agent.
    fn command(&mut self, node: &str, command: Command) {
        if let Some(incarnation) = self.nodes.get(node).map(|node| node.incarnation) {
            self.effects.push(HeadEffect::ToAgent { node: node.to_owned(), incarnation, command });
        }
    }

    fn command_all(&mut self, except: &str, command: &Command) {
        for (name, node) in self.nodes.iter().filter(|(name, node)| node.present() && *name != except) {
            self.effects.push(HeadEffect::ToAgent {
                node: name.clone(),
                incarnation: node.incarnation,
                command: command.clone(),
            });
        }
    }

    fn notify_job(&mut self, job: u64, event: JobEvent) {
        for (client, _) in self.clients.iter().filter(|(_, state)| state.follows.contains(&job)) {
            let notice = Notice::Job { job, event: event.clone() };
            self.effects.push(HeadEffect::Notify { client: *client, notice });
        }
    }

    /// Remembers a death and tells the clients that watch.
    fn announce_death(&mut self, death: ProcessDeath) {
        for (client, state) in &mut self.clients {
            if state.watches.remove(&death.process) {
                let notice = Notice::Died(death.clone());
                self.effects.push(HeadEffect::Notify { client: *client, notice });
            }
        }
        if self.deaths.len() == MAX_DEATHS {
            self.deaths.pop_front();
        }
        self.deaths.push_back(death);
    }

    fn shut_down(&mut self, asker: Option<(Origin, u64)>, by: &str) {
        if self.shutdown.is_none() {
            let deadline = self.now + self.options.stop_grace + Duration::from_secs(5);
            self.shutdown = Some(Shutdown { deadline, askers: Vec::new(), done: false });
            let jobs: Vec<u64> = self.jobs.keys().copied().collect();
            for job in jobs {
                self.end_job(job, by, false);
            }
            let grace_ms = self.options.stop_grace.as_millis() as u64;
            self.command_all("", &Command::End { grace_ms, by: by.to_owned() });
        }
        if let (Some(shutdown), Some(asker)) = (&mut self.shutdown, asker) {
            shutdown.askers.push(asker);
        }
    }

    fn finish_shutdown(&mut self) {
        let nobody_left = !self.nodes.values().any(Node::present);
        let now = self.now;
        let Some(shutdown) = &mut self.shutdown else { return };
        if shutdown.done || (!nobody_left && now < shutdown.deadline) {
            return;
        }
        shutdown.done = true;
        for asker in std::mem::take(&mut shutdown.askers) {
            self.reply(asker, Answer::Done);
        }
        self.effects.push(HeadEffect::Exit);
    }
}
