//! The node agent's process: the state machine of [`control::Agent`](crate::control::Agent), the node's store, its
//! workers, and the links to the head and to other agents.

mod child;
mod driver;
mod forker;
pub(crate) mod head_link;
mod memory;
mod peers;
pub(crate) mod programs;
mod start;
mod templates;
pub(crate) mod workers;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_actor::ControlError;
use lyceum_store::{NodeStore, SpillOptions, StoreOptions, StorePeers};
use lyceum_wire::{Admission, Credentials, Endpoint, EndpointOptions, Membership, PeerRole};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use self::driver::Driver;
pub(crate) use self::driver::Happening;
use self::forker::Forker;
use self::memory::MemoryGuard;
use self::peers::{Directory, Peers, Services};
use self::programs::Programs;
pub(crate) use self::workers::{AGENT_VARIABLE, PORTS_VARIABLE, STORE_VARIABLE};
use crate::ask::{Questions, Reply};
use crate::control::offer::Offer;
use crate::control::vocabulary::{Answer, Ask};
use crate::control::{Agent, AgentOptions};
use crate::daemon;
use crate::error::ClusterError;
use crate::host_memory::{self, Memory};
use crate::logs::book::LogBook;
use crate::logs::serve::LogDesk;
use crate::manifest::{Health, LogsSection, ProgramsSection, StoreSection};
use crate::state::{StateDir, read_json, write_json};
use crate::units::Bytes;

/// A head that is silent is called again no sooner than this: its answers to heartbeats are a second and a half apart at most.
const HEAD_PATIENCE: Duration = Duration::from_millis(1500);
/// Events that may wait for the agent; those who bring more wait.
const MAX_EVENTS: usize = 4096;
/// Threads that connections are driven by.
const IO_THREADS: usize = 2;

/// What `up` writes for an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgentConfig {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) owned: bool,
    /// Where the head is, or may be.
    pub(crate) heads: Vec<SocketAddr>,
    pub(crate) bind: IpAddr,
    pub(crate) advertise: Option<IpAddr>,
    /// An interface that plaintext may use.
    pub(crate) trusted_interface: Option<String>,
    /// What all of the node's processes keep to; empty: the system chooses.
    pub(crate) ports: Range<u16>,
    /// Cores of this node alone; empty where nodes share the machine's.
    pub(crate) cores: Vec<u32>,
    /// What `CUDA_VISIBLE_DEVICES` calls this node's GPUs, by number.
    pub(crate) gpus: Vec<String>,
    /// What the head is told that the node has.
    pub(crate) offer: Offer,
    pub(crate) store: StoreSection,
    pub(crate) programs: ProgramsSection,
    pub(crate) health: Health,
    pub(crate) logs: LogsSection,
}

impl AgentConfig {
    pub(crate) fn save(&self, state: &StateDir) -> Result<(), ClusterError> {
        write_json(&state.node(&self.node).join("config.json"), self)
    }

    fn load(state: &StateDir, node: &str) -> Result<AgentConfig, ClusterError> {
        let path = state.node(node).join("config.json");
        let checked = read_json::<AgentConfig>(&path)?.checked();
        checked.map_err(|why| ClusterError::Refused(format!("{}: {why}", path.display())))
    }

    pub(crate) fn checked(self) -> Result<AgentConfig, String> {
        self.health.check().and_then(|()| self.offer.check()).map(|()| self)
    }
}

/// Runs the agent of `node` of the cluster in `state` until it is told to end. The body of `lyceum agent`.
pub fn run(state: &StateDir, node: &str) -> Result<(), ClusterError> {
    let config = AgentConfig::load(state, node)?;
    let membership = Membership::from(Credentials::load(&state.node(node))?);
    let incarnation = membership.identity().incarnation();
    let forker = Forker::start()?;
    // With one thread a large object comes over one connection, and heartbeats wait for its packets.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("lyceum-agent-io")
        .enable_all()
        .build()
        .map_err(ClusterError::system("start the agent's runtime"))?;
    runtime.block_on(async {
        let store = open_store(&config, incarnation, state)?;
        say_who_holds(&config.ports);
        let options = EndpointOptions {
            admission: Admission::roles([PeerRole::Agent, PeerRole::Head, PeerRole::Client]),
            ports: config.ports.clone(),
            ..EndpointOptions::new(SocketAddr::new(config.bind, 0))
        };
        let endpoint = Endpoint::bind(membership.clone(), options)?;
        let (events, inbox) = mpsc::channel(MAX_EVENTS);
        let directory = Directory::default();
        let bulk: Arc<dyn StorePeers> = Arc::new(directory.store_peers(endpoint.clone(), events.clone()));
        store.set_peers(bulk.clone()).map_err(|error| ClusterError::Refused(error.to_string()))?;
        let folder = state.node(node).join("programs");
        let programs = Programs::open(node, folder, config.programs.cache.0, bulk, events.clone())?;
        let peers = Peers::new(directory, endpoint.clone(), events.clone());
        let logs = LogBook::open(state.worker_logs(node), state.agent_log(node), config.logs);
        let services =
            Services { store: store.clone(), programs: programs.clone(), desk: LogDesk::new(logs.clone()) };
        tokio::spawn(peers::accept(endpoint.clone(), services, events.clone()));
        let patience = Duration::from_secs_f64(config.health.unreachable).max(HEAD_PATIENCE);
        tokio::spawn(head_link::keep(endpoint.clone(), config.heads.clone(), patience, events.clone()));
        tokio::spawn(end_when_told(state.clone(), events.clone()));
        let renewal = Renewal::default();
        let ask = renewal.ask(events.clone());
        let folder = Some(state.node(node));
        tokio::spawn(crate::renewal::keep(membership, renewal.wanted.clone(), folder, ask));
        let memory = MemoryGuard::new(&config.cluster, node);
        tracing::info!(node, incarnation, address = %endpoint.local_addr(), %memory, "the agent is up");
        let machine = Agent::new(options_of(&config));
        Driver::new(
            state.clone(),
            config,
            machine,
            store,
            programs,
            logs,
            endpoint,
            peers,
            forker,
            memory,
            renewal,
            events,
        )
        .run(inbox)
        .await
    })
}

/// How the agent asks the head for a certificate of its own.
#[derive(Debug, Clone, Default)]
struct Renewal {
    /// That it is wanted now.
    wanted: Arc<Notify>,
    questions: Arc<Questions>,
}

impl Renewal {
    /// Asks through the agent's loop, which has the link to the head.
    fn ask(
        &self,
        events: mpsc::Sender<Happening>,
    ) -> impl Fn(Ask) -> BoxFuture<'static, Result<Reply, ControlError>> + use<> {
        let questions = self.questions.clone();
        move |ask| {
            let (opened, events) = (questions.open(), events.clone());
            async move {
                let (request, answer) = opened?;
                let gone = |_| ControlError::Unreachable("the agent is ending".into());
                events.send(Happening::Own { request, ask: Box::new(ask) }).await.map_err(|_| gone(()))?;
                match answer.await.map_err(|_| gone(()))? {
                    (Answer::Error(error), _) => Err(error),
                    reply => Ok(reply),
                }
            }
            .boxed()
        }
    }
}

fn open_store(config: &AgentConfig, incarnation: u64, state: &StateDir) -> Result<NodeStore, ClusterError> {
    let refused = |why: &dyn std::fmt::Display| ClusterError::Refused(format!("the node's store: {why}"));
    let StoreSection { capacity, segment, prefault, .. } = config.store;
    // Said rather than found out: whoever uses more than its cgroup allows is killed.
    if let Some(memory) = Memory::here().filter(|memory| capacity.0 > memory.bytes) {
        let (who, has) = (memory.in_words(), Bytes(memory.bytes));
        return Err(refused(&format!("{capacity} lie in memory, and {who} {has}")));
    }
    if let Some(small) = host_memory::shm_too_small(config.gpus.len()) {
        tracing::warn!("{small}");
    }
    let folder = state.node(&config.node).join("spill");
    let options = StoreOptions {
        segment_bytes: segment.0,
        prefault,
        spill: Some(SpillOptions { folder, bytes: config.store.spill_bytes() })
            .filter(|spill| spill.bytes > 0),
        ..StoreOptions::new(&config.node, incarnation, capacity.0)
    };
    NodeStore::new(options).map_err(|error| refused(&error))
}

/// Before any process of the node runs, whoever holds one of its ports is another's.
fn say_who_holds(block: &Range<u16>) {
    for (port, holder) in lyceum_wire::port_holders(block) {
        tracing::warn!(port, holder, "a port of this node's block is held already, and is passed over");
    }
}

pub(crate) fn options_of(config: &AgentConfig) -> AgentOptions {
    AgentOptions {
        node: config.node.clone(),
        owned: config.owned,
        verdict: Duration::from_secs_f64(config.health.verdict),
        stop_grace: Duration::from_secs_f64(config.health.stop),
        cores: config.cores.clone(),
    }
}

async fn end_when_told(state: StateDir, events: mpsc::Sender<Happening>) {
    let by = daemon::told_to_end(&state).await;
    let _ = events.send(Happening::Machine(crate::control::AgentEvent::End { by })).await;
}
