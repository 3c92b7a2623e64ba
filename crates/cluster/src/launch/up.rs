//! Starting a cluster, or finding it: what is the same for every launcher.
//!
//! A *standing* cluster's processes go on when [`up`] has returned; a second `up` of the same name finds them, and
//! starts those that have died. An *owned* cluster hangs on its runner: when the runner ends, however that comes, all of
//! it ends, and its keys go with it.
//!
//! The head is a process of this machine, whatever the launcher: what keeps the cluster's keys is where its user is.

use std::collections::BTreeMap;
use std::fs;
use std::future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use super::down::{clear, end_with};
use super::ends::Ends;
use super::hosts::{AgentLoss, Hosts};
use super::machine::{Machine, Unmet, unmet_by_head};
use super::pods::MakePods;
use super::record::{Lock, RunRecord};
use super::start::{Launch, loss_of_all, not_started};
use super::starter::{Starter, end_processes, tether};
use crate::client::Client;
use crate::error::ClusterError;
use crate::head::HeadConfig;
use crate::host::ProcessMark;
use crate::host_memory::Memory;
use crate::manifest::{Launcher, Manifest};
use crate::state::{StateDir, remove};
use crate::strict::Source;
use crate::units::Bytes;

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Where it keeps its state.
    pub state: StateDir,
    /// Does it end with this process?
    pub owned: bool,
    /// The program whose `head`, `agent` and `host` commands are run.
    pub program: PathBuf,
    /// Further programs that actors may be started from: they lie beside `program` on every host.
    pub companions: Vec<PathBuf>,
    /// The launcher `kubernetes`, where this program has it.
    pub pods: Option<MakePods>,
}

impl UpOptions {
    /// A standing cluster in `state`, of processes of `program` alone.
    pub fn at(state: StateDir, program: PathBuf) -> UpOptions {
        UpOptions { state, owned: false, program, companions: Vec::new(), pods: None }
    }

    /// A standing cluster in the default place, run by this very program.
    pub fn standing(manifest: &Manifest) -> Result<UpOptions, ClusterError> {
        let program = std::env::current_exe().map_err(ClusterError::system("find this program"))?;
        Ok(UpOptions::at(StateDir::of(&manifest.name)?, program))
    }
}

/// A cluster that is up.
#[derive(Debug)]
pub struct Up {
    /// A connection to its head.
    pub client: Client,
    /// Where it keeps its state.
    pub state: StateDir,
    /// Was any of its processes started now, or did all run before?
    pub started: bool,
    heads: BTreeMap<u32, ProcessMark>,
    nodes: Vec<String>,
    hosts: Hosts,
    ends: Ends,
    /// For an owned cluster: at its end the cluster ends.
    tether: Option<OwnedFd>,
}

impl Up {
    /// Does the cluster end with this process?
    pub fn is_owned(&self) -> bool {
        self.tether.is_some()
    }

    /// The end of the head's process, if it has ended, and all that could take over: seen at once, long before its silence
    /// tells of it. It says how the process ended where this one started it, and has its last log lines.
    pub fn head_loss(&self) -> Option<ClusterError> {
        loss_of_all("the head", &self.heads, &self.ends, &self.state)
    }

    /// As [`head_loss`](Self::head_loss), for the agent of `node`. On another host only that of an owned cluster is seen.
    pub fn agent_loss(&self, node: &str) -> Option<ClusterError> {
        let AgentLoss { how, who, log, .. } = self.hosts.loss(node)?;
        Some(ClusterError::Process { what: format!("the agent of node `{node}`, {who}, {how}"), log })
    }

    /// The ends of all processes of the cluster that have ended, the head's first.
    pub fn losses(&self) -> Vec<ClusterError> {
        let agents = self.nodes.iter().filter_map(|node| self.agent_loss(node));
        self.head_loss().into_iter().chain(agents).collect()
    }

    /// Kills the cluster without asking it; returns when nothing of it runs any more.
    pub async fn kill(self) -> Result<(), ClusterError> {
        self.end(false).await
    }

    /// [`kill`](Self::kill)s a cluster that was started for one run, and leaves one that stands alone.
    pub async fn kill_if_owned(self) -> Result<(), ClusterError> {
        if self.is_owned() { self.kill().await } else { Ok(()) }
    }

    /// Ends the cluster; returns when nothing of it runs any more.
    pub async fn down(self) -> Result<(), ClusterError> {
        self.end(true).await
    }

    async fn end(self, ask: bool) -> Result<(), ClusterError> {
        let Up { client, state, hosts, tether, .. } = self;
        drop(client);
        let _lock = Lock::take(&state).await?;
        let ended = end_with(&state, Ok(Some(hosts)), ask).await.map(drop);
        drop(tether);
        ended
    }
}

/// The memory that processes of this machine may use, which nodes have that say nothing of theirs; `None` where it cannot
/// be told.
pub fn machine_memory() -> Option<Bytes> {
    Memory::here().map(|memory| Bytes(memory.bytes))
}

/// Whether [`up`] could have the cluster of `manifest` here and now, before anything is touched. What this machine does
/// not have is refused at its place in `text`, the manifest's; so is a cluster that another has. Other hosts are not asked.
pub fn check(manifest: &Manifest, text: &Source, options: &UpOptions) -> Result<(), ClusterError> {
    if let Some(unmet) = unmet_here(manifest) {
        return Err(text.refuse(&unmet.key, unmet.message).into());
    }
    check_found(manifest, options, &RunRecord::load(&options.state), false).map(drop)
}

/// What this machine lacks for its part of the cluster.
fn unmet_here(manifest: &Manifest) -> Option<Unmet> {
    unmet_by_head(manifest).or_else(|| match manifest.launcher {
        Launcher::Local => Machine::here().shares(manifest).err(),
        Launcher::Ssh | Launcher::Slurm | Launcher::Kubernetes => None,
    })
}

/// Starts the cluster of `manifest`, or finds it: returns when all its nodes have joined. If one does not, whatever
/// was started is ended again, on every host, and the error says which one and why, with its last log lines.
pub async fn up(manifest: &Manifest, options: UpOptions) -> Result<Up, ClusterError> {
    up_unless(manifest, options, future::pending()).await
}

/// As [`up`], until `cancelled` is there: then whatever was started is ended again, as after a failure, and what ran before
/// goes on.
pub async fn up_unless(
    manifest: &Manifest,
    options: UpOptions,
    cancelled: impl Future<Output = ()>,
) -> Result<Up, ClusterError> {
    let mut cancelled = pin!(cancelled);
    let interrupted = || {
        let name = &manifest.name;
        ClusterError::Refused(format!("cluster `{name}`: interrupted; what was started has been ended again"))
    };
    if let Some(Unmet { key, message }) = unmet_here(manifest) {
        return Err(ClusterError::Refused(format!("cluster `{}`: `{key}`: {message}", manifest.name)));
    }
    let state = options.state.clone();
    state.make(state.root())?;
    let _lock = Lock::take(&state).await?;
    let mut record = RunRecord::load(&state);
    check_found(manifest, &options, &record, false)?;
    let ends = Ends::default();
    let mut hosts = Hosts::of(manifest, &options, &record, ends.clone())?;
    let reached = tokio::select! {
        reached = hosts.reach() => reached?,
        () = &mut cancelled => return Err(interrupted()),
    };
    let agents_live = reached.iter().any(|reached| matches!(reached, Ok(true)));
    let found = check_found(manifest, &options, &record, agents_live)?;
    if !found && reached.iter().any(Result::is_err) {
        hosts.give_up(true).await;
        let faults = reached.iter().filter_map(|reached| reached.as_ref().err().cloned()).collect();
        let others = "its host was ready, and nothing was started there";
        return Err(not_started(manifest, faults, |_| others));
    }
    if !found {
        end_processes(record.living_and_strays(&state), Duration::ZERO).await;
        clear(&state)?;
        set_logs_aside(&state)?;
        record = RunRecord { owned: options.owned, ..RunRecord::default() };
    }
    record.programs = std::iter::once(&options.program).chain(&options.companions).cloned().collect();
    let tether = if options.owned && !found { Some(tether()?) } else { None };
    let (theirs, ours) = tether.unzip();
    let starter = Starter::new(options.program.clone(), state.clone(), theirs, ends.clone());
    let mut launch = Launch { manifest, state, record, hosts, starter, ends, found, started: false };
    let started = tokio::select! {
        started = launch.start(reached) => started,
        () = &mut cancelled => Err(interrupted()),
    };
    match started {
        Ok(client) => {
            let Launch { state, record, mut hosts, ends, started, .. } = launch;
            if !record.owned {
                hosts.leave_standing().await;
            }
            let nodes = manifest.nodes.iter().map(|node| node.name.clone()).collect();
            Ok(Up { client, state, started, heads: record.heads, nodes, hosts, ends, tether: ours })
        }
        Err(error) => {
            launch.hosts.give_up(!found).await;
            if !found {
                end_processes(launch.record.living_and_strays(&launch.state), Duration::ZERO).await;
                clear(&launch.state)?;
            }
            Err(error)
        }
    }
}

/// Does a cluster of this name run that can be taken as it is?
fn check_found(
    manifest: &Manifest,
    options: &UpOptions,
    record: &RunRecord,
    agents_live: bool,
) -> Result<bool, ClusterError> {
    let name = &manifest.name;
    let state = &options.state;
    // Agents alone are a cluster's only as long as there is what a new head begins with.
    let agents_live = !record.living().is_empty() || (agents_live && state.authority().is_dir());
    if !record.head_lives() && (record.owned || !agents_live) {
        return Ok(false);
    }
    if record.owned {
        return Err(ClusterError::Refused(format!(
            "cluster `{name}` runs and belongs to another `lyceum run`: wait for its end, or `lyceum down {name}`"
        )));
    }
    let same = HeadConfig::load(state).is_ok_and(|config| {
        serde_json::to_value(&config.manifest).ok() == serde_json::to_value(manifest).ok()
    });
    match same {
        true => Ok(true),
        false => Err(ClusterError::Refused(format!(
            "cluster `{name}` runs with another manifest: `lyceum down {name}` first, or give this one another name"
        ))),
    }
}

/// Keeps the logs of the last cluster of this name, and none older: actors and processes are numbered anew, and nobody's
/// last log lines may be a namesake's.
fn set_logs_aside(state: &StateDir) -> Result<(), ClusterError> {
    let (logs, aside) = (state.logs(), state.old_logs());
    if !logs.is_dir() {
        return Ok(());
    }
    remove(&aside)?;
    fs::rename(&logs, &aside).map_err(|error| ClusterError::file(&logs, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_of_the_last_cluster_are_kept_apart_and_older_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path());
        set_logs_aside(&state).unwrap();
        for term in ["first", "second", "third"] {
            state.make(&state.logs()).unwrap();
            fs::write(state.head_log(), term).unwrap();
            set_logs_aside(&state).unwrap();
            assert!(!state.logs().exists());
            assert_eq!(fs::read_to_string(state.old_logs().join("head.log")).unwrap(), term);
        }
    }
}
