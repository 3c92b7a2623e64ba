//! The head's process: the state machine of [`control::Head`](crate::control::Head), its database, its connections.
//!
//! One thread takes events in batches, commits the records of a batch, and then releases its effects; connections are
//! served beside it and only hand events in.

mod core;
pub(crate) mod database;
mod decide;
mod etcd;
mod places;
mod reaching;
mod sessions;
mod term;

use std::net::SocketAddr;
use std::time::Duration;

use lyceum_wire::Authority;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub(crate) use self::core::Input;
pub use self::decide::Decider;
pub(crate) use self::sessions::Beats;
#[cfg(test)]
pub(crate) use self::sessions::accept;
use crate::control::resources::Capacity;
use crate::control::{CordonRule, HeadEvent, HeadOptions, NodeOptions};
use crate::daemon;
use crate::error::ClusterError;
use crate::manifest::{MAX_STANDBYS, Manifest, NodeSection, StateStore};
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
        let path = state.head().join("config.json");
        let checked = read_json::<HeadConfig>(&path)?.checked();
        checked.map_err(|why| ClusterError::Refused(format!("{}: {why}", path.display())))
    }

    pub(crate) fn checked(self) -> Result<HeadConfig, String> {
        self.manifest.health.check().map(|()| self)
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
    /// That of the head.
    pub(crate) fn load(state: &StateDir) -> Result<HeadAddress, ClusterError> {
        read_json(&state.head_address())
    }

    /// That of the head, and of all that may be it, as far as they say.
    pub(crate) fn all(state: &StateDir) -> Vec<HeadAddress> {
        let candidates = (0..=MAX_STANDBYS).map(|number| state.candidate_address(number));
        std::iter::once(state.head_address())
            .chain(candidates)
            .filter_map(|path| read_json(&path).ok())
            .collect()
    }

    /// Where others reach the head, whichever of those that may be it leads.
    pub(crate) fn of_candidates(
        state: &StateDir,
        manifest: &Manifest,
    ) -> Result<Vec<SocketAddr>, ClusterError> {
        if manifest.head.standbys == 0 {
            return Ok(vec![HeadAddress::load(state)?.advertised]);
        }
        let candidates = (0..=manifest.head.standbys).map(|number| state.candidate_address(number));
        candidates.map(|path| read_json::<HeadAddress>(&path).map(|address| address.advertised)).collect()
    }
}

/// Runs the head of the cluster in `state` until it is told to end; where several stand by, as number `candidate` of them, from
/// 0. The body of `lyceum head`.
pub fn run(state: &StateDir, candidate: u32) -> Result<(), ClusterError> {
    let config = HeadConfig::load(state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("lyceum-head")
        .enable_all()
        .build()
        .map_err(ClusterError::system("start the head's threads"))?;
    let (tells, told) = watch::channel(None);
    let telling = state.clone();
    runtime.spawn(async move { tells.send_replace(Some(daemon::told_to_end(&telling).await)) });
    runtime.spawn(crate::logs::keep_capped(state.candidate_log(candidate)));
    let head = term::Candidate { state, config, number: candidate, runtime: &runtime, told };
    let ended = head.lead_until_told();
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended
}

/// Takes what a cluster has in etcd away, once no head of it runs any more: nobody else would know where it is. Where etcd does
/// not answer it stays.
pub(crate) fn forget_records(state: &StateDir) {
    let Ok(config) = HeadConfig::load(state) else { return };
    let StateStore::Etcd(members) = &config.manifest.head.state else { return };
    let Ok(authority) = Authority::load(&state.authority()) else { return };
    let prefix = etcd::prefix(&config.manifest.name, &authority.mark());
    if let Err(failure) = etcd::Etcd::of(members).forget(&prefix) {
        tracing::warn!(prefix, "the records of a cluster that has ended are left: {failure}");
    }
}

pub(crate) fn options(config: &HeadConfig) -> HeadOptions {
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

async fn tick(beats: Beats, events: mpsc::Sender<Input>) {
    let mut interval = tokio::time::interval(Duration::from_millis(250));
    loop {
        interval.tick().await;
        if events.send(Input::Tick(beats.take())).await.is_err() {
            return;
        }
    }
}

/// Ends the cluster when this process is told to end, or, where it `hands_over`, its own part in it.
async fn end_when_told(
    mut told: watch::Receiver<Option<String>>,
    hands_over: bool,
    events: mpsc::Sender<Input>,
) {
    let by = match told.wait_for(Option::is_some).await {
        Ok(by) => by.clone().unwrap_or_default(),
        Err(_) => return,
    };
    let input = match hands_over {
        true => Input::Deposed(format!("it is told to end by {by}")),
        false => Input::Machine(HeadEvent::Shutdown { by }),
    };
    let _ = events.send(input).await;
}
