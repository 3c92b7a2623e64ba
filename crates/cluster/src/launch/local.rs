//! The local launcher: agents as processes of this machine.

use std::collections::BTreeMap;

use super::ends::Ends;
use super::hosts::{AgentLoss, Fault};
use super::order::AgentOrder;
use super::record::RunRecord;
use super::starter::{Starter, tail_of};
use crate::error::ClusterError;
use crate::host::ProcessMark;
use crate::manifest::Manifest;
use crate::state::StateDir;

/// This machine, as the host of all nodes.
#[derive(Debug)]
pub(super) struct Local {
    nodes: Vec<String>,
    state: StateDir,
    ends: Ends,
    agents: BTreeMap<String, ProcessMark>,
}

impl Local {
    pub(super) fn new(manifest: &Manifest, record: &RunRecord, state: StateDir, ends: Ends) -> Local {
        let nodes = manifest.nodes.iter().map(|node| node.name.clone()).collect();
        Local { nodes, state, ends, agents: record.agents.clone() }
    }

    pub(super) fn reach(&self) -> Vec<Result<bool, Fault>> {
        let lives = |node: &String| self.agents.get(node).is_some_and(ProcessMark::lives);
        self.nodes.iter().map(|node| Ok(lives(node))).collect()
    }

    pub(super) fn start(&mut self, starter: &Starter, orders: &[AgentOrder]) -> Vec<Fault> {
        let mut faults = Vec::new();
        for order in orders {
            let started = order.node().and_then(|node| Ok((node.name.clone(), order.carry_out(starter)?)));
            match started {
                Ok((node, mark)) => drop(self.agents.insert(node, mark)),
                Err(error) => faults.push(not_started(order, &error)),
            }
        }
        faults
    }

    pub(super) fn loss(&self, node: &str) -> Option<AgentLoss> {
        let mark = self.agents.get(node).filter(|mark| !mark.lives())?;
        let (log_file, log) = self.log(node);
        let who = format!("process {} of this machine", mark.pid);
        Some(AgentLoss { how: self.ends.in_words(*mark), who, log_file, log })
    }

    pub(super) fn log(&self, node: &str) -> (String, Vec<String>) {
        let path = self.state.agent_log(node);
        (path.display().to_string(), tail_of(&path))
    }

    pub(super) fn processes(&self) -> &BTreeMap<String, ProcessMark> {
        &self.agents
    }
}

fn not_started(order: &AgentOrder, error: &ClusterError) -> Fault {
    let node = order.node().map_or_else(|_| String::new(), |node| node.name.clone());
    Fault::new(&node, format!("its agent was not started: {error}"))
}
