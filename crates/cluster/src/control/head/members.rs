//! Which agents may join, and nodes that the manifest does not have: they join at any time, and are forgotten when they have left.

use std::time::Duration;

use super::super::offer::{Offer, check_node_name};
use super::super::placement;
use super::super::record::Key;
use super::super::resources::{Capacity, Ledger, Request};
use super::nodes::{Node, Presence};
use super::{Head, HeadEffect};

/// Most nodes of a cluster, with those that the manifest does not have.
const MAX_MEMBERS: usize = 10_000;
/// A node that was lost and not drained is waited for this long before it is forgotten.
const AWAITED: Duration = Duration::from_secs(600);
/// What is given up is told within so many times the silence after which an agent counts as unreachable.
const TOLD_WITHIN: u32 = 3;

impl Node {
    /// What it has.
    pub(super) fn capacity(&self) -> Capacity {
        let given = self.given.as_ref().and_then(|given| given.capacity.as_ref());
        let offered = || self.offer.as_ref().map(|offer| &offer.capacity);
        given.or_else(offered).cloned().unwrap_or_else(Capacity::unknown)
    }

    /// Is it known what it has?
    pub(super) fn is_known(&self) -> bool {
        self.offer.is_some() || self.given.as_ref().is_some_and(|given| given.capacity.is_some())
    }

    /// Takes what its agent says for what it has, as far as the manifest does not say it.
    fn take_offer(&mut self, offer: Offer) {
        if self.given.is_none() {
            self.labels = offer.labels.clone();
        }
        self.offer = Some(offer);
        self.ledger = Ledger::new(self.capacity());
    }

    /// What is to be known of it in later terms.
    pub(super) fn offer_record(&self) -> Option<Offer> {
        let is_given = self.given.as_ref().is_some_and(|given| given.capacity.is_some());
        self.offer.clone().filter(|_| !is_given)
    }
}

impl Head {
    /// Whether an agent may join; if it may, its node is one from now on. The agent is told why it may not.
    pub(super) fn admits(&mut self, name: &str, incarnation: u64, offer: Option<Offer>) -> bool {
        let Err(reason) = self.check_joining(name, incarnation, offer.as_ref()) else {
            let node = self.nodes.entry(name.to_owned()).or_insert_with(|| Node::new(None));
            // An agent says the same as long as it lives.
            let news = node.offer.is_none() || incarnation > node.incarnation;
            if let Some(offer) = offer.filter(|_| news) {
                node.take_offer(offer);
                if node.offer_record().is_some() {
                    self.dirty.insert(Key::Offer(name.to_owned()));
                }
            }
            return true;
        };
        let node = name.to_owned();
        self.effects.push(HeadEffect::RefuseAgent { node, incarnation, reason });
        false
    }

    fn check_joining(&mut self, name: &str, incarnation: u64, offer: Option<&Offer>) -> Result<(), String> {
        if self.shutdown.is_some() {
            return Err("the cluster is ending".to_owned());
        }
        self.check_member(name)?;
        if let Some(offer) = offer {
            offer.check().map_err(|why| format!("what node `{name}` has cannot be: {why}"))?;
        }
        match self.nodes.get(name) {
            Some(node) if incarnation < node.incarnation => Err(format!(
                "incarnation {incarnation} of node `{name}` was succeeded by {}",
                node.incarnation
            )),
            Some(node) if offer.is_none() && !node.is_known() => Err(format!(
                "its agent does not say what node `{name}` has, and the manifest does not either: give `resources` there"
            )),
            None if offer.is_none() => {
                Err(format!("the manifest has no node `{name}`, and its agent does not say what that has"))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is, or may come to be, a node of this name.
    pub(super) fn check_member(&mut self, name: &str) -> Result<(), String> {
        if self.nodes.contains_key(name) {
            return Ok(());
        }
        check_node_name(name)?;
        match self.nodes.len() >= MAX_MEMBERS {
            true => Err(format!("the cluster has {MAX_MEMBERS} nodes already")),
            false => Ok(()),
        }
    }

    /// A node of which an earlier term knew what it has.
    pub(super) fn restore_member(&mut self, name: String, offer: Offer) {
        if self.check_member(&name).is_ok() && offer.check().is_ok() {
            self.nodes.entry(name).or_insert_with(|| Node::new(None)).take_offer(offer);
        }
    }

    /// Forgets nodes that the manifest does not have, when they are lost: those that were drained, which have left, soon, others
    /// after a while. Not before all agents have heard of the loss, nor while something that waits could only be there.
    pub(super) fn forget_members(&mut self) {
        let left = self.options.unreachable * TOLD_WITHIN;
        // One that is silent now, or has just come back, may not have heard of it.
        let may_miss_it = |node: &Node| match node.presence {
            Presence::Absent => node.incarnation > 0,
            Presence::Joined => self.now.saturating_sub(node.joined_at) < left,
            Presence::Unreachable => true,
            Presence::Lost { .. } => false,
        };
        if self.nodes.values().any(may_miss_it) {
            return;
        }
        let over = |node: &Node| match node.presence {
            Presence::Lost { at, .. } if node.given.is_none() => {
                let kept = if node.empty_at.is_some() { left } else { AWAITED.max(left) };
                self.now.saturating_sub(at) >= kept
            }
            _ => false,
        };
        let over: Vec<String> =
            self.nodes.iter().filter(|(_, node)| over(node)).map(|(name, _)| name.clone()).collect();
        for name in over {
            if self.is_referred_to(&name) {
                continue;
            }
            self.nodes.remove(&name);
            self.dirty.insert(Key::Node(name.clone()));
            self.dirty.insert(Key::Offer(name));
            // A gang may have counted on it.
            self.waiting.room_grew();
        }
    }

    /// Whether something waits that could be on `name` only, or somebody waits for it.
    fn is_referred_to(&self, name: &str) -> bool {
        let Some(node) = self.nodes.get(name) else { return false };
        if !node.drainers.is_empty() || self.processes.values().any(|process| process.node == name) {
            return true;
        }
        let waiting = self.actors.values().filter(|actor| actor.process.is_none());
        waiting.map(|actor| &actor.request).any(|request| {
            let nodes = || self.candidates(&request.role);
            let is_possible = |there: bool| {
                placement::is_possible(
                    nodes().filter(|node| (node.name == name) == there),
                    &Request::from(request),
                )
            };
            is_possible(true) && !is_possible(false)
        })
    }
}
