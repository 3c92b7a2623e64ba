//! The head's process: the state machine of [`control::Head`](crate::control::Head), its database, its connections.
//!
//! One thread takes events in batches, commits the records of a batch, and then releases its effects; connections are
//! served beside it and only hand events in.

mod core;
mod database;
mod decide;
mod sessions;

use std::net::SocketAddr;
use std::time::Duration;

use lyceum_wire::{Admission, Authority, Endpoint, EndpointOptions, PeerIdentity, PeerRole};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::core::{Core, Input};
pub use self::decide::Decider;
use crate::control::resources::Capacity;
use crate::control::vocabulary::{CLIENT_NODE, HEAD_NODE};
use crate::control::{CordonRule, HeadEvent, HeadOptions, NodeOptions};
use crate::daemon;
use crate::error::ClusterError;
use crate::manifest::{Manifest, NodeSection};
use crate::state::{StateDir, read_json, write_json};

/// Certificates of daemons and workers are valid this long.
pub(crate) const VALIDITY: Duration = Duration::from_secs(366 * 24 * 3600);
/// Events that are committed together at most.
pub const MAX_BATCH: usize = 256;
/// Events that may wait for the head; those who bring more wait.
const MAX_EVENTS: usize = 4096;

/// What `up` writes for the head.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HeadConfig {
    pub(crate) manifest: Manifest,
    pub(crate) owned: bool,
}

impl HeadConfig {
    pub(crate) fn save(&self, state: &StateDir) -> Result<(), ClusterError> {
        write_json(&state.head().join("config.json"), self)
    }

    pub(crate) fn load(state: &StateDir) -> Result<HeadConfig, ClusterError> {
        read_json(&state.head().join("config.json"))
    }
}

/// Where the head listens, as it says itself once it does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HeadAddress {
    /// For this machine.
    pub(crate) bound: SocketAddr,
    /// For others.
    pub(crate) advertised: SocketAddr,
    /// The head's number on its machine.
    pub(crate) pid: u32,
}

impl HeadAddress {
    pub(crate) fn load(state: &StateDir) -> Result<HeadAddress, ClusterError> {
        read_json(&state.head_address())
    }
}

/// Runs the head of the cluster in `state` until it is told to end. The body of `lyceum head`.
pub fn run(state: &StateDir) -> Result<(), ClusterError> {
    let config = HeadConfig::load(state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lyceum-head-io")
        .enable_all()
        .build()
        .map_err(ClusterError::system("start the head's threads"))?;
    let authority = authority(state, &config.manifest.name)?;
    let decider = Decider::open(&state.head().join("records.redb"), options(&config))?;
    let term = decider.term();

    let identity = PeerIdentity::new(&config.manifest.name, PeerRole::Head, HEAD_NODE, term)?;
    let credentials = authority.issue(&identity, VALIDITY)?;
    let endpoint = {
        let _entered = runtime.enter();
        bind(state, &config, credentials)?
    };
    let client = PeerIdentity::new(&config.manifest.name, PeerRole::Client, CLIENT_NODE, term)?;
    authority.issue(&client, VALIDITY)?.save(&state.client())?;
    announce(state, &config, endpoint.local_addr())?;

    let (events, inbox) = mpsc::channel(MAX_EVENTS);
    runtime.spawn(sessions::accept(endpoint.clone(), events.clone()));
    runtime.spawn(tick(events.clone()));
    runtime.spawn(crate::logs::keep_capped(state.head_log()));
    runtime.spawn(end_when_told(state.clone(), events.clone()));
    tracing::info!(cluster = %config.manifest.name, address = %endpoint.local_addr(), "the head is up");
    let core = Core::new(state.clone(), decider, authority, endpoint, events, runtime.handle().clone());
    let ended = core.run(inbox);
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

fn authority(state: &StateDir, cluster: &str) -> Result<Authority, ClusterError> {
    let dir = state.authority();
    if crate::host::is_folder(&dir) {
        return Ok(Authority::load(&dir)?);
    }
    let authority = Authority::create(cluster)?;
    authority.save(&dir)?;
    Ok(authority)
}

/// Binds where an earlier term was reached, so that agents and clients find this one; else where the manifest says.
fn bind(
    state: &StateDir,
    config: &HeadConfig,
    credentials: lyceum_wire::Credentials,
) -> Result<Endpoint, ClusterError> {
    let head = &config.manifest.head;
    // Of an interface with addresses of both families, that of the advertised one.
    let family = head.advertise.map(|ip| SocketAddr::new(ip, 0)).filter(|_| head.interface.is_some());
    let ip = crate::host::listen_address(head.bind, head.interface.as_deref(), family)
        .map_err(ClusterError::Refused)?;
    let wanted = SocketAddr::new(ip, config.manifest.ports.first);
    let known: Vec<String> = config.manifest.nodes.iter().map(|node| node.name.clone()).collect();
    let admission = Admission::by(move |peer| match peer.role() {
        PeerRole::Client => Ok(()),
        PeerRole::Agent if known.iter().any(|node| node == peer.node()) => Ok(()),
        PeerRole::Agent => Err(format!("the manifest has no node `{}`", peer.node())),
        role => Err(format!("a {role} may not speak to the head; it asks its node's agent")),
    });
    let options = |bind| EndpointOptions { admission: admission.clone(), ..EndpointOptions::new(bind) };
    if let Ok(earlier) = HeadAddress::load(state) {
        match Endpoint::bind(credentials.clone(), options(earlier.bound)) {
            Ok(endpoint) => return Ok(endpoint),
            Err(error) => tracing::warn!(%error, "the earlier address cannot be had again"),
        }
    }
    Ok(Endpoint::bind(credentials, options(wanted))?)
}

fn announce(state: &StateDir, config: &HeadConfig, bound: SocketAddr) -> Result<(), ClusterError> {
    let ip = config.manifest.head.advertise.unwrap_or(bound.ip());
    let address =
        HeadAddress { bound, advertised: SocketAddr::new(ip, bound.port()), pid: std::process::id() };
    write_json(&state.head_address(), &address)
}

fn options(config: &HeadConfig) -> HeadOptions {
    let health = config.manifest.health;
    HeadOptions {
        cluster: config.manifest.name.clone(),
        owned: config.owned,
        unreachable: Duration::from_secs_f64(health.unreachable),
        verdict: Duration::from_secs_f64(health.verdict),
        stop_grace: Duration::from_secs_f64(health.stop),
        cordon: CordonRule {
            failures: health.cordon_after,
            within: Duration::from_secs_f64(health.cordon_window),
        },
        nodes: config.manifest.nodes.iter().map(|node| (node.name.clone(), node_options(node))).collect(),
    }
}

fn node_options(node: &NodeSection) -> NodeOptions {
    let resources = &node.resources;
    NodeOptions {
        capacity: Capacity {
            cpus: resources.cpus,
            gpus: resources.gpus,
            memory: resources.memory.0,
            custom: resources.custom.clone(),
        },
        labels: node.labels.clone(),
    }
}

async fn tick(events: mpsc::Sender<Input>) {
    let mut interval = tokio::time::interval(Duration::from_millis(250));
    loop {
        interval.tick().await;
        if events.send(Input::Machine(HeadEvent::Tick)).await.is_err() {
            return;
        }
    }
}

async fn end_when_told(state: StateDir, events: mpsc::Sender<Input>) {
    let by = daemon::told_to_end(&state).await;
    let _ = events.send(Input::Machine(HeadEvent::Shutdown { by })).await;
}
