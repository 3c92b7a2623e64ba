//! Other agents: who they are, the links on which deaths are told, and the way of the store's bulk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lyceum_store::{NodeStore, PeerFuture, StorePeers};
use lyceum_wire::{CloseCode, Connection, Endpoint, Expect, Frame, LaneSender, PeerRole, Purpose, WireError};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;

use super::driver::Happening;
use super::programs::transfer::Wish;
use super::programs::{Pins, Programs};
use crate::control::{AgentEvent, Watcher};
use crate::logs::serve::LogDesk;
use crate::message::{AgentToAgent, Message, Unknown};
use crate::paths;

/// First and longest wait between two attempts to reach an agent.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Messages that may wait for a link.
const MAX_QUEUED: usize = 1024;
/// A connection for bulk that nobody has asked for this long is given up.
const BULK_IDLE: Duration = Duration::from_secs(30);

type Entries = BTreeMap<String, (u64, SocketAddr)>;

/// Where the other agents are, as the head says.
#[derive(Debug, Clone)]
pub(super) struct Directory(watch::Sender<Entries>);

impl Default for Directory {
    fn default() -> Self {
        Directory(watch::Sender::new(Entries::new()))
    }
}

impl Directory {
    pub(super) fn insert(&self, node: String, incarnation: u64, address: SocketAddr) {
        self.0.send_modify(|entries| {
            entries.insert(node, (incarnation, address));
        });
    }

    fn remove(&self, node: &str) {
        self.0.send_if_modified(|entries| entries.remove(node).is_some());
    }

    /// How the node's store reaches other stores. The path to each is looked at when it is used first.
    pub(super) fn store_peers(&self, endpoint: Endpoint, events: Sender<Happening>) -> impl StorePeers {
        Bulk { directory: self.clone(), endpoint, events, kept: Mutex::default(), seen: Mutex::default() }
    }

    fn expectation(&self, node: &str) -> Option<(SocketAddr, Expect)> {
        let (incarnation, address) = *self.0.borrow().get(node)?;
        let (node, incarnation) = (Some(node.to_owned()), Some(incarnation));
        Some((address, Expect { role: PeerRole::Agent, node, incarnation }))
    }
}

/// Connections for bulk, one to each line of a node that something was fetched from, kept until it has been idle.
struct Bulk {
    directory: Directory,
    endpoint: Endpoint,
    events: Sender<Happening>,
    kept: Mutex<BTreeMap<(String, usize), Arc<Kept>>>,
    /// The incarnations of agents to which the path was looked at.
    seen: Mutex<BTreeMap<String, u64>>,
}

/// One line to one node. Who finds it locked waits for the connection that another makes.
#[derive(Default)]
struct Kept(tokio::sync::Mutex<Option<InUse>>);

struct InUse {
    connection: Connection,
    used: Instant,
}

impl StorePeers for Bulk {
    fn connect(&self, node: &str, line: usize) -> PeerFuture<'_> {
        let known = self
            .directory
            .expectation(node)
            .ok_or(format!("no agent of node {node} has joined, or it was given up"));
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((node.to_owned(), line))
            .or_default()
            .clone();
        Box::pin(async move {
            let (address, expect) = known?;
            let mut place = kept.0.lock().await;
            if let Some(there) = place.as_mut().filter(|there| there.leads_to(&expect)) {
                there.used = Instant::now();
                return Ok(there.connection.clone());
            }
            let connection = self.endpoint.connect_for(address, &expect, Purpose::Bulk).await?;
            self.look_at_path(address, &expect);
            *place = Some(InUse { connection: connection.clone(), used: Instant::now() });
            tokio::spawn(Kept::watch(Arc::downgrade(&kept), connection.clone()));
            Ok(connection)
        })
    }
}

impl Bulk {
    /// Once for each incarnation of an agent.
    fn look_at_path(&self, address: SocketAddr, expect: &Expect) {
        let (Some(node), Some(incarnation)) = (&expect.node, expect.incarnation) else { return };
        let before = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(node.clone(), incarnation)
        };
        if before == Some(incarnation) {
            return;
        }
        let (endpoint, events, expect) = (self.endpoint.clone(), self.events.clone(), expect.clone());
        let to = format!("node {node}");
        tokio::spawn(async move {
            let said = paths::look(&endpoint, &to, address, &expect).await;
            let _ = events.send(Happening::PathSeen { to, said }).await;
        });
    }
}

impl InUse {
    fn leads_to(&self, expect: &Expect) -> bool {
        Some(self.connection.peer().incarnation()) == expect.incarnation
            && self.connection.close_reason().is_none()
    }
}

impl Kept {
    /// Gives `connection` up when it has not been asked for in a while; streams under way keep it open to their end.
    async fn watch(kept: Weak<Kept>, connection: Connection) {
        loop {
            tokio::select! {
                _ = connection.closed() => return,
                () = tokio::time::sleep(BULK_IDLE) => {}
            }
            let Some(kept) = kept.upgrade() else { return };
            let mut place = kept.0.lock().await;
            if place.as_ref().is_none_or(|there| there.used.elapsed() >= BULK_IDLE) {
                *place = None;
                return;
            }
        }
    }
}

/// The links to other agents: one out to each that is watched, and those that came in.
#[derive(Debug)]
pub(super) struct Peers {
    directory: Directory,
    endpoint: Endpoint,
    events: Sender<Happening>,
    outward: BTreeMap<String, Sender<AgentToAgent>>,
    inward: BTreeMap<String, LaneSender>,
}

impl Peers {
    pub(super) fn new(directory: Directory, endpoint: Endpoint, events: Sender<Happening>) -> Peers {
        Peers { directory, endpoint, events, outward: BTreeMap::new(), inward: BTreeMap::new() }
    }

    pub(super) fn introduce(&self, node: String, incarnation: u64, address: SocketAddr) {
        self.directory.insert(node, incarnation, address);
    }

    /// Nodes may come and go: nothing is kept for those that were given up.
    pub(super) fn forget(&mut self, node: &str) {
        self.directory.remove(node);
        self.outward.remove(node);
        self.inward.remove(node);
    }

    pub(super) fn came_in(&mut self, node: String, lane: LaneSender) {
        self.inward.insert(node, lane);
    }

    /// Sends on the link out to `node`, which is made if need be. What is lost on the way is said again when the
    /// link stands anew.
    pub(super) fn send(&mut self, node: &str, message: AgentToAgent) {
        let outward = self.outward.entry(node.to_owned()).or_insert_with(|| {
            let (queue, inbox) = mpsc::channel(MAX_QUEUED);
            let link = Link {
                node: node.to_owned(),
                directory: self.directory.clone(),
                endpoint: self.endpoint.clone(),
                events: self.events.clone(),
            };
            tokio::spawn(link.keep(inbox));
            queue
        });
        let _ = outward.try_send(message);
    }

    /// Tells the agent of `node` on the link on which it asked.
    pub(super) fn answer(&mut self, node: &str, message: AgentToAgent) {
        let frame = message.clone().into_frame().ok();
        let sent = self.inward.get(node).zip(frame).is_some_and(|(lane, frame)| lane.try_send(frame).is_ok());
        if !sent {
            self.inward.remove(node);
            self.send(node, message);
        }
    }
}

struct Link {
    node: String,
    directory: Directory,
    endpoint: Endpoint,
    events: Sender<Happening>,
}

impl Link {
    async fn keep(self, mut inbox: Receiver<AgentToAgent>) {
        let mut changes = self.directory.0.subscribe();
        let mut wait = WAITS.0;
        while !inbox.is_closed() {
            changes.borrow_and_update();
            if let Some((address, expect)) = self.directory.expectation(&self.node) {
                match self.endpoint.connect(address, &expect).await {
                    Ok(connection) => {
                        wait = WAITS.0;
                        if let Err(error) = self.use_link(&connection, &mut inbox).await {
                            tracing::debug!(node = self.node, %error, "the link to an agent is lost");
                        }
                    }
                    Err(error) => tracing::debug!(node = self.node, %error, "an agent cannot be reached"),
                }
            }
            // Whatever comes first: a new address, or time.
            let _ = tokio::time::timeout(wait, changes.changed()).await;
            wait = (wait * 2).min(WAITS.1);
        }
    }

    async fn use_link(
        &self,
        connection: &Connection,
        inbox: &mut Receiver<AgentToAgent>,
    ) -> Result<(), WireError> {
        let (lane, mut frames) = connection.lane()?;
        let linked = AgentEvent::PeerLinked { node: self.node.clone() };
        let _ = self.events.send(Happening::Machine(linked)).await;
        let mut unknown = Unknown::default();
        loop {
            tokio::select! {
                frame = frames.recv() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    take_in(&frame, &mut unknown, &self.node, &self.events).await?;
                }
                message = inbox.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    lane.send(message.into_frame()?).await?;
                }
            }
        }
    }
}

/// An agent may ask about processes here and tell of its own, not of others'.
async fn take_in(
    frame: &Frame,
    unknown: &mut Unknown,
    node: &str,
    events: &Sender<Happening>,
) -> Result<(), WireError> {
    let Some(message) = AgentToAgent::from_frame(frame)? else {
        unknown.pass_by(frame, &format!("the agent of {node}"));
        return Ok(());
    };
    let event = match message {
        AgentToAgent::Watch(target) => AgentEvent::Watch { watcher: Watcher::Agent(node.to_owned()), target },
        AgentToAgent::Died(death) if death.node == node => AgentEvent::PeerReported(death),
        AgentToAgent::Died(death) => {
            let text = format!("the agent of {node} tells of a process of {}", death.node);
            return Err(WireError::Archive(text));
        }
    };
    let _ = events.send(Happening::Machine(event)).await;
    Ok(())
}

/// What an agent has for those who connect.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) store: NodeStore,
    pub(super) programs: Programs,
    pub(super) desk: LogDesk,
}

/// Serves whoever connects: other agents, their stores, clients that bring programs or read logs, and the head's second path.
pub(super) async fn accept(endpoint: Endpoint, services: Services, events: Sender<Happening>) {
    while let Some(connection) = endpoint.accept().await {
        let (Services { store, programs, desk }, events) = (services.clone(), events.clone());
        tokio::spawn(async move {
            let served = match (connection.peer().role(), connection.purpose()) {
                (PeerRole::Agent | PeerRole::Client, Purpose::Bulk) => {
                    serve_bulk(&connection, &store, &programs).await
                }
                (PeerRole::Agent, _) => serve_agent(&connection, &events).await,
                (PeerRole::Client, Purpose::Lane) => desk.serve(&connection).await,
                _ => {
                    connection.closed().await;
                    Ok(())
                }
            };
            if let Err(error) = served {
                tracing::debug!(peer = %connection.peer(), %error, "a connection to the agent ended");
            }
            connection.close(CloseCode::Done, "the session is over");
        });
    }
}

async fn serve_bulk(
    connection: &Connection,
    store: &NodeStore,
    programs: &Programs,
) -> Result<(), WireError> {
    let (role, peer) = (connection.peer().role(), connection.peer().node());
    // Dropped with the connection.
    let pins = Pins::default();
    loop {
        let (header, sender, receiver) = connection.accept_bulk().await?;
        let peer = peer.to_owned();
        if Wish::is_ours(&header) {
            let (programs, pins) = (programs.clone(), pins.clone());
            tokio::spawn(async move {
                programs.serve((role, &peer), &header, sender, receiver, &pins).await;
            });
        } else if role == PeerRole::Agent && NodeStore::is_store_stream(&header) {
            let store = store.clone();
            tokio::spawn(async move { store.serve_bulk(&peer, header, sender, receiver).await });
        } else {
            let asks = if role == PeerRole::Agent { "the store or programs" } else { "programs" };
            return Err(WireError::Bulk(format!("a stream that is not for {asks}")));
        }
    }
}

async fn serve_agent(connection: &Connection, events: &Sender<Happening>) -> Result<(), WireError> {
    let (lane, mut frames) = connection.lane()?;
    let node = connection.peer().node().to_owned();
    let _ = events.send(Happening::PeerIn { node: node.clone(), lane }).await;
    let mut unknown = Unknown::default();
    while let Some(frame) = frames.recv().await? {
        take_in(&frame, &mut unknown, &node, events).await?;
    }
    Ok(())
}
