//! The state of everything, for people and for tests.

use super::super::record::ActorState;
use super::super::resources::Capacity;
use super::super::vocabulary::{ActorStatus, HEAD_NODE, JobStatus, NodeStatus, Status, Warning};
use super::Head;
use super::nodes::{Node, Presence};

/// Warnings of one node.
const MAX_WARNINGS: usize = 64;
/// Characters of one.
const MAX_WARNING: usize = 1024;

impl Head {
    /// The state of everything.
    pub fn status(&self) -> Status {
        Status {
            cluster: self.options.cluster.clone(),
            owned: self.options.owned,
            nodes: self.nodes.iter().map(|(name, node)| self.node_status(name, node)).collect(),
            jobs: self
                .jobs
                .iter()
                .map(|(job, state)| JobStatus {
                    job: *job,
                    name: state.name.clone(),
                    ending: state.ended_by.is_some(),
                    actors: self.actors.values().filter(|actor| actor.request.job == *job).count() as u32,
                })
                .collect(),
            actors: self.actors.keys().filter_map(|actor| self.actor_status(*actor)).collect(),
            wanting: self.wanting(),
        }
    }

    fn node_status(&self, name: &str, node: &Node) -> NodeStatus {
        let state = match &node.presence {
            Presence::Absent => "absent".to_owned(),
            Presence::Joined => match node.closed() {
                None => "joined".to_owned(),
                Some(why) => format!("joined, closed: {why}"),
            },
            Presence::Unreachable => "unreachable".to_owned(),
            Presence::Lost { why, .. } => format!("lost: {why}"),
        };
        NodeStatus {
            name: name.to_owned(),
            state,
            joined: node.open(),
            incarnation: node.incarnation,
            address: node.address,
            pid: node.pid,
            capacity: if node.is_known() { node.capacity() } else { Capacity::default() },
            in_manifest: node.given.is_some(),
            gpus: node.offer.as_ref().map(|offer| offer.gpus.clone()).unwrap_or_default(),
            used: node.ledger.used().clone(),
            processes: self.processes.values().filter(|process| process.node == name).count() as u32,
            store: node.store,
        }
    }

    fn actor_status(&self, actor: u64) -> Option<ActorStatus> {
        let record = self.actors.get(&actor)?;
        let process = record.process.and_then(|process| Some((process, self.processes.get(&process)?)));
        let state = match process {
            None => &self.idle_state(actor, record),
            Some((_, process)) if process.stopped_by.is_some() => "stopping",
            Some((number, process)) if process.ready.is_some() => match self.stalls.get(&number) {
                Some(stall) => &format!("running, {stall}"),
                None => "running",
            },
            Some(_) => "starting",
        };
        Some(ActorStatus {
            actor,
            job: record.request.job,
            role: record.request.role.clone(),
            rank: record.seat.map(|seat| (seat.rank, seat.size)),
            name: record.request.name.clone(),
            namespace: record.request.namespace.clone(),
            state: state.to_owned(),
            node: process.map(|(_, process)| process.node.clone()).unwrap_or_default(),
            process: process.map_or(0, |(process, _)| process),
            pid: process.and_then(|(_, process)| process.ready).map_or(0, |(_, pid)| pid),
            address: process.and_then(|(_, process)| process.ready).map(|(address, _)| address),
            allotment: process.map(|(_, process)| process.allotment.clone()).unwrap_or_default(),
        })
    }

    /// What is said of an actor that has no process.
    fn idle_state(&self, actor: u64, record: &ActorState) -> String {
        let gang = record.seat.map(|seat| seat.gang);
        if self.restarts.is_resting(gang.unwrap_or(actor)) {
            return "waiting to be started again".to_owned();
        }
        match gang {
            None => format!("waiting for room: {}", self.waits_for(actor, &record.request)),
            Some(gang) if self.gang_is_ending(gang) => "waiting for the end of its gang".to_owned(),
            // Said once: it takes a look at every node.
            Some(gang) if !self.leads(actor, gang) => "waiting for room with its gang".to_owned(),
            Some(gang) => format!("waiting for room: {}", self.gang_waits_for(gang)),
        }
    }

    /// Takes in what `by`, a node or the head itself, has found to be wrong, in place of what it said before.
    pub(super) fn warned(&mut self, by: &str, warnings: Vec<String>) {
        let cut = |text: String| match text.char_indices().nth(MAX_WARNING) {
            Some((end, _)) => text[..end].to_owned(),
            None => text,
        };
        let warnings = warnings.into_iter().take(MAX_WARNINGS).map(cut).collect();
        self.warnings.insert(by.to_owned(), warnings);
    }

    /// What is wrong and costs speed, of those that are there.
    pub(super) fn all_warnings(&self) -> Vec<Warning> {
        let there = |by: &str| by == HEAD_NODE || self.nodes.get(by).is_some_and(Node::present);
        let there = self.warnings.iter().filter(|(by, _)| there(by));
        there
            .flat_map(|(by, texts)| {
                texts.iter().map(move |text| Warning { by: by.clone(), text: text.clone() })
            })
            .collect()
    }

    /// The node of a process that is not known to have ended.
    pub fn node_of(&self, process: u64) -> Option<String> {
        self.processes.get(&process).map(|state| state.node.clone())
    }
}
