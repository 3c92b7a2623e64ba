//! Who is told when a process is gone.

use std::collections::BTreeSet;

use lyceum_actor::{Cause, ProcessAddress, ProcessDeath, ProcessKind};

use super::{Agent, AgentEffect, Watch, Watcher};
use crate::control::vocabulary::CLIENT_NODE;

/// Lost nodes that are remembered for those who ask late: names may come and go.
const MAX_LOST: usize = 10_000;

impl Agent {
    pub(super) fn watch(&mut self, watcher: Watcher, target: ProcessAddress) {
        let claim = (target.process, target.node.clone());
        // An address in a message may be wrong. What is said of a process goes to those who mean that of this node; of what
        // nobody could be, nothing is said.
        let is_on_a_node = match target.kind {
            ProcessKind::Worker => true,
            ProcessKind::Client => false,
            ProcessKind::Head | ProcessKind::Agent => return,
        };
        if is_on_a_node == (target.node == CLIENT_NODE) {
            return;
        }
        let here = target.node == self.options.node;
        if here && !self.processes.contains_key(&target.process) {
            let death = self.death_of(&target);
            return self.tell(&watcher, death);
        }
        if let Some((before, reason)) = self.lost.get(&target.node)
            && target.process < *before
        {
            let cause = Cause::NodeLost(reason.clone());
            let (process, node) = (target.process, target.node);
            let death = ProcessDeath { process, node, cause, log_tail: Vec::new() };
            return self.tell(&watcher, death);
        }
        let entry = self
            .watches
            .entry(claim)
            .or_insert_with(|| Watch { target: target.clone(), watchers: BTreeSet::new() });
        let first = entry.watchers.is_empty();
        let news = entry.watchers.insert(watcher.clone());
        match watcher {
            Watcher::Worker(watcher) if !is_on_a_node && news => {
                self.effects.push(AgentEffect::WatchAtHead { watcher, target });
            }
            Watcher::Worker(_) if is_on_a_node && !here && first => {
                self.effects.push(AgentEffect::WatchAt(target));
            }
            _ => {}
        }
    }

    pub(super) fn watch_at_head_again(&mut self) {
        for watch in self.watches.values().filter(|watch| watch.target.kind == ProcessKind::Client) {
            let worker = watch.watchers.iter().find_map(|watcher| match watcher {
                Watcher::Worker(process) => Some(*process),
                Watcher::Agent(_) => None,
            });
            if let Some(watcher) = worker {
                self.effects.push(AgentEffect::WatchAtHead { watcher, target: watch.target.clone() });
            }
        }
    }

    pub(super) fn death_of(&self, target: &ProcessAddress) -> ProcessDeath {
        let known = self.deaths.iter().rev().find(|death| death.process == target.process);
        known.cloned().unwrap_or_else(|| ProcessDeath {
            process: target.process,
            node: target.node.clone(),
            cause: Cause::Unknown("its agent knows of no such process; it ended long ago".into()),
            log_tail: Vec::new(),
        })
    }

    pub(super) fn tell_watchers(&mut self, death: &ProcessDeath) {
        let Some(watch) = self.watches.remove(&(death.process, death.node.clone())) else { return };
        for watcher in watch.watchers {
            self.tell(&watcher, death.clone());
        }
    }

    pub(super) fn tell(&mut self, watcher: &Watcher, death: ProcessDeath) {
        self.effects.push(match watcher {
            Watcher::Worker(process) => AgentEffect::TellWorker { process: *process, death },
            Watcher::Agent(node) => AgentEffect::TellAgent { node: node.clone(), death },
        });
    }

    pub(super) fn node_lost(&mut self, node: String, before: u64, reason: String) {
        if node == self.options.node {
            return;
        }
        let is_gone = |(process, on): &&(u64, String)| *on == node && *process < before;
        let gone: Vec<u64> = self.watches.keys().filter(is_gone).map(|(process, _)| *process).collect();
        for process in gone {
            let cause = Cause::NodeLost(reason.clone());
            self.tell_watchers(&ProcessDeath { process, node: node.clone(), cause, log_tail: Vec::new() });
        }
        // There is a verdict: it is silent no longer.
        if self.silent.remove(&node) {
            self.effects.push(AgentEffect::TellSuspicion { node: node.clone(), unreachable: false });
        }
        self.effects.push(AgentEffect::PeerLost { node: node.clone() });
        self.lost.insert(node, (before, reason));
        if self.lost.len() > MAX_LOST
            && let Some(oldest) =
                self.lost.iter().min_by_key(|(_, (before, _))| *before).map(|(node, _)| node.clone())
        {
            self.lost.remove(&oldest);
        }
    }
}
