//! The head's one thread of decisions: apply, commit, release.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lyceum_actor::{ControlError, ProcessDeath};
use lyceum_wire::{Authority, CloseCode, Connection, Endpoint, LaneSender, PeerIdentity, PeerRole};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};

use super::decide::Decider;
use super::places::Places;
use super::reaching;
use super::sessions::Beat;
use super::{MAX_BATCH, VALIDITY};
use crate::control::vocabulary::{Answer, Ask, CLIENT_NODE, Command, Notice, Origin, Running, StoreUse};
use crate::control::{HeadEffect, HeadEvent};
use crate::error::ClusterError;
use crate::host::{ProcessWatch, host_identity};
use crate::message::{HeadToAgent, HeadToClient, Message, Welcome};
use crate::state::{StateDir, log_tail};

/// Longest wait for a second path to an agent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of an agent's log that go into the death reports of its processes.
const TAIL_LINES: usize = 12;
/// Heartbeats of half a second and more wait behind it.
const LONG_COMMIT: Duration = Duration::from_millis(400);
/// How long the last answers may take to leave.
const FAREWELL: Duration = Duration::from_millis(300);

/// What connections and clocks hand in.
#[derive(Debug)]
pub(crate) enum Input {
    Machine(HeadEvent),
    /// Time has passed, in which these were heard.
    Tick(BTreeMap<String, Beat>),
    AgentJoined(Box<Joining>),
    AgentLeft {
        node: String,
        incarnation: u64,
        session: u64,
    },
    /// A worker asks, through the agent of `node`.
    WorkerAsked {
        node: String,
        process: u64,
        request: u64,
        ask: Ask,
    },
    ClientJoined {
        client: u64,
        lane: LaneSender,
    },
    ClientLeft {
        client: u64,
    },
    /// Another head leads, or may.
    Deposed(String),
}

/// An agent that has said its first words.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(super) session: u64,
    pub(super) node: String,
    pub(super) incarnation: u64,
    pub(super) lane: LaneSender,
    pub(super) connection: Connection,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    pub(super) host: String,
    pub(super) running: Vec<Running>,
    pub(super) ended: Vec<ProcessDeath>,
    /// Has it been reached where it says that others can?
    pub(super) reached: bool,
}

pub(super) struct Core {
    state: StateDir,
    decider: Decider,
    authority: Arc<Authority>,
    endpoint: Endpoint,
    events: Sender<Input>,
    runtime: Handle,
    host: String,
    places: Places,
    agents: BTreeMap<String, AgentLink>,
    clients: BTreeMap<u64, LaneSender>,
    exit: bool,
    deposed: Option<String>,
}

struct AgentLink {
    session: u64,
    incarnation: u64,
    lane: LaneSender,
    connection: Connection,
    /// What its last heartbeat said.
    store: StoreUse,
    /// What its connection had heard when it was last looked at.
    heard: u64,
}

/// Verdicts are logged when they are found, for who wants to know how long what follows from them took.
fn log_verdict(effect: &HeadEffect) {
    match effect {
        HeadEffect::ToAgent { command: Command::NodeLost { node, reason, .. }, .. } => {
            tracing::warn!(node, reason, "a node is lost");
        }
        HeadEffect::Notify { notice: Notice::Died(death), .. } => {
            tracing::warn!(process = death.process, node = death.node, cause = %death.cause, "a process is lost");
        }
        _ => {}
    }
}

impl Core {
    pub(super) fn new(
        state: StateDir,
        decider: Decider,
        authority: Arc<Authority>,
        endpoint: Endpoint,
        events: Sender<Input>,
        runtime: Handle,
        places: Places,
    ) -> Core {
        Core {
            state,
            decider,
            authority,
            endpoint,
            events,
            runtime,
            host: host_identity(),
            places,
            agents: BTreeMap::new(),
            clients: BTreeMap::new(),
            exit: false,
            deposed: None,
        }
    }

    /// Runs until the cluster has ended or its state cannot be written down any more.
    pub(super) fn run(mut self, mut inbox: Receiver<Input>) -> Result<(), ClusterError> {
        let mut batch = Vec::new();
        let mut late = 0_usize;
        while !self.exit && self.deposed.is_none() && inbox.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
            for input in batch.drain(..) {
                let was_late = late > 0;
                late = late.saturating_sub(1);
                if let Some(event) = self.take_in(input, was_late) {
                    self.decider.take(event);
                }
            }
            if self.deposed.is_some() {
                break;
            }
            let news = self.decider.news();
            self.carry_out(news);
            let began = Instant::now();
            let decided = match self.decider.commit() {
                Err(ClusterError::Deposed(why)) => {
                    self.deposed = Some(why);
                    break;
                }
                decided => decided?,
            };
            if began.elapsed() > LONG_COMMIT {
                // Nobody was silent but this head: heartbeats wait to be heard, and are before time is looked at.
                late = inbox.len();
            }
            self.carry_out(decided);
        }
        if let Some(why) = self.deposed {
            self.endpoint.close(CloseCode::ShuttingDown, "another head leads");
            return Err(ClusterError::Deposed(why));
        }
        tracing::info!("the head ends");
        std::thread::sleep(FAREWELL);
        self.endpoint.close(CloseCode::ShuttingDown, "the cluster has ended");
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
        });
        Ok(())
    }

    fn carry_out(&mut self, effects: Vec<HeadEffect>) {
        for effect in effects {
            log_verdict(&effect);
            self.release(effect);
        }
    }

    /// Hears before it looks at the time; where it `was_late` itself it does not look.
    fn tick(&mut self, beats: BTreeMap<String, Beat>, was_late: bool) -> Option<HeadEvent> {
        self.hear(beats);
        self.hear_of_connections();
        if was_late {
            return None;
        }
        if self.places.tick() {
            self.agents.values().for_each(|link| self.tell_places(link));
        }
        Some(HeadEvent::Tick)
    }

    fn hear(&mut self, beats: BTreeMap<String, Beat>) {
        for (node, Beat { incarnation, store }) in beats {
            if let Some(link) = self.agents.get_mut(&node).filter(|link| link.incarnation == incarnation) {
                link.store = store;
            }
            self.decider.take(HeadEvent::Heartbeat { node, incarnation, store });
        }
    }

    /// A heartbeat may be lost, and is not sent again; but QUIC asks whether it came, and that is to be heard as well.
    fn hear_of_connections(&mut self) {
        for (node, link) in &mut self.agents {
            let heard = link.connection.heard();
            if std::mem::replace(&mut link.heard, heard) != heard {
                let (node, incarnation, store) = (node.clone(), link.incarnation, link.store);
                self.decider.take(HeadEvent::Heartbeat { node, incarnation, store });
            }
        }
    }

    /// Keeps the connections; what is left is for the state machine.
    fn take_in(&mut self, input: Input, was_late: bool) -> Option<HeadEvent> {
        match input {
            Input::Machine(event) => Some(event),
            Input::Tick(beats) => self.tick(beats, was_late),
            Input::AgentJoined(joining) => self.agent_came(joining),
            Input::AgentLeft { node, incarnation, session } => {
                let current = self.agents.get(&node).is_some_and(|link| link.session == session);
                if current {
                    self.agents.remove(&node);
                }
                current.then_some(HeadEvent::Disconnected { node, incarnation })
            }
            Input::WorkerAsked { node, process, request, ask } => {
                self.worker_asked(&node, process, request, ask)
            }
            Input::Deposed(why) => {
                self.deposed = Some(why);
                None
            }
            Input::ClientJoined { client, lane } => {
                self.clients.insert(client, lane);
                None
            }
            Input::ClientLeft { client } => {
                self.clients.remove(&client);
                Some(HeadEvent::ClientGone { client })
            }
        }
    }

    /// One that comes for the first time is let in when it was reached: what nobody can reach is no node. Later its way back
    /// may be broken, which is for the verdict to judge.
    fn agent_came(&mut self, joining: Box<Joining>) -> Option<HeadEvent> {
        // It may have gone while it was tried.
        if joining.reached && joining.connection.close_reason().is_some() {
            return None;
        }
        if joining.reached || !self.decider.head().is_new(&joining.node, joining.incarnation) {
            return Some(self.agent_joined(*joining));
        }
        self.runtime.spawn(reaching::try_agent(self.endpoint.clone(), joining, self.events.clone()));
        None
    }

    fn agent_joined(&mut self, joining: Joining) -> HeadEvent {
        let Joining {
            session, node, incarnation, lane, connection, address, pid, host, running, ended, ..
        } = joining;
        tracing::info!(node, incarnation, %address, "an agent joins");
        if host == self.host {
            self.watch_agent(&node, incarnation, pid);
        }
        let (store, heard) = (StoreUse::default(), connection.heard());
        let link = AgentLink { session, incarnation, lane, connection, store, heard };
        let welcome = Welcome { pid: std::process::id(), host: self.host.clone() };
        self.tell_agent(&link, HeadToAgent::Welcome(welcome));
        self.tell_places(&link);
        // A newer incarnation's connection is not replaced by an older one's: the machine will refuse that.
        let newest = self.agents.get(&node).is_none_or(|other| other.incarnation <= incarnation);
        if newest {
            self.agents.insert(node.clone(), link);
        } else {
            link.connection.close(CloseCode::NotAdmitted, "a newer incarnation of this node has joined");
        }
        HeadEvent::Joined { node, incarnation, address, pid, running, ended }
    }

    /// Says where the next head may be.
    fn tell_places(&self, link: &AgentLink) {
        let places = self.places.known();
        if !places.is_empty() {
            self.tell_agent(link, HeadToAgent::Heads(places.to_vec()));
        }
    }

    /// An agent speaks for the workers of its own node only.
    fn worker_asked(&self, node: &str, process: u64, request: u64, ask: Ask) -> Option<HeadEvent> {
        if self.decider.head().node_of(process).as_deref() == Some(node) {
            return Some(HeadEvent::Asked { origin: Origin::Worker(process), request, ask });
        }
        let why = format!("process {process} is not one of node `{node}`, or was given up");
        let answer = Answer::Error(ControlError::Refused(why));
        if let Some(link) = self.agents.get(node) {
            self.tell_agent(link, HeadToAgent::Answer { process, request, answer });
        }
        None
    }

    /// An agent on this machine: its end is seen at once.
    fn watch_agent(&self, node: &str, incarnation: u64, pid: u32) {
        let _entered = self.runtime.enter();
        let Ok(watch) = ProcessWatch::new(pid) else { return };
        let (node, events, log) = (node.to_owned(), self.events.clone(), self.state.agent_log(node));
        self.runtime.spawn(async move {
            if watch.ended().await.is_ok() {
                let evidence = format!("its agent, process {pid} of this machine, has ended");
                let log_tail = log_tail(&log, TAIL_LINES);
                let ended = HeadEvent::AgentEnded { node, incarnation, evidence, log_tail };
                let _ = events.send(Input::Machine(ended)).await;
            }
        });
    }

    fn release(&mut self, effect: HeadEffect) {
        match effect {
            HeadEffect::ToAgent { node, incarnation, command } => self.command(&node, incarnation, command),
            HeadEffect::CutAgent { node, incarnation } => {
                let current = self.agents.get(&node).is_some_and(|link| link.incarnation == incarnation);
                if let Some(link) = current.then(|| self.agents.remove(&node)).flatten() {
                    link.connection.close(CloseCode::Done, "the node was given up: join again");
                }
            }
            HeadEffect::RefuseAgent { node, incarnation, reason } => {
                tracing::warn!(node, incarnation, reason, "an agent may not join");
                if let Some(link) = self.agents.get(&node).filter(|link| link.incarnation == incarnation) {
                    link.connection.close(CloseCode::NotAdmitted, &reason);
                }
            }
            HeadEffect::Reply { origin, request, answer } => self.reply(origin, request, answer),
            HeadEffect::Notify { client, notice } => self.tell_client(client, HeadToClient::Notice(notice)),
            HeadEffect::Probe { node, incarnation, address } => self.probe(node, incarnation, address),
            HeadEffect::Exit => self.exit = true,
        }
    }

    fn command(&self, node: &str, incarnation: u64, command: Command) {
        let Some(link) = self.agents.get(node).filter(|link| link.incarnation == incarnation) else { return };
        let credentials = match &command {
            Command::Launch(launch) => match self.issue(PeerRole::Worker, node, launch.process) {
                Ok(credentials) => credentials,
                Err(error) => {
                    tracing::error!(%error, process = launch.process, "no credentials for a worker");
                    return;
                }
            },
            _ => Vec::new(),
        };
        self.tell_agent(link, HeadToAgent::Command { command, credentials });
    }

    fn issue(&self, role: PeerRole, node: &str, incarnation: u64) -> Result<Vec<u8>, ClusterError> {
        let identity = PeerIdentity::new(self.authority.cluster(), role, node, incarnation)?;
        Ok(self.authority.issue(&identity, VALIDITY)?.to_bytes())
    }

    fn reply(&self, origin: Origin, request: u64, answer: Answer) {
        match origin {
            Origin::Worker(process) => {
                let status = self.decider.head().node_of(process);
                let Some(link) = status.and_then(|node| self.agents.get(&node)) else { return };
                self.tell_agent(link, HeadToAgent::Answer { process, request, answer });
            }
            Origin::Client(client) => {
                let issued = match &answer {
                    Answer::Identity { node, incarnation } => {
                        let role = if node == CLIENT_NODE { PeerRole::Client } else { PeerRole::Agent };
                        self.issue(role, node, *incarnation)
                    }
                    _ => Ok(Vec::new()),
                };
                let message = match issued {
                    Ok(credentials) => HeadToClient::Answer { request, answer, credentials },
                    Err(error) => {
                        let answer = Answer::Error(ControlError::Refused(error.to_string()));
                        HeadToClient::Answer { request, answer, credentials: Vec::new() }
                    }
                };
                self.tell_client(client, message);
            }
        }
    }

    /// An agent that does not take its messages is cut off: when it joins again all of them are derived again.
    fn tell_agent(&self, link: &AgentLink, message: HeadToAgent) {
        let sent = message.into_frame().map_err(|error| error.to_string());
        let sent = sent.and_then(|frame| link.lane.try_send(frame).map_err(|error| error.to_string()));
        if let Err(reason) = sent {
            tracing::warn!(reason, "a message to an agent was not sent");
            link.connection.close(CloseCode::Protocol, &reason);
        }
    }

    fn tell_client(&self, client: u64, message: HeadToClient) {
        let Some(lane) = self.clients.get(&client) else { return };
        let sent = message.into_frame().map_err(|error| error.to_string());
        if let Err(reason) = sent.and_then(|frame| lane.try_send(frame).map_err(|error| error.to_string())) {
            tracing::warn!(client, reason, "a message to a client was not sent");
        }
    }

    fn probe(&self, node: String, incarnation: u64, address: SocketAddr) {
        let (endpoint, events) = (self.endpoint.clone(), self.events.clone());
        self.runtime.spawn(async move {
            let answered =
                reaching::reach(&endpoint, &node, incarnation, address, PROBE_TIMEOUT).await.is_ok();
            let event = HeadEvent::Probed { node, incarnation, answered };
            let _ = events.send(Input::Machine(event)).await;
        });
    }
}
