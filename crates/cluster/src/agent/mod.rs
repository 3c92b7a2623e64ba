//! The node agent's process: the state machine of [`control::Agent`](crate::control::Agent), the node's store, its
//! workers, and the links to the head and to other agents.

mod child;
mod driver;
mod forker;
pub(crate) mod head_link;
mod memory;
mod peers;
mod start;
mod templates;
pub(crate) mod workers;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lyceum_store::{NodeStore, SpillOptions, StoreOptions};
use lyceum_wire::{Admission, Credentials, Endpoint, EndpointOptions, PeerRole};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::driver::Driver;
pub(crate) use self::driver::Happening;
use self::forker::Forker;
use self::memory::MemoryGuard;
use self::peers::{Directory, Peers};
pub(crate) use self::workers::{AGENT_VARIABLE, STORE_VARIABLE};
use crate::control::{Agent, AgentOptions};
use crate::daemon;
use crate::error::ClusterError;
use crate::host_memory::{self, Memory};
use crate::manifest::{Health, StoreSection};
use crate::state::{StateDir, read_json, write_json};
use crate::units::Bytes;

/// A head that is silent is called again no sooner than this: its answers to heartbeats are a second and a half apart at most.
const HEAD_PATIENCE: Duration = Duration::from_millis(1500);
/// Events that may wait for the agent; those who bring more wait.
const MAX_EVENTS: usize = 4096;

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
    /// The agent takes the first, its workers the others; empty: the system chooses.
    pub(crate) ports: Range<u16>,
    /// Cores of this node alone; empty where nodes share the machine's.
    pub(crate) cores: Vec<u32>,
    /// What `CUDA_VISIBLE_DEVICES` calls this node's GPUs, by number.
    pub(crate) gpus: Vec<String>,
    pub(crate) store: StoreSection,
    pub(crate) health: Health,
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
        self.health.check().map(|()| self)
    }
}

/// Runs the agent of `node` of the cluster in `state` until it is told to end. The body of `lyceum agent`.
pub fn run(state: &StateDir, node: &str) -> Result<(), ClusterError> {
    let config = AgentConfig::load(state, node)?;
    let credentials = Credentials::load(&state.node(node))?;
    let incarnation = credentials.identity().incarnation();
    let forker = Forker::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClusterError::system("start the agent's runtime"))?;
    runtime.block_on(async {
        let store = open_store(&config, incarnation, state)?;
        let first_port = if config.ports.is_empty() { 0 } else { config.ports.start };
        let options = EndpointOptions {
            admission: Admission::roles([PeerRole::Agent, PeerRole::Head]),
            ..EndpointOptions::new(SocketAddr::new(config.bind, first_port))
        };
        let endpoint = Endpoint::bind(credentials, options)?;
        let (events, inbox) = mpsc::channel(MAX_EVENTS);
        let directory = Directory::default();
        store
            .set_peers(Arc::new(directory.store_peers(endpoint.clone())))
            .map_err(|error| ClusterError::Refused(error.to_string()))?;
        let peers = Peers::new(directory, endpoint.clone(), events.clone());
        tokio::spawn(peers::accept(endpoint.clone(), store.clone(), events.clone()));
        let patience = Duration::from_secs_f64(config.health.unreachable).max(HEAD_PATIENCE);
        tokio::spawn(head_link::keep(endpoint.clone(), config.heads.clone(), patience, events.clone()));
        tokio::spawn(end_when_told(state.clone(), events.clone()));
        tokio::spawn(crate::logs::keep_capped(state.agent_log(node)));
        let memory = MemoryGuard::new(&config.cluster, node);
        tracing::info!(node, incarnation, address = %endpoint.local_addr(), %memory, "the agent is up");
        let machine = Agent::new(options_of(&config));
        Driver::new(state.clone(), config, machine, store, endpoint, peers, forker, memory, events)
            .run(inbox)
            .await
    })
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

pub(crate) fn options_of(config: &AgentConfig) -> AgentOptions {
    AgentOptions {
        node: config.node.clone(),
        owned: config.owned,
        verdict: Duration::from_secs_f64(config.health.verdict),
        stop_grace: Duration::from_secs_f64(config.health.stop),
        cores: config.cores.clone(),
        ports: if config.ports.is_empty() { 0..0 } else { config.ports.start + 1..config.ports.end },
    }
}

async fn end_when_told(state: StateDir, events: mpsc::Sender<Happening>) {
    let by = daemon::told_to_end(&state).await;
    let _ = events.send(Happening::Machine(crate::control::AgentEvent::End { by })).await;
}
