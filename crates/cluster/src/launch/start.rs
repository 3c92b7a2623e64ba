//! From hosts that were reached to nodes that have joined: the head is started, then the agents.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ends::Ends;
use super::hosts::{AgentLoss, Fault, Hosts};
use super::order::{AgentOrder, Secret};
use super::record::RunRecord;
use super::starter::{POLL, Starter, ended, loss, quoted, tail_of};
use crate::client::Client;
use crate::error::ClusterError;
use crate::head::{HeadAddress, HeadConfig};
use crate::host::ProcessMark;
use crate::manifest::Manifest;
use crate::state::StateDir;

/// Longest wait for the head to listen.
const HEAD_START: Duration = Duration::from_secs(20);
/// Hosts that others have now are looked for this often: it may take hours.
const AWAITED_POLL: Duration = Duration::from_millis(500);
/// Longest wait for all agents to join.
const JOIN: Duration = Duration::from_secs(30);

/// A cluster on its way up.
pub(super) struct Launch<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) state: StateDir,
    pub(super) record: RunRecord,
    pub(super) hosts: Hosts,
    pub(super) starter: Starter,
    pub(super) ends: Ends,
    /// Did the cluster run before?
    pub(super) found: bool,
    pub(super) started: bool,
}

impl Launch<'_> {
    /// Returns when all nodes have joined. What was started stays where one has not: whoever called ends it.
    pub(super) async fn start(&mut self, reached: Vec<Result<bool, Fault>>) -> Result<Client, ClusterError> {
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
        heads: &[SocketAddr],
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
        head: SocketAddr,
    ) -> Result<(), ClusterError> {
        let mut began = Instant::now();
        let joined = loop {
            if self.hosts.are_awaited() {
                tokio::time::sleep(AWAITED_POLL).await;
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
                    let title = match log.is_empty() {
                        true => format!("its agent {how}"),
                        false => format!("its agent {how}; the end of {log_file}:"),
                    };
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
        let others = |node: &str| match (joined.iter().any(|joined| joined == node), self.found) {
            (true, false) => "its agent joined, and was ended again",
            (true, true) => "its agent has joined, and goes on",
            (false, _) => "its agent was starting",
        };
        Err(not_started(self.manifest, faults, others))
    }
}

/// That all of `heads` have ended, if they have: how the first did.
pub(super) fn loss_of_all(
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
pub(super) fn not_started(
    manifest: &Manifest,
    mut faults: Vec<Fault>,
    others: impl Fn(&str) -> &'static str,
) -> ClusterError {
    let what = format!("cluster `{}`: {} of its nodes did not start", manifest.name, faults.len());
    for node in &manifest.nodes {
        if !faults.iter().any(|fault| fault.node == node.name) {
            faults.push(Fault::new(&node.name, others(&node.name)));
        }
    }
    ClusterError::Process { what, log: faults.iter().flat_map(Fault::lines).collect() }
}
