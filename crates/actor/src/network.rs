//! The process's connections: made on first use, one per peer process.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    ops::Range,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{join_all, select};
use lyceum_wire::{
    Admission, CloseCode, Connection, Credentials, Endpoint, EndpointOptions, Expect, PeerRole, Purpose,
    RoleFingerprint, WireError,
};
use tokio::runtime::{Handle, Runtime};

use crate::{
    ProcessAddress, ProcessDeath, System, inbound,
    link::Link,
    slot::{Outcome, Slot},
};

/// How many dead processes are remembered, to tell late callers how they ended.
const REMEMBERED: usize = 4096;

/// How long the last words of a process that ended by itself may take to be read, once it is known to be dead.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The networked part of a [`System`].
pub(crate) struct Network {
    pub(crate) address: ProcessAddress,
    endpoint: Endpoint,
    pub(crate) io: Handle,
    next_key: AtomicU64,
    peers: Mutex<Peers>,
}

#[derive(Default)]
pub(crate) struct Peers {
    /// The link that calls to a process go over: its certificate says who it is.
    calls: HashMap<u64, Arc<Link>>,
    /// Links that are being made, each for an address that may be wrong: one of these hinders no other.
    connecting: HashMap<ProcessAddress, Arc<Link>>,
    /// Every link, by its key; lost ones for as long as somebody waits for a verdict.
    links: HashMap<u64, Arc<Link>>,
    /// Processes that the control plane was asked to watch.
    watched: HashSet<ProcessAddress>,
    /// Silent nodes, and a number for each suspicion.
    pub(crate) suspects: HashMap<String, u64>,
    dead: HashMap<Claim, ProcessDeath>,
    dead_order: VecDeque<Claim>,
}

/// A process by its number and the node that it is said to be on. What is said of a process that is not there (an address may
/// be wrong) is so kept apart from what is said of the one that has its number.
type Claim = (u64, String);

impl Network {
    pub(crate) fn open(
        io: &Runtime,
        credentials: Credentials,
        (bind, ports): (SocketAddr, Range<u16>),
        advertise: Option<IpAddr>,
        roles: Vec<RoleFingerprint>,
    ) -> Result<Self, WireError> {
        let identity = credentials.identity().clone();
        let mut options = EndpointOptions::new(bind);
        options.ports = ports;
        options.roles = roles;
        // Head and agents call no actors.
        options.admission = Admission::roles([PeerRole::Worker, PeerRole::Client]);
        let _context = io.enter();
        let endpoint = Endpoint::bind(credentials, options)?;
        let mut addr = endpoint.local_addr();
        if let Some(ip) = advertise {
            addr.set_ip(ip);
        }
        let address = ProcessAddress {
            kind: identity.role().into(),
            node: identity.node().to_owned(),
            process: identity.incarnation(),
            addr,
        };
        Ok(Network {
            address,
            endpoint,
            io: io.handle().clone(),
            next_key: AtomicU64::new(1),
            peers: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Peers> {
        // Nothing that is done under this lock can panic half way.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that this system has not used before.
    pub(crate) fn key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }
}

impl Peers {
    pub(crate) fn connections(&self) -> usize {
        self.links.len()
    }

    /// `link` is not being made any more; returns whether it was.
    fn take_connecting(&mut self, link: &Arc<Link>) -> bool {
        let is_it = self.connecting.get(&link.peer).is_some_and(|connecting| Arc::ptr_eq(connecting, link));
        is_it && self.connecting.remove(&link.peer).is_some()
    }

    /// `link` leads to whom it was to lead to; calls go over it, unless it was given up meanwhile.
    fn connected(&mut self, link: &Arc<Link>) {
        if self.take_connecting(link) {
            self.calls.insert(link.peer.process, link.clone());
        }
    }

    /// The links to processes of `node`.
    pub(crate) fn links_to_node(&self, node: &str) -> Vec<Arc<Link>> {
        self.links.values().filter(|link| link.peer.node == node).cloned().collect()
    }
}

impl System {
    /// Tells this process that another is dead: every waiter on it, and every later caller, is told at once (L3). One that
    /// ended by itself has had its last replies acknowledged, but the news of its end may be quicker than whoever reads
    /// them here: its waiters are told when its lane has been read to the end.
    pub fn process_died(&self, death: ProcessDeath) {
        let Some(network) = &self.inner().network else { return };
        let claim = (death.process, death.node.clone());
        let is_meant = |peer: &ProcessAddress| peer.process == death.process && peer.node == death.node;
        let mut peers = network.lock();
        if peers.dead.insert(claim.clone(), death.clone()).is_none() {
            peers.dead_order.push_back(claim);
        }
        if peers.dead_order.len() > REMEMBERED
            && let Some(oldest) = peers.dead_order.pop_front()
        {
            peers.dead.remove(&oldest);
        }
        peers.watched.retain(|watched| !is_meant(watched));
        peers.calls.retain(|_, link| !is_meant(&link.peer));
        peers.connecting.retain(|process, _| !is_meant(process));
        let links: Vec<_> = peers.links.values().filter(|link| is_meant(&link.peer)).cloned().collect();
        drop(peers);
        for cell in self.inner().actors.all() {
            cell.forget_kept(&death);
        }
        for link in links {
            if death.cause.is_by_itself() && link.is_open() {
                // The end of the lane comes first, as a rule, and with it `lost`.
                let (system, death) = (self.clone(), death.clone());
                self.clock().after(LAST_WORDS, move || system.end_link(&link, &death));
            } else {
                self.end_link(&link, &death);
            }
        }
    }

    fn end_link(&self, link: &Arc<Link>, death: &ProcessDeath) {
        link.dead(death);
        self.forget(link);
    }

    /// The link over which calls to `process` go; made when there is none.
    pub(crate) fn link_to(&self, process: &ProcessAddress) -> Result<Arc<Link>, Outcome> {
        let Some(network) = &self.inner().network else {
            return Err(Outcome::NotSent(format!(
                "{process} cannot be reached: this process has no network"
            )));
        };
        let mut peers = network.lock();
        if let Some(death) = peers.dead.get(&(process.process, process.node.clone())) {
            return Err(Outcome::Dead(Box::new(death.report("", None))));
        }
        // The one that is being made comes first: calls wait on it already, and those that follow stay behind them.
        let made = peers.connecting.get(process).or_else(|| peers.calls.get(&process.process));
        let link = match made.filter(|link| !link.is_closed()) {
            Some(link) if link.peer.node != process.node || link.peer.kind != process.kind => {
                return Err(Outcome::NotSent(format!(
                    "{process} is not there: {} has its number",
                    link.peer
                )));
            }
            Some(link) => link.clone(),
            None => {
                let link = Link::new(network.key(), process.clone(), Arc::downgrade(self.inner()));
                peers.connecting.insert(process.clone(), link.clone());
                peers.links.insert(link.key, link.clone());
                network.io.spawn(connect(self.clone(), link.clone()));
                link
            }
        };
        drop(peers);
        self.watch_process(process);
        Ok(link)
    }

    /// Has the control plane tell when `process` is gone; once.
    pub(crate) fn watch_process(&self, process: &ProcessAddress) {
        let Some(network) = &self.inner().network else { return };
        let first = network.lock().watched.insert(process.clone());
        if first && let Some(control) = self.inner().control.get() {
            control.watch(process);
        }
    }

    pub(crate) fn link(&self, key: u64) -> Option<Arc<Link>> {
        self.inner().network.as_ref()?.lock().links.get(&key).cloned()
    }

    /// Waits until replies to the peer behind `key` find room.
    pub(crate) async fn reply_room(&self, key: u64) {
        if let Some(link) = self.link(key) {
            link.reply_room().await;
        }
    }

    /// A control plane has come: it is asked to watch those met before.
    pub(crate) fn watch_peers(&self) {
        let (Some(network), Some(control)) = (&self.inner().network, self.inner().control.get()) else {
            return;
        };
        let peers = network.lock();
        let links = peers.calls.values().chain(peers.connecting.values());
        let met: Vec<ProcessAddress> = links.map(|link| link.peer.clone()).collect();
        drop(peers);
        for process in met {
            control.watch(&process);
        }
    }

    /// Takes connections in, for ever. Runs on the I/O runtime.
    pub(crate) async fn accept_peers(&self) {
        let Some(network) = &self.inner().network else { return std::future::pending().await };
        while let Some(connection) = network.endpoint.accept().await {
            if connection.purpose() == Purpose::Bulk {
                connection.close(CloseCode::Protocol, "this process takes no bulk streams");
                continue;
            }
            let peer = ProcessAddress {
                kind: connection.peer().role().into(),
                node: connection.peer().node().to_owned(),
                process: connection.peer().incarnation(),
                addr: connection.remote_address(),
            };
            let link = Link::new(network.key(), peer, Arc::downgrade(self.inner()));
            let mut peers = network.lock();
            peers.links.insert(link.key, link.clone());
            // Calls the other way may use it too, unless there is a connection for them already.
            let calls = peers.calls.entry(link.peer.process).or_insert_with(|| link.clone());
            if calls.is_closed() {
                *calls = link.clone();
            }
            drop(peers);
            tokio::spawn(run(self.clone(), link, connection));
        }
        std::future::pending().await
    }

    /// Waits until the peers have acknowledged everything that was said to them, or until `enough` is completed.
    pub(crate) async fn part_from_peers(&self, enough: &Slot) {
        let Some(network) = &self.inner().network else { return };
        let links: Vec<_> = network.lock().links.values().cloned().collect();
        let parted: Vec<_> = links.iter().map(|link| link.part()).collect();
        let all = join_all(parted.iter().map(|slot| slot.wait()));
        select(pin!(all), pin!(enough.wait())).await;
    }

    /// Closes every connection.
    pub(crate) fn close_network(&self, why: &str) {
        let Some(network) = &self.inner().network else { return };
        let links: Vec<_> = network.lock().links.values().cloned().collect();
        for link in links {
            link.close(why);
            link.give_up();
        }
        network.endpoint.close(CloseCode::ShuttingDown, why);
    }

    /// Lets the peers hear of the close.
    pub(crate) async fn finish_network(&self) {
        if let Some(network) = &self.inner().network {
            let patience = Duration::from_millis(500);
            let _ = tokio::time::timeout(patience, network.endpoint.wait_idle()).await;
        }
    }

    /// The connection of `link` is gone for the reason `why`.
    pub(crate) fn lost(&self, link: &Arc<Link>, why: &str) {
        link.close(why);
        for cell in self.inner().actors.all() {
            let untold = cell.peer_gone(link.key);
            self.apply(&cell, untold);
        }
        let Some(network) = &self.inner().network else { return };
        let mut peers = network.lock();
        peers.take_connecting(link);
        if peers.calls.get(&link.peer.process).is_some_and(|calls| Arc::ptr_eq(calls, link)) {
            peers.calls.remove(&link.peer.process);
        }
        let death = peers.dead.get(&(link.peer.process, link.peer.node.clone())).cloned();
        drop(peers);
        if let Some(death) = death {
            self.end_link(link, &death);
        } else if self.inner().control.get().is_none() {
            link.give_up();
            self.forget(link);
        } else {
            // The control plane will say how the process ended, if it did; until then who waits is kept waiting.
            let (system, link) = (self.clone(), link.clone());
            self.clock().after(self.inner().verdict_grace, move || {
                link.give_up();
                system.forget(&link);
            });
        }
    }

    fn forget(&self, link: &Arc<Link>) {
        if let Some(network) = &self.inner().network {
            network.lock().links.remove(&link.key);
        }
    }
}

/// Brings an outgoing link up and serves it.
async fn connect(system: System, link: Arc<Link>) {
    let Some(network) = &system.inner().network else { return };
    let expect = Expect {
        role: link.peer.kind.into(),
        node: Some(link.peer.node.clone()),
        incarnation: Some(link.peer.process),
    };
    match network.endpoint.connect(link.peer.addr, &expect).await {
        Ok(connection) => {
            network.lock().connected(&link);
            run(system.clone(), link, connection).await;
        }
        Err(error) => system.lost(&link, &error.to_string()),
    }
}

/// Serves a link for as long as its connection lasts. Runs on the I/O runtime.
async fn run(system: System, link: Arc<Link>, connection: Connection) {
    let why = match connection.lane() {
        Ok((sender, receiver)) => {
            link.open(connection.clone());
            let writer = link.clone();
            let writing = tokio::spawn(async move { writer.write(sender).await });
            let why = inbound::read(system.clone(), link.clone(), receiver).await;
            link.close(&why);
            // It ends by itself once the link is closed.
            drop(writing);
            why
        }
        Err(error) => error.to_string(),
    };
    system.lost(&link, &why);
}
