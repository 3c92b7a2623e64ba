//! The agent: the processes of one node and who watches them, as a pure state machine.

mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{ActorId, Cause, ProcessAddress, ProcessDeath};

use super::papers::Revoked;
use super::resources::Allotment;
use super::vocabulary::{Command, Launch, Report, Running};

/// Ended processes that are remembered one by one; a number below all of these is taken for ended long ago.
const MAX_FINISHED: usize = 65_536;
/// Actors of one process that are told of when they make no progress.
const MAX_STALLS: usize = 8;
/// Deaths that are remembered for those who begin to watch late.
const MAX_DEATHS: usize = 1024;

/// What an agent is told when it begins.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Its node.
    pub node: String,
    /// Does the cluster end with its runner? Then the agent ends when the head is lost.
    pub owned: bool,
    /// Silence after which the head is lost.
    pub verdict: Duration,
    /// How long its workers may take to stop when it ends by itself.
    pub stop_grace: Duration,
    /// Cores of its own, if it has them: whole cores are then given to one process at a time.
    pub cores: Vec<u32>,
}

/// What can happen to an agent.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "events are made and used up one by one, never kept")]
pub enum AgentEvent {
    /// The head commands.
    Commanded(Command),
    /// The head was heard.
    HeadHeard,
    /// There is a new connection to the head: it is to be told again what is watched there, and says again who is silent.
    HeadLinked,
    /// The head is certainly gone; the evidence in words.
    HeadEnded(String),
    /// A worker's actor has started.
    Ready {
        /// Its process.
        process: u64,
        /// Its endpoint.
        address: SocketAddr,
        /// Its number on this machine.
        pid: u32,
    },
    /// An actor of a process makes no progress, or goes on.
    Stalled {
        /// The process.
        process: u64,
        /// Which of its actors.
        actor: ActorId,
        /// What is known; without it, it goes on.
        stall: Option<String>,
    },
    /// A process has ended, or could not be started.
    Ended {
        /// Which.
        process: u64,
        /// How.
        cause: Cause,
        /// The last lines of its log.
        log_tail: Vec<String>,
    },
    /// Somebody wants to know when a process is gone.
    Watch {
        /// Who.
        watcher: Watcher,
        /// Which process.
        target: ProcessAddress,
    },
    /// Another agent says that a process of its node is gone.
    PeerReported(ProcessDeath),
    /// There is a new connection to another agent: it is to be told again what is watched there.
    PeerLinked {
        /// Its node.
        node: String,
    },
    /// End all workers and then yourself.
    End {
        /// Who orders it.
        by: String,
    },
    /// Time has passed.
    Tick,
}

/// Who wants to know when a process is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watcher {
    /// A worker of this node, by its process.
    Worker(u64),
    /// The agent of another node, for its workers.
    Agent(String),
}

/// What an agent wants done.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "effects are made and used up one by one, never kept")]
pub enum AgentEffect {
    /// Start a process.
    Start {
        /// What, and with how much.
        launch: Launch,
        /// The cores it may use; empty: those that the agent may use.
        cores: Vec<u32>,
    },
    /// Ask a process to end.
    AskToStop {
        /// Which.
        process: u64,
        /// Who orders it.
        by: String,
    },
    /// Kill a process and its group.
    Kill {
        /// Which.
        process: u64,
    },
    /// Tell the head; dropped if it is not connected, and derived again from the inventory.
    Report(Report),
    /// Tell a worker that a process is gone.
    TellWorker {
        /// The worker's process.
        process: u64,
        /// Who is gone.
        death: ProcessDeath,
    },
    /// Tell every worker that a node is silent, or no longer.
    TellSuspicion {
        /// The node.
        node: String,
        /// Is it silent?
        unreachable: bool,
    },
    /// Tell another agent that a process of this node is gone.
    TellAgent {
        /// Its node.
        node: String,
        /// Who is gone.
        death: ProcessDeath,
    },
    /// Ask another agent to tell when a process of its node is gone.
    WatchAt(ProcessAddress),
    /// Ask the head to tell when a process that is on no node is gone.
    WatchAtHead {
        /// The worker that wants to know.
        watcher: u64,
        /// Which process.
        target: ProcessAddress,
    },
    /// Which nodes have a program that a job brought.
    Holders {
        /// Its hash.
        program: String,
        /// The nodes.
        holders: Vec<String>,
    },
    /// Take certificates no more, and tell every worker so.
    Revoke(Vec<Revoked>),
    /// Renew this agent's certificate, and have every worker renew its own.
    Renew,
    /// Where another agent is.
    Peer {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Its endpoint.
        address: SocketAddr,
    },
    /// Another agent was given up: until it is introduced again nobody calls it.
    PeerLost {
        /// Its node.
        node: String,
    },
    /// All workers are gone: end.
    Exit(Ending),
}

/// Why an agent ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Who ordered it, or what happened.
    pub by: String,
}

/// An agent's state. See the [module](crate::control).
#[derive(Debug, Clone)]
pub struct Agent {
    options: AgentOptions,
    processes: BTreeMap<u64, Process>,
    /// Ends that the head has not written down yet.
    unwritten: BTreeMap<u64, ProcessDeath>,
    /// Numbers of ended processes; every number below `floor` counts as ended too.
    finished: BTreeSet<u64>,
    floor: u64,
    deaths: std::collections::VecDeque<ProcessDeath>,
    /// By the process's number and the node that it is said to be on.
    watches: BTreeMap<(u64, String), Watch>,
    /// Lost nodes: processes below this number are gone, and why.
    lost: BTreeMap<String, (u64, String)>,
    /// Nodes of which the head hears nothing.
    silent: BTreeSet<String>,
    head_heard: Duration,
    ending: Option<Ending>,
    exited: bool,
    effects: Vec<AgentEffect>,
    now: Duration,
}

#[derive(Debug, Clone)]
struct Process {
    allotment: Allotment,
    cores: Vec<u32>,
    ready: Option<(SocketAddr, u32)>,
    stop: Option<Stop>,
    /// Its actors that make no progress.
    stalls: BTreeMap<ActorId, String>,
}

impl Process {
    fn stall(&self) -> Option<String> {
        let stalls: Vec<&str> = self.stalls.values().map(String::as_str).collect();
        (!stalls.is_empty()).then(|| stalls.join("; "))
    }
}

#[derive(Debug, Clone)]
struct Stop {
    by: String,
    kill_at: Duration,
    killed: bool,
}

#[derive(Debug, Clone)]
struct Watch {
    target: ProcessAddress,
    watchers: BTreeSet<Watcher>,
}

impl Agent {
    /// An agent without processes.
    pub fn new(options: AgentOptions) -> Agent {
        Agent {
            options,
            processes: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            finished: BTreeSet::new(),
            floor: 0,
            deaths: Default::default(),
            watches: BTreeMap::new(),
            lost: BTreeMap::new(),
            silent: BTreeSet::new(),
            head_heard: Duration::ZERO,
            ending: None,
            exited: false,
            effects: Vec::new(),
            now: Duration::ZERO,
        }
    }

    /// What runs here and what has ended here and is not written down: told to the head on joining.
    pub fn inventory(&self) -> (Vec<Running>, Vec<ProcessDeath>) {
        let running = self.processes.iter().map(|(process, state)| Running {
            process: *process,
            allotment: state.allotment.clone(),
            ready: state.ready,
            stall: state.stall(),
        });
        (running.collect(), self.unwritten.values().cloned().collect())
    }

    /// Takes in one event; `now` is the time since this agent began and never goes back.
    pub fn apply(&mut self, event: AgentEvent, now: Duration) -> Vec<AgentEffect> {
        self.now = self.now.max(now);
        match event {
            AgentEvent::Commanded(command) => {
                self.head_heard = self.now;
                self.commanded(command);
            }
            AgentEvent::HeadHeard => self.head_heard = self.now,
            AgentEvent::HeadLinked => {
                self.watch_at_head_again();
                self.forget_suspicions();
            }
            AgentEvent::HeadEnded(evidence) if self.options.owned => {
                self.end(self.options.stop_grace, format!("its agent, because the head is gone: {evidence}"));
            }
            AgentEvent::HeadEnded(_) => {}
            AgentEvent::Ready { process, address, pid } => {
                if let Some(state) = self.processes.get_mut(&process) {
                    state.ready = Some((address, pid));
                    self.effects.push(AgentEffect::Report(Report::Ready { process, address, pid }));
                }
            }
            AgentEvent::Stalled { process, actor, stall } => self.process_stalled(process, actor, stall),
            AgentEvent::Ended { process, cause, log_tail } => self.process_ended(process, cause, log_tail),
            AgentEvent::Watch { watcher, target } => self.watch(watcher, target),
            AgentEvent::PeerReported(death) => self.tell_watchers(&death),
            AgentEvent::PeerLinked { node } => {
                let watched = self.watches.values().filter(|watch| watch.target.node == node);
                let again: Vec<_> = watched.map(|watch| AgentEffect::WatchAt(watch.target.clone())).collect();
                self.effects.extend(again);
            }
            AgentEvent::End { by } => self.end(self.options.stop_grace, by),
            AgentEvent::Tick => self.look_at_time(),
        }
        self.finish_ending();
        std::mem::take(&mut self.effects)
    }

    fn commanded(&mut self, command: Command) {
        match command {
            Command::Launch(launch) => self.launch(launch),
            Command::Stop { process, grace_ms, by } => {
                self.stop(process, Duration::from_millis(grace_ms), by)
            }
            Command::Forget { process } => drop(self.unwritten.remove(&process)),
            Command::Peer { node, incarnation, address } => {
                self.effects.push(AgentEffect::Peer { node, incarnation, address });
            }
            Command::Suspect { node, unreachable } => {
                match unreachable {
                    true => self.silent.insert(node.clone()),
                    false => self.silent.remove(&node),
                };
                self.effects.push(AgentEffect::TellSuspicion { node, unreachable });
            }
            Command::Revoked(revoked) => self.effects.push(AgentEffect::Revoke(revoked)),
            Command::Renew => self.effects.push(AgentEffect::Renew),
            Command::NodeLost { node, before, reason } => self.node_lost(node, before, reason),
            Command::Died(death) => self.tell_watchers(&death),
            Command::Program { program, holders } => {
                self.effects.push(AgentEffect::Holders { program, holders });
            }
            // Of its log, which is not this machine's to keep.
            Command::Caption { .. } => {}
            Command::End { grace_ms, by } => self.end(Duration::from_millis(grace_ms), by),
        }
    }

    fn forget_suspicions(&mut self) {
        let known = std::mem::take(&mut self.silent);
        let over = known.into_iter().map(|node| AgentEffect::TellSuspicion { node, unreachable: false });
        self.effects.extend(over);
    }

    fn launch(&mut self, launch: Launch) {
        let process = launch.process;
        if let Some(state) = self.processes.get(&process) {
            // The command again; the report on it may have been lost.
            if let Some((address, pid)) = state.ready {
                self.effects.push(AgentEffect::Report(Report::Ready { process, address, pid }));
            }
            return;
        }
        if let Some(death) = self.unwritten.get(&process) {
            self.effects.push(AgentEffect::Report(Report::Ended(death.clone())));
            return;
        }
        if self.finished.contains(&process) {
            return;
        }
        if process < self.floor || self.ending.is_some() {
            let why = match &self.ending {
                Some(ending) => format!("its agent is ending, ordered by {}", ending.by),
                None => "its launch came too late".to_owned(),
            };
            self.finish(process, Cause::Failed(vec![why]), Vec::new());
            return;
        }
        let cores = self.free_cores(launch.allotment.cpus.ceil());
        let allotment = launch.allotment.clone();
        self.processes.insert(
            process,
            Process { allotment, cores: cores.clone(), ready: None, stop: None, stalls: BTreeMap::new() },
        );
        self.effects.push(AgentEffect::Start { launch, cores });
        // The new one has not heard it; for the others it is nothing new.
        let silent = self.silent.iter();
        let known = silent.map(|node| AgentEffect::TellSuspicion { node: node.clone(), unreachable: true });
        self.effects.extend(known);
    }

    /// `wanted` cores that no other process has; none, which means all, where the node's cores are not its own.
    fn free_cores(&self, wanted: u64) -> Vec<u32> {
        let taken: BTreeSet<u32> =
            self.processes.values().flat_map(|process| process.cores.clone()).collect();
        let free = self.options.cores.iter().copied().filter(|core| !taken.contains(core));
        let chosen: Vec<u32> = free.take(usize::try_from(wanted).unwrap_or(usize::MAX)).collect();
        if chosen.len() as u64 == wanted { chosen } else { Vec::new() }
    }

    fn stop(&mut self, process: u64, grace: Duration, by: String) {
        let now = self.now;
        let Some(state) = self.processes.get_mut(&process) else {
            match self.unwritten.get(&process).cloned() {
                Some(death) => self.effects.push(AgentEffect::Report(Report::Ended(death))),
                // Its launch may be on its way still: it will find itself ended.
                None => self.finish(process, Cause::OrderedBy(by), Vec::new()),
            }
            return;
        };
        let kill_at = now + grace;
        match &mut state.stop {
            Some(stop) => stop.kill_at = stop.kill_at.min(kill_at),
            None => {
                state.stop = Some(Stop { by: by.clone(), kill_at, killed: false });
                if !grace.is_zero() {
                    self.effects.push(AgentEffect::AskToStop { process, by });
                }
            }
        }
        self.kill_overdue();
    }

    fn kill_overdue(&mut self) {
        for (process, state) in &mut self.processes {
            if let Some(stop) = state.stop.as_mut().filter(|stop| !stop.killed && self.now >= stop.kill_at) {
                stop.killed = true;
                self.effects.push(AgentEffect::Kill { process: *process });
            }
        }
    }

    fn process_stalled(&mut self, process: u64, actor: ActorId, stall: Option<String>) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        match stall {
            Some(stall) if state.stalls.len() < MAX_STALLS || state.stalls.contains_key(&actor) => {
                _ = state.stalls.insert(actor, stall);
            }
            Some(_) => {}
            None => _ = state.stalls.remove(&actor),
        }
        let stall = state.stall();
        self.effects.push(AgentEffect::Report(Report::Stalled { process, stall }));
    }

    fn process_ended(&mut self, process: u64, cause: Cause, log_tail: Vec<String>) {
        let Some(state) = self.processes.remove(&process) else { return };
        let cause = match (state.stop, cause) {
            // One that came to its end by itself says so.
            (Some(stop), Cause::Exited(_) | Cause::Signal(_) | Cause::Unknown(_)) => {
                Cause::OrderedBy(stop.by)
            }
            (_, cause) => cause,
        };
        for watch in self.watches.values_mut() {
            watch.watchers.remove(&Watcher::Worker(process));
        }
        self.watches.retain(|_, watch| !watch.watchers.is_empty());
        self.finish(process, cause, log_tail);
    }

    /// Writes a process off: never to be started again, reported until written down, its watchers told.
    fn finish(&mut self, process: u64, cause: Cause, log_tail: Vec<String>) {
        let death = ProcessDeath { process, node: self.options.node.clone(), cause, log_tail };
        self.finished.insert(process);
        if self.finished.len() > MAX_FINISHED
            && let Some(oldest) = self.finished.pop_first()
        {
            self.floor = self.floor.max(oldest + 1);
        }
        if self.deaths.len() == MAX_DEATHS {
            self.deaths.pop_front();
        }
        self.deaths.push_back(death.clone());
        self.tell_watchers(&death);
        self.unwritten.insert(process, death.clone());
        self.effects.push(AgentEffect::Report(Report::Ended(death)));
    }

    fn end(&mut self, grace: Duration, by: String) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending { by: by.clone() });
        let processes: Vec<u64> = self.processes.keys().copied().collect();
        for process in processes {
            self.stop(process, grace, by.clone());
        }
    }

    fn finish_ending(&mut self) {
        if let (Some(ending), true, false) = (&self.ending, self.processes.is_empty(), self.exited) {
            self.exited = true;
            self.effects.push(AgentEffect::Exit(ending.clone()));
        }
    }

    fn look_at_time(&mut self) {
        self.kill_overdue();
        let silent = self.now.saturating_sub(self.head_heard);
        if self.options.owned && silent >= self.options.verdict {
            let seconds = silent.as_secs_f64();
            let by = format!("its agent, because the head was silent for {seconds:.1} s");
            self.end(self.options.stop_grace, by);
        }
    }
}
