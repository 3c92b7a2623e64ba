//! Starting a cluster, or finding it: what is the same for every launcher.
//!
//! A *standing* cluster's processes go on when [`up`] has returned; a second `up` of the same name finds them, and
//! starts those that have died. An *owned* cluster hangs on its runner: when the runner ends, however that comes, all of
//! it ends, and its keys go with it.
//!
//! The head is a process of this machine, whatever the launcher: what keeps the cluster's keys is where its user is.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::down::{clear, end_with};
use super::ends::Ends;
use super::hosts::{AgentLoss, Fault, Hosts};
use super::machine::{Machine, Unmet, unmet_by_head};
use super::order::{AgentOrder, Secret};
use super::record::{Lock, RunRecord};
use super::starter::{POLL, Starter, end_processes, ended, loss, quoted, tail_of, tether};
use crate::client::Client;
use crate::error::ClusterError;
use crate::head::{HeadAddress, HeadConfig};
use crate::host::ProcessMark;
use crate::host_memory::Memory;
use crate::manifest::{Launcher, Manifest};
use crate::state::{StateDir, remove};
use crate::strict::Source;
use crate::units::Bytes;

/// Longest wait for the head to listen.
const HEAD_START: Duration = Duration::from_secs(20);
/// Longest wait for all agents to join.
const JOIN: Duration = Duration::from_secs(30);

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
}

impl UpOptions {
    /// A standing cluster in `state`, of processes of `program` alone.
    pub fn at(state: StateDir, program: PathBuf) -> UpOptions {
        UpOptions { state, owned: false, program, companions: Vec::new() }
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
        Launcher::Ssh | Launcher::Slurm => None,
    })
}

/// Starts the cluster of `manifest`, or finds it: returns when all its nodes have joined. If one does not, whatever
/// was started is ended again, on every host, and the error says which one and why, with its last log lines.
pub async fn up(manifest: &Manifest, options: UpOptions) -> Result<Up, ClusterError> {
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
    let reached = hosts.reach().await?;
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
    match launch.start(reached).await {
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

struct Launch<'a> {
    manifest: &'a Manifest,
    state: StateDir,
    record: RunRecord,
    hosts: Hosts,
    starter: Starter,
    ends: Ends,
    /// Did the cluster run before?
    found: bool,
    started: bool,
}

impl Launch<'_> {
    async fn start(&mut self, reached: Vec<Result<bool, Fault>>) -> Result<Client, ClusterError> {
        let state = self.state.clone();
        for path in [state.head(), state.logs(), state.client()] {
            state.make(&path)?;
        }
        self.start_heads().await?;
        let heads = self.record.heads.clone();
        let started = tokio::select! {
            started = self.start_nodes(reached) => Some(started),
            () = all_ended(&heads) => None,
        };
        match started {
            Some(Ok(client)) => Ok(client),
            // Whatever failed, failed for the head's end, if it has ended.
            failed => {
                let who = format!("the head of cluster `{}`", self.manifest.name);
                let lost = loss_of_all(&who, &heads, &self.ends, &state);
                let error = failed.and_then(Result::err);
                Err(lost.or(error).unwrap_or_else(|| ClusterError::Refused(format!("{who} has ended"))))
            }
        }
    }

    /// Starts the head, and those that stand by for it, as far as they do not run; returns when one of them leads.
    async fn start_heads(&mut self) -> Result<(), ClusterError> {
        let state = self.state.clone();
        HeadConfig { manifest: self.manifest.clone(), owned: self.record.owned }.save(&state)?;
        for number in 0..=self.manifest.head.standbys {
            if self.record.heads.get(&number).is_some_and(ProcessMark::lives) {
                continue;
            }
            let candidate = number.to_string();
            let arguments: &[&str] = match number {
                0 => &["head"],
                _ => &["head", "--candidate", &candidate],
            };
            let mark = self.starter.start(arguments, &state.candidate_log(number))?;
            self.started = true;
            self.record.heads.insert(number, mark);
            self.record.save(&state)?;
        }
        let began = Instant::now();
        while !self.a_head_leads() {
            let who = format!("the head of cluster `{}`", self.manifest.name);
            let ended = self.record.heads.iter().find_map(|(number, mark)| {
                let who = match number {
                    0 => who.clone(),
                    number => format!("{who}, standby {number},"),
                };
                loss(&who, *mark, &self.ends, &state.candidate_log(*number))
            });
            if let Some(ended) = ended {
                return Err(ended);
            }
            if began.elapsed() > HEAD_START {
                let what = format!("{who} does not listen");
                return Err(ClusterError::Process { what, log: tail_of(&state.head_log()) });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Does one of those that may be the head say that it is, and do the others say where they will listen?
    fn a_head_leads(&self) -> bool {
        let leads = |address: HeadAddress| {
            self.record.heads.values().any(|mark| mark.pid == address.pid && mark.lives())
        };
        let stand_by = || HeadAddress::of_candidates(&self.state, self.manifest).is_ok();
        HeadAddress::load(&self.state).is_ok_and(leads) && stand_by()
    }

    async fn start_nodes(&mut self, reached: Vec<Result<bool, Fault>>) -> Result<Client, ClusterError> {
        let client = Client::connect(&self.state).await?;
        let heads = HeadAddress::of_candidates(&self.state, self.manifest)?;
        let head = HeadAddress::load(&self.state)?.advertised;
        let (mut orders, mut faults) = (Vec::new(), Vec::new());
        for (index, reached) in reached.into_iter().enumerate() {
            match reached {
                Ok(true) if self.found => {}
                Ok(_) => orders.push(self.order(index, &heads, &client).await?),
                Err(fault) => faults.push(fault),
            }
        }
        self.started |= !orders.is_empty();
        faults.extend(self.hosts.start(&self.starter, orders).await?);
        self.record.agents = self.hosts.processes();
        self.record.save(&self.state)?;
        self.wait_for_nodes(&client, faults, head).await?;
        Ok(client)
    }

    async fn order(
        &self,
        index: usize,
        heads: &[std::net::SocketAddr],
        client: &Client,
    ) -> Result<AgentOrder, ClusterError> {
        let node = &self.manifest.nodes[index];
        let credentials = client.issue_node(&node.name).await?;
        let (manifest, its_index) = self.manifest.of_host(index);
        Ok(AgentOrder {
            manifest,
            index: its_index,
            owned: self.record.owned,
            ports: self.manifest.node_ports(index),
            heads: heads.to_vec(),
            credentials: Secret::of(&credentials),
        })
    }

    /// Waits for all nodes but those with faults, and for those that fail now not at all.
    async fn wait_for_nodes(
        &mut self,
        client: &Client,
        mut faults: Vec<Fault>,
        head: std::net::SocketAddr,
    ) -> Result<(), ClusterError> {
        let mut began = Instant::now();
        let joined = loop {
            if self.hosts.are_awaited() {
                began = Instant::now();
            }
            let status = client.status().await?;
            let joined: Vec<String> =
                status.nodes.iter().filter(|node| node.joined).map(|node| node.name.clone()).collect();
            let failed = |faults: &[Fault], node: &str| faults.iter().any(|fault| fault.node == node);
            let names = self.manifest.nodes.iter().map(|node| node.name.as_str());
            let absent: Vec<&str> = names
                .filter(|node| !failed(&faults, node) && !joined.iter().any(|joined| joined == node))
                .collect();
            let mut lost = false;
            for node in &absent {
                if let Some(AgentLoss { how, log_file, log, .. }) = self.hosts.loss(node) {
                    let title = format!("its agent {how}; the end of {log_file}:");
                    faults.push(Fault { node: (*node).to_owned(), said: quoted(title, log) });
                    lost = true;
                }
            }
            let late = !absent.is_empty() && began.elapsed() > JOIN;
            if late {
                for node in absent.iter().filter(|node| !failed(&faults, node)).copied().collect::<Vec<_>>() {
                    let (file, log) = self.hosts.log(node).await;
                    let seconds = JOIN.as_secs();
                    let title = format!(
                        "its agent did not join the head at {head} within {seconds} s; the end of {file}:"
                    );
                    faults.push(Fault { node: node.to_owned(), said: quoted(title, log) });
                }
            }
            if absent.is_empty() || lost || late {
                break joined;
            }
            tokio::time::sleep(POLL).await;
        };
        if faults.is_empty() {
            return Ok(());
        }
        let (found, suffix) = (self.found, ["and was ended again", "and goes on"]);
        let others = |node: &str| match (joined.iter().any(|joined| joined == node), found) {
            (true, false) => format!("its agent joined, {}", suffix[0]),
            (true, true) => format!("its agent has joined, {}", suffix[1]),
            (false, _) => "its agent was starting".to_owned(),
        };
        Err(not_started(self.manifest, faults, others))
    }
}

/// That all of `heads` have ended, if they have: how the first did.
fn loss_of_all(
    who: &str,
    heads: &BTreeMap<u32, ProcessMark>,
    ends: &Ends,
    state: &StateDir,
) -> Option<ClusterError> {
    let (_, first) = heads.first_key_value().filter(|_| !heads.values().any(ProcessMark::lives))?;
    loss(who, *first, ends, &state.head_log())
}

async fn all_ended(heads: &BTreeMap<u32, ProcessMark>) {
    for head in heads.values() {
        ended(*head).await;
    }
}

/// That nodes did not start, each with its own reason, and what became of the others.
fn not_started<T: Into<String>>(
    manifest: &Manifest,
    mut faults: Vec<Fault>,
    others: impl Fn(&str) -> T,
) -> ClusterError {
    let what = format!("cluster `{}`: {} of its nodes did not start", manifest.name, faults.len());
    for node in &manifest.nodes {
        if !faults.iter().any(|fault| fault.node == node.name) {
            faults.push(Fault::new(&node.name, others(&node.name)));
        }
    }
    ClusterError::Process { what, log: faults.iter().flat_map(Fault::lines).collect() }
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
