//! Nodes that take nothing new: cordoned by a person or for their failures, or drained.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lyceum_actor::Cause;

use super::super::placement;
use super::super::record::{Closure, GangEnding, Key};
use super::super::resources::Request;
use super::super::vocabulary::{Answer, Origin};
use super::Head;

/// When a node is cordoned for its failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CordonRule {
    /// So many actors must have failed on it; 0: never.
    pub failures: u32,
    /// Within this time.
    pub within: Duration,
}

/// Failures that are remembered.
const MAX_FAILURES: usize = 4096;

/// The failures of actors of late, oldest first. Of one term only.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures(VecDeque<Failure>);

#[derive(Debug, Clone)]
struct Failure {
    at: Duration,
    node: String,
    actor: u64,
    role: String,
}

impl Failures {
    fn push(&mut self, failure: Failure) {
        if self.0.len() == MAX_FAILURES {
            self.0.pop_front();
        }
        self.0.push_back(failure);
    }

    /// Forgets those that are `within` past.
    fn expire(&mut self, within: Duration, now: Duration) {
        self.0.retain(|failure| now.saturating_sub(failure.at) < within);
    }

    /// How often actors of `role` failed of late, by node: they go elsewhere first.
    pub(super) fn of_role(&self, role: &str) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for failure in self.0.iter().filter(|failure| failure.role == role) {
            *counts.entry(&*failure.node).or_default() += 1;
        }
        counts
    }

    /// The actors whose failures speak against `node`: a role that fails on others too has itself to blame.
    fn against(&self, node: &str) -> usize {
        let elsewhere: BTreeSet<&str> =
            self.0.iter().filter(|failure| failure.node != node).map(|failure| &*failure.role).collect();
        let here = self.0.iter().filter(|failure| failure.node == node);
        let its = here.filter(|failure| !elsewhere.contains(&*failure.role));
        its.map(|failure| failure.actor).collect::<BTreeSet<u64>>().len()
    }
}

impl Head {
    pub(super) fn forget_old_failures(&mut self) {
        self.failures.expire(self.options.cordon.within, self.now);
    }

    /// An actor has failed on `name`. Where it is one too many, the node takes nothing new until a person says so, unless
    /// no other that takes anything could hold the actor: then its failures say nothing of the node.
    pub(super) fn note_failure(&mut self, name: &str, actor: u64, cause: &Cause) {
        let CordonRule { failures, within } = self.options.cordon;
        // Of a lost node there is a verdict already.
        if matches!(cause, Cause::NodeLost(_) | Cause::Unknown(_)) {
            return;
        }
        let Some(role) = self.actors.get(&actor).map(|state| state.request.role.clone()) else { return };
        self.forget_old_failures();
        let failure = Failure { at: self.now, node: name.to_owned(), actor, role: role.clone() };
        self.failures.push(failure);
        let count = self.failures.against(name);
        if failures == 0 || count < failures as usize || !self.goes_elsewhere(actor, name) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(name).filter(|node| node.closure.is_none()) {
            let seconds = within.as_secs();
            let why = format!("{count} actors failed on it within {seconds} s, the last, a {role}: {cause}");
            tracing::warn!(node = name, why, "a node is cordoned");
            node.closure = Some(Closure { why, empty_within_ms: None });
            self.dirty.insert(Key::Node(name.to_owned()));
        }
    }

    /// Whether an actor could be on another node than `name` that takes anything now.
    fn goes_elsewhere(&self, actor: u64, name: &str) -> bool {
        let Some(state) = self.actors.get(&actor) else { return false };
        let others =
            self.candidates(&state.request.role).filter(|node| node.name != name && node.closed.is_none());
        placement::possible(others, &Request::from(&state.request)).is_ok()
    }

    /// A person orders that `name` takes nothing new. If it is being drained, that goes on.
    pub(super) fn cordon(&mut self, asker: (Origin, u64), name: &str, why: String) {
        let Some(node) = self.nodes.get_mut(name) else { return self.refuse_node(asker, name) };
        let empty_within_ms = node.closure.as_ref().and_then(|closure| closure.empty_within_ms);
        node.closure = Some(Closure { why, empty_within_ms });
        self.dirty.insert(Key::Node(name.to_owned()));
        self.reply(asker, Answer::Done);
    }

    /// A person orders that `name` takes nothing new, and is empty once `within_ms` have passed; the answer comes when it is.
    pub(super) fn drain(&mut self, asker: (Origin, u64), name: &str, within_ms: u64, by: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return self.refuse_node(asker, name) };
        let why = format!("drained by {by}");
        node.closure = Some(Closure { why, empty_within_ms: Some(within_ms) });
        node.empty_at = Some(self.now.saturating_add(Duration::from_millis(within_ms)));
        node.drainers.push(asker);
        self.dirty.insert(Key::Node(name.to_owned()));
    }

    /// `name` takes what comes again, whatever closed it.
    pub(super) fn uncordon(&mut self, asker: (Origin, u64), name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return self.refuse_node(asker, name) };
        node.closure = None;
        node.empty_at = None;
        let drainers = std::mem::take(&mut node.drainers);
        self.waiting.room_grew();
        self.failures.0.retain(|failure| failure.node != name);
        self.dirty.insert(Key::Node(name.to_owned()));
        for drainer in drainers {
            self.refuse(drainer, format!("node `{name}` was uncordoned before it was empty"));
        }
        self.reply(asker, Answer::Done);
    }

    pub(super) fn refuse_node(&mut self, asker: (Origin, u64), name: &str) {
        let known = self.nodes.keys().map(String::as_str);
        let why = crate::strict::unknown("node", name, known);
        self.refuse(asker, why);
    }

    /// Whoever waits for empty nodes is told; what is left on a node whose time is up goes: actors that are started again
    /// when they die are started elsewhere, the others end.
    pub(super) fn look_at_drains(&mut self) {
        let draining: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.empty_at.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in draining {
            let on_it: Vec<u64> = self
                .processes
                .iter()
                .filter(|(_, process)| process.node == name)
                .map(|(process, _)| *process)
                .collect();
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            if on_it.is_empty() {
                for drainer in std::mem::take(&mut node.drainers) {
                    self.reply(drainer, Answer::Done);
                }
            } else if node.empty_at.is_some_and(|at| at <= self.now) {
                let by = node.closure.as_ref().map(|closure| closure.why.clone()).unwrap_or_default();
                for process in on_it {
                    self.move_process(process, &format!("its node, which is {by}"));
                }
            }
        }
    }

    fn move_process(&mut self, process: u64, by: &str) {
        let Some(state) = self.processes.get(&process).filter(|state| state.stopped_by.is_none()) else {
            return;
        };
        let actor = state.actor.and_then(|actor| self.actors.get(&actor));
        let restarts = actor.is_some_and(|actor| actor.request.restarts.count > 0);
        match actor.and_then(|actor| actor.seat) {
            Some(seat) => self.end_gang(seat.gang, GangEnding { by: by.to_owned(), first: None }),
            None if restarts => self.displace(process, by),
            None => self.stop_process(process, by, false),
        }
    }

    /// Ends a process whose actor is to go on elsewhere, unless its end is ordered already.
    pub(super) fn displace(&mut self, process: u64, by: &str) {
        if self.processes.get(&process).is_some_and(|state| state.stopped_by.is_none()) {
            self.stop_process(process, by, false);
            if let Some(state) = self.processes.get_mut(&process) {
                state.moves = true;
            }
        }
    }
}
