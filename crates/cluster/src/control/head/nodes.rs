//! Nodes: joining, silence, suspicion, verdict.

use std::net::SocketAddr;
use std::time::Duration;

use lyceum_actor::{Cause, ProcessDeath};

use super::super::record::{Closure, Key, NodeState, ProcessState};
use super::super::resources::Ledger;
use super::super::vocabulary::{Command, JobEvent, Notice, Origin, Report, Running, StoreUse};
use super::{Head, HeadEffect, NodeOptions};

/// After a restart of the head, agents have this much longer than the verdict takes to find it again.
const RETURN_GRACE: Duration = Duration::from_secs(5);
/// Bytes of what is kept of a process without progress.
const MAX_STALL: usize = 1024;
/// Probes of a silent agent come this far apart.
const PROBE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) options: NodeOptions,
    pub(super) ledger: Ledger,
    /// Newest incarnation that has joined; 0 before the first.
    pub(super) incarnation: u64,
    pub(super) presence: Presence,
    pub(super) address: Option<SocketAddr>,
    pub(super) pid: u32,
    pub(super) store: StoreUse,
    /// Why it takes nothing new, if it does not.
    pub(super) closure: Option<Closure>,
    /// When what is left on it is to go.
    pub(super) empty_at: Option<Duration>,
    /// Those who wait until it is empty.
    pub(super) drainers: Vec<(Origin, u64)>,
    heard: Duration,
    probed: Option<Duration>,
    probe_failed: bool,
    /// Its agent was there in an earlier term, and has not come back for so long that it is called silent.
    missed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Presence {
    /// Not seen in this term.
    Absent,
    /// Connected and heard of late.
    Joined,
    /// Silent, or its connection is gone.
    Unreachable,
    /// Given up; the evidence in words.
    Lost(String),
}

impl Node {
    pub(super) fn new(options: NodeOptions) -> Node {
        Node {
            ledger: Ledger::new(options.capacity.clone()),
            options,
            incarnation: 0,
            presence: Presence::Absent,
            address: None,
            pid: 0,
            store: StoreUse::default(),
            closure: None,
            empty_at: None,
            drainers: Vec::new(),
            heard: Duration::ZERO,
            probed: None,
            probe_failed: false,
            missed: false,
        }
    }

    /// Is nothing heard of it, and no verdict found yet?
    fn silent(&self) -> bool {
        self.presence == Presence::Unreachable || self.missed
    }

    /// Do its processes hold resources in this term's account?
    pub(super) fn present(&self) -> bool {
        matches!(self.presence, Presence::Joined | Presence::Unreachable)
    }

    /// May processes be started on it?
    pub(super) fn open(&self) -> bool {
        self.closed().is_none()
    }

    /// Why no process may be started on it, if none may.
    pub(super) fn closed(&self) -> Option<&str> {
        match (&self.presence, &self.closure) {
            (Presence::Joined, None) => None,
            (Presence::Joined, Some(closure)) => Some(&closure.why),
            (Presence::Absent, _) => Some("absent"),
            (Presence::Unreachable, _) => Some("unreachable"),
            (Presence::Lost(_), _) => Some("lost"),
        }
    }

    pub(super) fn record(&self) -> NodeState {
        NodeState { incarnation: self.incarnation, closure: self.closure.clone() }
    }

    /// As an earlier term left it.
    pub(super) fn restore(&mut self, state: NodeState) {
        self.incarnation = state.incarnation;
        let within = state.closure.as_ref().and_then(|closure| closure.empty_within_ms);
        self.empty_at = within.map(Duration::from_millis);
        self.closure = state.closure;
    }
}

impl Head {
    pub(super) fn agent_joined(
        &mut self,
        name: &str,
        incarnation: u64,
        address: SocketAddr,
        pid: u32,
        running: Vec<Running>,
        ended: Vec<ProcessDeath>,
    ) {
        let refusal = match self.nodes.get(name) {
            None => Some(format!("the manifest has no node `{name}`")),
            Some(node) if incarnation < node.incarnation => Some(format!(
                "incarnation {incarnation} of node `{name}` was succeeded by {}",
                node.incarnation
            )),
            Some(_) if self.shutdown.is_some() => Some("the cluster is ending".to_owned()),
            Some(_) => None,
        };
        if let Some(reason) = refusal {
            let node = name.to_owned();
            self.effects.push(HeadEffect::RefuseAgent { node, incarnation, reason });
            return;
        }
        self.bury_older(name, incarnation);
        self.programs.forget_brought(name);
        let now = self.now;
        let mut was_silent = false;
        if let Some(node) = self.nodes.get_mut(name) {
            node.incarnation = incarnation;
            was_silent = node.silent();
            node.presence = Presence::Joined;
            node.missed = false;
            node.address = Some(address);
            node.pid = pid;
            node.heard = now;
            node.probe_failed = false;
            node.ledger = Ledger::new(node.options.capacity.clone());
        }
        self.dirty.insert(Key::Node(name.to_owned()));
        self.adopt(name, incarnation, running, ended);
        self.waiting.room_grew();
        self.introduce(name, incarnation, address);
        if was_silent {
            self.tell_suspicion(name, false);
        }
    }

    /// Has `incarnation` of node `name` never joined?
    pub fn is_new(&self, name: &str, incarnation: u64) -> bool {
        self.nodes.get(name).is_some_and(|node| node.incarnation < incarnation)
    }

    /// Processes of an earlier incarnation died with their agent.
    fn bury_older(&mut self, name: &str, incarnation: u64) {
        let succeeds =
            self.nodes.get(name).is_some_and(|node| node.incarnation > 0 && node.incarnation < incarnation);
        if !succeeds {
            return;
        }
        let reason = format!("its agent was succeeded by incarnation {incarnation}");
        let before = self.next;
        self.command_all(name, &Command::NodeLost { node: name.to_owned(), before, reason: reason.clone() });
        let dead: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.node == name && process.node_incarnation < incarnation)
            .map(|(process, _)| *process)
            .collect();
        for process in dead {
            let cause = Cause::NodeLost(reason.clone());
            self.process_gone(ProcessDeath { process, node: name.to_owned(), cause, log_tail: Vec::new() });
        }
    }

    /// Brings the head's account of a node and the agent's inventory together.
    fn adopt(&mut self, name: &str, incarnation: u64, running: Vec<Running>, ended: Vec<ProcessDeath>) {
        let mut unseen: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.node == name)
            .map(|(process, state)| {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.ledger.take(&state.allotment);
                }
                *process
            })
            .collect();
        for item in running {
            unseen.retain(|process| *process != item.process);
            if !self.processes.contains_key(&item.process) {
                self.adopt_unexpected(name, incarnation, &item);
            } else if let Some((address, pid)) = item.ready {
                self.process_ready(item.process, address, pid);
                self.process_stalled(item.process, item.stall);
            }
            self.repeat_stop(item.process);
        }
        for death in ended {
            unseen.retain(|process| *process != death.process);
            self.process_reported_ended(name, death);
        }
        for process in unseen {
            self.relaunch_or_bury(name, process);
        }
    }

    /// A process that was given up, or of which nothing is written: it is stopped, and counted until it is gone.
    fn adopt_unexpected(&mut self, name: &str, incarnation: u64, item: &Running) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.ledger.take(&item.allotment);
        }
        let state = ProcessState {
            actor: None,
            job: 0,
            node: name.to_owned(),
            node_incarnation: incarnation,
            allotment: item.allotment.clone(),
            ready: item.ready,
            stopped_by: Some("the head, which had given it up".into()),
            moves: false,
        };
        self.processes.insert(item.process, state);
        self.dirty.insert(Key::Process(item.process));
    }

    fn repeat_stop(&mut self, process: u64) {
        let Some(state) = self.processes.get(&process) else { return };
        let Some(by) = state.stopped_by.clone() else { return };
        let grace_ms = match state.actor {
            Some(_) => self.options.stop_grace.as_millis() as u64,
            None => 0,
        };
        let node = state.node.clone();
        self.command(&node, Command::Stop { process, grace_ms, by });
    }

    /// The agent knows nothing of `process`: its launch was lost on the way, or the process itself was.
    fn relaunch_or_bury(&mut self, name: &str, process: u64) {
        let Some(state) = self.processes.get(&process) else { return };
        let was_running = state.ready.is_some();
        match &state.stopped_by {
            None if !was_running => self.send_launch(process),
            ordered => {
                let cause = match ordered {
                    Some(by) => Cause::OrderedBy(by.clone()),
                    None => Cause::Unknown("its agent no longer knows of it".into()),
                };
                let death = ProcessDeath { process, node: name.to_owned(), cause, log_tail: Vec::new() };
                self.process_gone(death);
            }
        }
    }

    /// Tells the new one of the others, and which of these are silent; and the others of the new one.
    fn introduce(&mut self, name: &str, incarnation: u64, address: SocketAddr) {
        self.command_all(name, &Command::Peer { node: name.to_owned(), incarnation, address });
        let mut others = Vec::new();
        for (other, node) in self.nodes.iter().filter(|(other, _)| *other != name) {
            if let Some(address) = node.address.filter(|_| node.present()) {
                others.push(Command::Peer { node: other.clone(), incarnation: node.incarnation, address });
            }
            if node.silent() {
                others.push(Command::Suspect { node: other.clone(), unreachable: true });
            }
        }
        for command in others {
            self.command(name, command);
        }
    }

    pub(super) fn agent_heard(&mut self, name: &str, incarnation: u64, store: Option<StoreUse>) {
        let now = self.now;
        let Some(node) = self.current(name, incarnation) else { return };
        node.heard = now;
        node.probe_failed = false;
        if let Some(store) = store {
            node.store = store;
        }
        if node.presence == Presence::Unreachable {
            node.presence = Presence::Joined;
            self.waiting.room_grew();
            self.tell_suspicion(name, false);
        }
    }

    pub(super) fn agent_disconnected(&mut self, name: &str, incarnation: u64) {
        if self.shutdown.is_some() {
            // It was told to end, and its connection is gone.
            self.agent_lost(name, incarnation, "its agent ended with the cluster".into(), Vec::new());
        } else if self.current(name, incarnation).is_some() {
            self.suspect(name);
        }
    }

    pub(super) fn agent_probed(&mut self, name: &str, incarnation: u64, answered: bool) {
        match answered {
            true => self.agent_heard(name, incarnation, None),
            false => {
                if let Some(node) = self.current(name, incarnation) {
                    node.probe_failed = true;
                }
            }
        }
    }

    pub(super) fn look_at_silence(&mut self) {
        let now = self.now;
        let (unreachable, verdict) = (self.options.unreachable, self.options.verdict);
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let Some(node) = self.nodes.get(&name) else { continue };
            let silent = now.saturating_sub(node.heard);
            let awaited = node.presence == Presence::Absent && node.incarnation > 0;
            if (node.present() && silent >= verdict && node.probe_failed)
                || (awaited && silent >= verdict + RETURN_GRACE)
            {
                let (incarnation, seconds) = (node.incarnation, silent.as_secs_f64());
                let evidence = match awaited {
                    true => format!("its agent did not come back within {seconds:.1} s of the head's start"),
                    false => format!("nothing heard for {seconds:.1} s, and a second path to it failed too"),
                };
                self.agent_lost(&name, incarnation, evidence, Vec::new());
            } else if node.present() && silent >= unreachable {
                self.suspect(&name);
            } else if awaited && silent >= unreachable && !node.missed {
                self.miss(&name);
            }
        }
    }

    /// An agent of an earlier term is called silent until it comes back.
    fn miss(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.missed = true;
            self.tell_suspicion(name, true);
        }
    }

    /// Calls a node unreachable and tries a second path to it.
    fn suspect(&mut self, name: &str) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else { return };
        let news = node.presence == Presence::Joined;
        node.presence = Presence::Unreachable;
        let probe_due = node.probed.is_none_or(|at| now >= at + PROBE_EVERY);
        if let (true, Some(address)) = (probe_due, node.address) {
            node.probed = Some(now);
            let incarnation = node.incarnation;
            self.effects.push(HeadEffect::Probe { node: name.to_owned(), incarnation, address });
        }
        if news {
            self.tell_suspicion(name, true);
        }
    }

    /// The nodes of which nothing is heard and that are not given up yet.
    pub(super) fn silent_nodes(&self) -> Vec<String> {
        let silent = self.nodes.iter().filter(|(_, node)| node.silent());
        silent.map(|(name, _)| name.clone()).collect()
    }

    fn tell_suspicion(&mut self, name: &str, unreachable: bool) {
        self.command_all(name, &Command::Suspect { node: name.to_owned(), unreachable });
        self.tell_clients_suspicion(name, unreachable);
    }

    fn tell_clients_suspicion(&mut self, name: &str, unreachable: bool) {
        let node = name.to_owned();
        for client in self.clients.keys() {
            let notice = Notice::Suspect { node: node.clone(), unreachable };
            self.effects.push(HeadEffect::Notify { client: *client, notice });
        }
    }

    /// The verdict: the node and everything on it is gone.
    pub(super) fn agent_lost(
        &mut self,
        name: &str,
        incarnation: u64,
        evidence: String,
        log_tail: Vec<String>,
    ) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let gone = node.incarnation == incarnation && !matches!(node.presence, Presence::Lost(_));
        if !gone {
            return;
        }
        let was_silent = node.silent();
        node.presence = Presence::Lost(evidence.clone());
        node.missed = false;
        node.ledger = Ledger::new(node.options.capacity.clone());
        node.store = StoreUse::default();
        let before = self.next;
        let command = Command::NodeLost { node: name.to_owned(), before, reason: evidence.clone() };
        self.command_all(name, &command);
        // It may be there still, and its connection too: what was cut may be whole again by now.
        self.effects.push(HeadEffect::CutAgent { node: name.to_owned(), incarnation });
        let dead: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.node == name)
            .map(|(process, _)| *process)
            .collect();
        for process in dead {
            let cause = Cause::NodeLost(evidence.clone());
            let log_tail = log_tail.clone();
            self.process_gone(ProcessDeath { process, node: name.to_owned(), cause, log_tail });
        }
        // Agents learn it from the verdict.
        if was_silent {
            self.tell_clients_suspicion(name, false);
        }
    }

    pub(super) fn agent_reported(&mut self, name: &str, incarnation: u64, report: Report) {
        if self.current(name, incarnation).is_none() {
            return;
        }
        match report {
            Report::Ready { process, address, pid } => {
                let here = |state: &ProcessState| state.node == name;
                match self.processes.get(&process).is_some_and(here) {
                    true => self.process_ready(process, address, pid),
                    // Given up long ago: whatever it is, it may not go on.
                    false => {
                        let by = "the head, which had given it up".to_owned();
                        self.command(name, Command::Stop { process, grace_ms: 0, by });
                    }
                }
            }
            Report::Ended(death) => self.process_reported_ended(name, death),
            Report::Warnings { warnings } => self.warned(name, warnings),
            Report::Programs { programs } => {
                self.programs.are_at(name, programs.iter().filter_map(|program| program.parse().ok()));
            }
            Report::Stalled { process, stall } => {
                if self.processes.get(&process).is_some_and(|state| state.node == name) {
                    self.process_stalled(process, stall);
                }
            }
        }
    }

    /// Notes that a process makes no progress, or does again, and tells whoever follows its job.
    fn process_stalled(&mut self, process: u64, mut stall: Option<String>) {
        if let Some(words) = &mut stall
            && words.len() > MAX_STALL
        {
            words.truncate(words.floor_char_boundary(MAX_STALL));
        }
        let before = match stall.clone() {
            Some(words) => self.stalls.insert(process, words),
            None => self.stalls.remove(&process),
        };
        let address = self.processes.get(&process).and_then(|state| self.address_of(state.actor?));
        if let Some(address) = address.filter(|_| before != stall) {
            self.notify_job(address.job, JobEvent::Stalled { address, stall });
        }
    }

    fn process_reported_ended(&mut self, name: &str, death: ProcessDeath) {
        self.command(name, Command::Forget { process: death.process });
        if self.processes.get(&death.process).is_some_and(|state| state.node == name) {
            self.process_gone(death);
        }
    }

    /// The node, if `incarnation` is its agent's newest and it has not been given up.
    fn current(&mut self, name: &str, incarnation: u64) -> Option<&mut Node> {
        self.nodes.get_mut(name).filter(|node| node.incarnation == incarnation && node.present())
    }
}
