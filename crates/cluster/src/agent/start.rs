//! What a worker is started with, whichever way it is started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use super::{AGENT_VARIABLE, STORE_VARIABLE};
use crate::birth::Order;
use crate::spawn::{self, Preparation};

/// A worker that is to be started.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    /// Variables that its spawner asked for.
    pub(super) own_variables: BTreeMap<String, String>,
    /// Variables that its agent gives it, which win.
    pub(super) variables: Vec<(&'static str, String)>,
    /// Its end of the socket to the agent.
    pub(super) control: OwnedFd,
    /// Its end of the socket to the node's store.
    pub(super) store: OwnedFd,
    pub(super) log: File,
    /// The cores that it may use; empty: as the agent.
    pub(super) cores: Vec<u32>,
    /// `cgroup.procs` of the group it joins, open for writing.
    pub(super) cgroup: Option<OwnedFd>,
    /// It may be forked from a template of its program.
    pub(super) by_template: bool,
}

impl Start {
    /// Whether a process that was forked from a template would be the same: what a library reads when it is loaded it has read in
    /// the template, so that a spawner's own variables would come too late for it.
    pub(super) fn can_be_forked(&self) -> bool {
        self.by_template && self.own_variables.is_empty()
    }

    /// For a newborn.
    pub(super) fn order(&self) -> Order {
        let variables = self.variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Order { agent: std::process::id(), cores: self.cores.clone(), variables: variables.collect() }
    }

    /// What a newborn takes over, in the order that it expects.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let always = [self.control.as_fd(), self.store.as_fd(), self.log.as_fd()];
        always.into_iter().chain(self.cgroup.as_ref().map(AsFd::as_fd)).collect()
    }

    /// Starts the program anew.
    pub(super) fn command(self) -> io::Result<Command> {
        let Start { program, own_variables, variables, control, store, log, cores, cgroup, .. } = self;
        let mut command = Command::new(program);
        command.arg("worker").envs(own_variables).envs(variables);
        command.env(AGENT_VARIABLE, control.as_raw_fd().to_string());
        command.env(STORE_VARIABLE, store.as_raw_fd().to_string());
        command.env_remove(crate::daemon::TETHER_VARIABLE);
        let errors = log.try_clone()?;
        command.stdout(log).stderr(errors);
        let inherited = vec![control, store];
        let preparation =
            Preparation { dies_with_parent: true, own_session: false, cores, inherited, cgroup };
        spawn::prepare(&mut command, preparation);
        Ok(command)
    }
}
