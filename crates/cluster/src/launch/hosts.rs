//! What is a launcher's own: how the hosts of the nodes are reached, and how agents are started, watched and ended there.
//! Everything else of `up` and `down` is the same for all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ends::Ends;
use super::local::Local;
use super::order::AgentOrder;
use super::pods::{Pods, pods_of};
use super::record::RunRecord;
use super::slurm::Slurm;
use super::ssh::Ssh;
use super::starter::Starter;
use super::up::UpOptions;
use crate::error::ClusterError;
use crate::host::ProcessMark;
use crate::manifest::{Launcher, Manifest};

/// What went wrong with one node, to be said of it alone.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(super) node: String,
    /// A sentence about it, and what its host or `ssh` said.
    pub(super) said: Vec<String>,
}

impl Fault {
    /// `said` of `node`: the sentence after its name.
    pub fn new(node: &str, said: impl Into<String>) -> Fault {
        Fault { node: node.to_owned(), said: vec![said.into()] }
    }

    /// The lines of an error message.
    pub fn lines(&self) -> Vec<String> {
        let mut said = self.said.iter();
        let first = said.next().map(|said| format!("node `{}`: {said}", self.node));
        first.into_iter().chain(said.cloned()).collect()
    }
}

/// How an agent has ended, as far as its launcher can tell: `its agent ...`, and the end of its log.
#[derive(Debug, Clone)]
pub struct AgentLoss {
    /// The rest of a sentence that begins with the agent: `has ended`.
    pub how: String,
    /// Where it ran, as a part of that sentence: `process 7 of this machine`.
    pub who: String,
    /// Where its log is, or was.
    pub log_file: String,
    /// The last lines of its log.
    pub log: Vec<String>,
}

/// The hosts of a cluster's nodes.
#[derive(Debug)]
pub(super) enum Hosts {
    Local(Local),
    Ssh(Box<Ssh>),
    Slurm(Box<Slurm>),
    Pods(Box<dyn Pods>),
}

impl Hosts {
    /// Nothing is touched yet.
    pub(super) fn of(
        manifest: &Manifest,
        options: &UpOptions,
        record: &RunRecord,
        ends: Ends,
    ) -> Result<Hosts, ClusterError> {
        Ok(match manifest.launcher {
            Launcher::Local => Hosts::Local(Local::new(manifest, record, options.state.clone(), ends)),
            Launcher::Ssh => Hosts::Ssh(Box::new(Ssh::new(manifest, options)?)),
            Launcher::Slurm => Hosts::Slurm(Box::new(Slurm::new(manifest, options))),
            Launcher::Kubernetes => Hosts::Pods(pods_of(manifest, options)?),
        })
    }

    /// Makes every host ready for an agent. Tells of each node, in the manifest's order, whether its agent runs already, or
    /// why its host cannot be used.
    pub(super) async fn reach(&mut self) -> Result<Vec<Result<bool, Fault>>, ClusterError> {
        match self {
            Hosts::Local(local) => Ok(local.reach()),
            Hosts::Ssh(ssh) => Ok(ssh.reach().await),
            Hosts::Slurm(slurm) => slurm.reach().await,
            Hosts::Pods(pods) => pods.reach().await,
        }
    }

    /// Starts agents on hosts that were reached, those of this machine through `starter`, and tells which could not be.
    /// On other machines whatever is left of an earlier agent of the node is ended first.
    pub(super) async fn start(
        &mut self,
        starter: &Starter,
        orders: Vec<AgentOrder>,
    ) -> Result<Vec<Fault>, ClusterError> {
        match self {
            Hosts::Local(local) => Ok(local.start(starter, &orders)),
            Hosts::Ssh(ssh) => Ok(ssh.start(orders).await),
            Hosts::Slurm(slurm) => slurm.start(&orders).await,
            Hosts::Pods(pods) => pods.start(orders).await,
        }
    }

    /// Are hosts being waited for that others have now? That is no agent's delay.
    pub(super) fn are_awaited(&self) -> bool {
        match self {
            Hosts::Local(_) | Hosts::Ssh(_) => false,
            Hosts::Slurm(slurm) => slurm.is_queued(),
            Hosts::Pods(pods) => pods.are_awaited(),
        }
    }

    /// How the agent of `node` has ended; nothing while it runs, or where this process cannot tell.
    pub(super) fn loss(&self, node: &str) -> Option<AgentLoss> {
        match self {
            Hosts::Local(local) => local.loss(node),
            Hosts::Ssh(ssh) => ssh.loss(node),
            Hosts::Slurm(slurm) => slurm.loss(node),
            Hosts::Pods(pods) => pods.loss(node),
        }
    }

    /// What the log of the agent of `node` ends with, and where it is.
    pub(super) async fn log(&mut self, node: &str) -> (String, Vec<String>) {
        match self {
            Hosts::Local(local) => local.log(node),
            Hosts::Ssh(ssh) => ssh.log(node).await,
            Hosts::Slurm(slurm) => slurm.log(node),
            Hosts::Pods(pods) => pods.log(node).await,
        }
    }

    /// The agents' processes, where they are of this machine.
    pub(super) fn processes(&self) -> BTreeMap<String, ProcessMark> {
        match self {
            Hosts::Local(local) => local.processes().clone(),
            Hosts::Ssh(_) | Hosts::Slurm(_) | Hosts::Pods(_) => BTreeMap::new(),
        }
    }

    /// All agents have joined: those of a standing cluster go on without this process.
    pub(super) async fn leave_standing(&mut self) {
        match self {
            Hosts::Local(_) | Hosts::Slurm(_) | Hosts::Pods(_) => {}
            Hosts::Ssh(ssh) => ssh.leave_standing().await,
        }
    }

    /// Ends the agents that this process has started, and with `all` every other of the cluster on hosts that were reached.
    /// Those of this machine are ended by whoever has their record.
    pub(super) async fn give_up(&mut self, all: bool) {
        match self {
            Hosts::Local(_) => {}
            Hosts::Ssh(ssh) => ssh.give_up(all).await,
            Hosts::Slurm(slurm) => slurm.give_up(all).await,
            Hosts::Pods(pods) => pods.give_up(all).await,
        }
    }

    /// Ends all agents on other machines, after `patience`, and removes what they leave there. Tells whether there were
    /// any, and of which nodes that cannot be said.
    pub(super) async fn end(&mut self, patience: Duration) -> Result<(bool, Vec<Fault>), ClusterError> {
        match self {
            Hosts::Local(_) => Ok((false, Vec::new())),
            Hosts::Ssh(ssh) => Ok(ssh.end(patience).await),
            Hosts::Slurm(slurm) => Ok((slurm.end().await?, Vec::new())),
            Hosts::Pods(pods) => pods.end().await,
        }
    }
}
