//! The head's one thread of decisions: apply, commit, release.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lyceum_actor::{ControlError, ProcessDeath};
use lyceum_wire::{CloseCode, Connection, Door, Endpoint, Guest, LaneSender, PeerRole, Revocation};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};

use super::decide::Decider;
use super::issuer::Issuer;
use super::places::Places;
use super::sessions::Beat;
use super::{HeadAddress, HeadConfig, MAX_BATCH, reaching};
use crate::control::offer::Offer;
use crate::control::papers::CertificateState;
use crate::control::vocabulary::{Answer, Ask, CLIENT_NODE, Command, Notice, Origin, Running, StoreUse};
use crate::control::{Head, HeadEffect, HeadEvent, Shown};
use crate::error::ClusterError;
use crate::host::{ProcessWatch, host_identity};
use crate::launch;
use crate::message::{
    self, Admission, Application, HeadToAgent, HeadToClient, HeadToGuest, Message, Welcome,
};
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
    /// A worker asks, through the agent of `node`; or that agent itself, as process 0.
    WorkerAsked {
        node: String,
        incarnation: u64,
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
    /// Somebody without a certificate wants to join.
    GuestCame(Box<(Guest, Application)>),
    /// Somebody of this process wants to know something.
    Look(Look),
    /// The path to a node was looked at, and what is wrong with it.
    PathSeen {
        node: String,
        said: Option<String>,
    },
    /// Another head leads, or may.
    Deposed(String),
}

/// Looks at what was decided so far.
pub(crate) struct Look(Box<dyn FnOnce(&Head) + Send>);

impl Look {
    pub(super) fn new(look: impl FnOnce(&Head) + Send + 'static) -> Look {
        Look(Box::new(look))
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look(..)")
    }
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
    pub(super) offer: Option<Box<Offer>>,
    /// Has it been reached where it says that others can?
    pub(super) reached: bool,
}

pub(super) struct Core {
    state: StateDir,
    config: HeadConfig,
    decider: Decider,
    issuer: Issuer,
    endpoint: Endpoint,
    /// Open while somebody may have a token.
    door: Door,
    guests: BTreeMap<u64, (Guest, Application)>,
    /// What is said once the certificates that go with it are written down.
    held: Vec<Held>,
    events: Sender<Input>,
    runtime: Handle,
    host: String,
    places: Places,
    agents: BTreeMap<String, AgentLink>,
    clients: BTreeMap<u64, LaneSender>,
    /// What is wrong and costs speed, by what it is about.
    warnings: BTreeMap<String, String>,
    exit: bool,
    deposed: Option<String>,
}

enum Held {
    Agent { node: String, incarnation: u64, message: Box<HeadToAgent> },
    Client { client: u64, message: HeadToClient },
    Guest { guest: Guest, answer: Vec<u8> },
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
    #[expect(clippy::too_many_arguments, reason = "the parts of a head, put together in one place")]
    pub(super) fn new(
        state: StateDir,
        config: HeadConfig,
        decider: Decider,
        issuer: Issuer,
        endpoint: Endpoint,
        door: Door,
        events: Sender<Input>,
        runtime: Handle,
    ) -> Core {
        let places = Places::new(&state, &config.manifest);
        let clamped = endpoint.socket_buffers().and_then(|buffers| buffers.clamped());
        let warnings = clamped.map(|said| (String::new(), said)).into_iter().collect();
        Core {
            state,
            config,
            decider,
            issuer,
            endpoint,
            door,
            guests: BTreeMap::new(),
            held: Vec::new(),
            events,
            runtime,
            host: host_identity(),
            places,
            agents: BTreeMap::new(),
            clients: BTreeMap::new(),
            warnings,
            exit: false,
            deposed: None,
        }
    }

    /// Runs until the cluster has ended or its state cannot be written down any more.
    pub(super) fn run(mut self, mut inbox: Receiver<Input>) -> Result<(), ClusterError> {
        let warned = self.warned();
        self.decider.take(warned);
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
            match self.hand_out() {
                Err(ClusterError::Deposed(why)) => self.deposed = Some(why),
                handed => handed?,
            }
            self.door.set_open(self.decider.head().awaits_guests());
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

    fn warned(&self) -> HeadEvent {
        HeadEvent::Warned { warnings: self.warnings.values().cloned().collect() }
    }

    fn carry_out(&mut self, effects: Vec<HeadEffect>) {
        for effect in effects {
            log_verdict(&effect);
            self.release(effect);
        }
    }

    /// Writes down what was signed, and then gives it to whom it is for.
    fn hand_out(&mut self) -> Result<(), ClusterError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let decided = self.decider.commit()?;
        for held in held {
            match held {
                Held::Agent { node, incarnation, message } => {
                    if let Some(link) = self.agents.get(&node).filter(|link| link.incarnation == incarnation)
                    {
                        self.tell_agent(link, *message);
                    }
                }
                Held::Client { client, message } => self.tell_client(client, message),
                Held::Guest { guest, answer } => {
                    self.runtime.spawn(async move {
                        if let Err(error) = guest.answer(&answer).await {
                            tracing::warn!(%error, "a node was let in and may not know it");
                        }
                    });
                }
            }
        }
        self.carry_out(decided);
        Ok(())
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
        self.look_at_own_certificate(&HeadEvent::Tick);
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
            Input::Machine(event) => {
                self.look_at_own_certificate(&event);
                Some(event)
            }
            Input::Tick(beats) => self.tick(beats, was_late),
            Input::AgentJoined(joining) => self.agent_came(joining),
            Input::AgentLeft { node, incarnation, session } => {
                let current = self.agents.get(&node).is_some_and(|link| link.session == session);
                if current {
                    self.agents.remove(&node);
                }
                current.then_some(HeadEvent::Disconnected { node, incarnation })
            }
            Input::WorkerAsked { node, incarnation, process: 0, request, ask } => {
                self.agent_asked(node, incarnation, request, ask);
                None
            }
            Input::WorkerAsked { node, process, request, ask, .. } => {
                self.worker_asked(&node, process, request, ask)
            }
            Input::GuestCame(came) => self.guest_came(*came),
            Input::Look(Look(look)) => {
                look(self.decider.head());
                None
            }
            Input::PathSeen { node, said } => {
                match said {
                    Some(said) => {
                        tracing::warn!("{said}");
                        self.warnings.insert(node, said);
                    }
                    None => _ = self.warnings.remove(&node),
                }
                Some(self.warned())
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
            session,
            node,
            incarnation,
            lane,
            connection,
            address,
            pid,
            host,
            running,
            ended,
            offer,
            ..
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
        let offer = offer.map(|offer| *offer);
        HeadEvent::Joined { node, incarnation, address, pid, running, ended, offer }
    }

    /// Renews what this head shows when it is time, or a person wants it; and what command lines show.
    fn look_at_own_certificate(&mut self, event: &HeadEvent) {
        let wanted = match event {
            HeadEvent::Tick => self.endpoint.membership().renewal_due().is_zero(),
            HeadEvent::Asked { origin: Origin::Client(_), ask: Ask::RenewNodes { node: None }, .. } => true,
            _ => false,
        };
        if wanted && let Err(error) = self.renew_own() {
            tracing::error!(%error, "the head's own certificate is not renewed");
        }
    }

    fn renew_own(&mut self) -> Result<(), ClusterError> {
        let client = self.issuer.renew_own(self.endpoint.membership())?;
        client.save(&self.state.client())?;
        tracing::info!("the head's own certificate is renewed");
        Ok(())
    }

    /// An agent wants a certificate for a new key of its own: nothing else is asked for by agents.
    fn agent_asked(&mut self, node: String, incarnation: u64, request: u64, ask: Ask) {
        let signed = match ask {
            Ask::Renew { .. } if self.decider.head().is_barred(&node, incarnation) => {
                Err("its certificate was revoked".to_owned())
            }
            Ask::Renew { public_key } => self
                .issuer
                .certify(PeerRole::Agent, &node, incarnation, &public_key)
                .map_err(|error| error.to_string()),
            _ => Err("an agent asks for certificates only".to_owned()),
        };
        let answer = match signed {
            Ok((chain, state)) => {
                tracing::info!(node, incarnation, "an agent's certificate is renewed");
                self.decider.take(HeadEvent::Certified(state));
                Answer::Certified { chain }
            }
            Err(why) => Answer::Error(ControlError::Refused(why)),
        };
        let message = Box::new(HeadToAgent::Answer { process: 0, request, answer });
        self.held.push(Held::Agent { node, incarnation, message });
    }

    /// Nobody uses a token up with a key for which nothing can be signed.
    fn guest_came(&mut self, (guest, application): (Guest, Application)) -> Option<HeadEvent> {
        let Application { id, secret, public_key } = &application;
        if let Err(error) = lyceum_wire::check_public_key(public_key) {
            guest.refuse(&error.to_string());
            return None;
        }
        let hash = |bytes: &[u8]| Sha256::digest(bytes).into();
        let shown = Shown { id: *id, hash: hash(secret), key: hash(public_key) };
        let number = self.guests.last_key_value().map_or(1, |(last, _)| last + 1);
        self.guests.insert(number, (guest, application));
        Some(HeadEvent::TokenShown { guest: number, shown })
    }

    fn admit(&mut self, guest: u64, node: String, incarnation: u64) {
        let Some((guest, application)) = self.guests.remove(&guest) else { return };
        match self.admission(&node, incarnation, &application) {
            Ok((answer, state)) => {
                tracing::info!(node, incarnation, address = %guest.address(), "a node is let in with a token");
                self.decider.take(HeadEvent::Certified(state));
                self.held.push(Held::Guest { guest, answer });
            }
            Err(error) => {
                tracing::error!(%error, node, "a node cannot be let in");
                guest.refuse(&error.to_string());
            }
        }
    }

    fn admission(
        &mut self,
        node: &str,
        incarnation: u64,
        application: &Application,
    ) -> Result<(Vec<u8>, CertificateState), ClusterError> {
        let heads = HeadAddress::of_candidates(&self.state, &self.config.manifest)?;
        let order = launch::order_for(&self.config.manifest, node, self.config.owned, heads)?;
        let (chain, state) =
            self.issuer.certify(PeerRole::Agent, node, incarnation, &application.public_key)?;
        let answer = message::to_bytes(HeadToGuest::Admitted(Admission { chain, order }))?;
        Ok((answer, state))
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
            HeadEffect::Certify { origin, request, node, number, public_key } => {
                self.certify(origin, request, &node, number, &public_key);
            }
            HeadEffect::Revoke(revoked) => {
                let why = format!("incarnations below {}", revoked.before);
                tracing::warn!(node = revoked.node, why, "certificates of a node are revoked");
                if let Err(error) = self.endpoint.membership().revoke(Revocation::from(revoked)) {
                    tracing::error!(%error, "a revocation is not kept");
                }
            }
            HeadEffect::Admit { guest, node, incarnation } => self.admit(guest, node, incarnation),
            HeadEffect::TurnAway { guest, why } => {
                if let Some((guest, _)) = self.guests.remove(&guest) {
                    tracing::warn!(address = %guest.address(), why, "nobody is let in");
                    guest.refuse(&why);
                }
            }
            HeadEffect::Exit => self.exit = true,
        }
    }

    fn command(&mut self, node: &str, incarnation: u64, command: Command) {
        let Some(link) = self.agents.get(node).filter(|link| link.incarnation == incarnation) else { return };
        let credentials = match &command {
            Command::Launch(launch) => match self.issuer.issue(PeerRole::Worker, node, launch.process) {
                Ok((credentials, _)) => credentials.to_bytes(),
                Err(error) => {
                    tracing::error!(%error, process = launch.process, "no credentials for a worker");
                    return;
                }
            },
            _ => Vec::new(),
        };
        self.tell_agent(link, HeadToAgent::Command { command, credentials });
    }

    /// Signs a certificate for a worker, or for a client's own process.
    fn certify(&mut self, origin: Origin, request: u64, node: &str, number: u64, public_key: &[u8]) {
        let role = match origin {
            Origin::Worker(_) => PeerRole::Worker,
            Origin::Client(_) => PeerRole::Client,
        };
        let answer = match self.issuer.certify(role, node, number, public_key) {
            Ok((chain, _)) => Answer::Certified { chain },
            Err(error) => Answer::Error(ControlError::Refused(error.to_string())),
        };
        self.reply(origin, request, answer);
    }

    fn reply(&mut self, origin: Origin, request: u64, answer: Answer) {
        match origin {
            Origin::Worker(process) => {
                let status = self.decider.head().node_of(process);
                let Some(link) = status.and_then(|node| self.agents.get(&node)) else { return };
                self.tell_agent(link, HeadToAgent::Answer { process, request, answer });
            }
            Origin::Client(client) => self.answer_client(client, request, answer),
        }
    }

    fn answer_client(&mut self, client: u64, request: u64, answer: Answer) {
        let (answer, credentials) = match answer {
            Answer::Identity { node, incarnation } => {
                let role = if node == CLIENT_NODE { PeerRole::Client } else { PeerRole::Agent };
                match self.issuer.issue(role, &node, incarnation) {
                    Ok((credentials, state)) => {
                        let credentials = credentials.to_bytes();
                        let answer = Answer::Identity { node, incarnation };
                        if role == PeerRole::Agent {
                            self.decider.take(HeadEvent::Certified(state));
                            let message = HeadToClient::Answer { request, answer, credentials };
                            return self.held.push(Held::Client { client, message });
                        }
                        (answer, credentials)
                    }
                    Err(error) => (Answer::Error(ControlError::Refused(error.to_string())), Vec::new()),
                }
            }
            Answer::Certificates(found) => {
                let membership = self.endpoint.membership();
                let whole = self.issuer.complete(found, membership, self.decider.head());
                (Answer::Certificates(whole), Vec::new())
            }
            answer => (answer, Vec::new()),
        };
        self.tell_client(client, HeadToClient::Answer { request, answer, credentials });
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
