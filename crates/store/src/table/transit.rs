//! Leases in transit: what keeps an object alive while a reference to it is in a message.
//!
//! The rules by which one ends, whichever comes first:
//! 1. the receiver's agent has a lease of its own (locally in the same event, from another node by acknowledgement), or
//!    the receiver says that it will never want one;
//! 2. the sender takes it back;
//! 3. the receiver it was made for has ended;
//! 4. `TransitRules::orphaned` after the sender ended, or after a fetch on it broke off;
//! 5. `TransitRules::unclaimed` after it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::gone::Ending;
use super::{Effect, MAX_TRANSIT, State, Table};
use crate::error::StoreError;
use crate::object::{ObjectId, Receiver};
use crate::protocol::Reply;

#[derive(Debug)]
struct TransitLease {
    id: ObjectId,
    sender: u64,
    receiver: Option<Receiver>,
    expires: Duration,
}

/// All leases in transit, by ticket and by the time they end.
#[derive(Debug, Default)]
pub(super) struct TransitLeases {
    by_ticket: BTreeMap<u64, TransitLease>,
    by_expiry: BTreeSet<(Duration, u64)>,
    by_sender: BTreeMap<u64, u64>,
}

impl TransitLeases {
    pub fn len(&self) -> u64 {
        self.by_ticket.len() as u64
    }

    pub fn next_expiry(&self) -> Option<Duration> {
        self.by_expiry.first().map(|&(at, _)| at)
    }

    /// Tickets whose time is over by `now`.
    pub fn expired(&self, now: Duration) -> Vec<(u64, ObjectId)> {
        let over = self.by_expiry.range(..=(now, u64::MAX));
        over.filter_map(|&(_, ticket)| Some((ticket, self.by_ticket.get(&ticket)?.id))).collect()
    }

    fn insert(&mut self, ticket: u64, lease: TransitLease) {
        self.by_expiry.insert((lease.expires, ticket));
        *self.by_sender.entry(lease.sender).or_default() += 1;
        self.by_ticket.insert(ticket, lease);
    }

    fn remove(&mut self, ticket: u64) -> Option<TransitLease> {
        let lease = self.by_ticket.remove(&ticket)?;
        self.by_expiry.remove(&(lease.expires, ticket));
        if let Some(count) = self.by_sender.get_mut(&lease.sender) {
            *count -= 1;
            if *count == 0 {
                self.by_sender.remove(&lease.sender);
            }
        }
        Some(lease)
    }

    /// Lets the lease end at `at`, if it would not end sooner.
    fn shorten(&mut self, ticket: u64, at: Duration) {
        if let Some(lease) = self.by_ticket.get_mut(&ticket)
            && lease.expires > at
        {
            self.by_expiry.remove(&(lease.expires, ticket));
            lease.expires = at;
            self.by_expiry.insert((at, ticket));
        }
    }

    /// The object is no more: neither is what was in transit of it.
    pub fn forget(&mut self, id: ObjectId) {
        for (ticket, _) in self.matching(|lease| lease.id == id) {
            self.remove(ticket);
        }
    }

    fn sent_by(&self, sender: u64) -> u64 {
        self.by_sender.get(&sender).copied().unwrap_or(0)
    }

    fn matching(&self, which: impl Fn(&TransitLease) -> bool) -> Vec<(u64, ObjectId)> {
        let matching = self.by_ticket.iter().filter(|(_, lease)| which(lease));
        matching.map(|(&ticket, lease)| (ticket, lease.id)).collect()
    }

    #[cfg(test)]
    pub fn per_object(&self) -> BTreeMap<ObjectId, u64> {
        let mut counts = BTreeMap::new();
        for lease in self.by_ticket.values() {
            *counts.entry(lease.id).or_default() += 1;
        }
        counts
    }
}

impl Table {
    /// Makes a lease in transit on an object that `holder` holds.
    pub(super) fn share(
        &mut self,
        holder: u64,
        id: ObjectId,
        receiver: Option<Receiver>,
        fresh: u64,
    ) -> Reply {
        let held = self.holders.get(&holder).is_some_and(|state| state.leases.contains_key(&id));
        let sealed = |state: &State| matches!(state, State::Sealed | State::Spilling { .. });
        let Some(entry) = self.objects.get_mut(&id).filter(|entry| held && sealed(&entry.state)) else {
            return Reply::Failed(StoreError::NotHeld { id, action: "share".into() });
        };
        if self.transit.sent_by(holder) >= MAX_TRANSIT {
            let what = "references in transit".into();
            return Reply::Failed(StoreError::Limit { holder, what, limit: MAX_TRANSIT });
        }
        if self.transit.by_ticket.contains_key(&fresh) {
            return Reply::Failed(StoreError::system(
                "make a ticket",
                "two draws of 64 random bits are equal",
            ));
        }
        entry.references += 1;
        let expires = self.now + self.options.rules.unclaimed;
        self.transit.insert(fresh, TransitLease { id, sender: holder, receiver, expires });
        Reply::Shared { ticket: fresh }
    }

    /// Ends the lease in transit, if there is one of that number for that object.
    pub(super) fn end_transit(&mut self, id: ObjectId, ticket: u64, ending: Ending) {
        if self.transit.by_ticket.get(&ticket).is_some_and(|lease| lease.id == id) {
            self.transit.remove(ticket);
            self.drop_references(id, 1, ending);
        }
    }

    /// Takes a lease in transit back; only its sender can.
    pub(super) fn revoke(&mut self, holder: u64, id: ObjectId, ticket: u64) {
        if self.transit.by_ticket.get(&ticket).is_some_and(|lease| lease.sender == holder) {
            self.end_transit(id, ticket, Ending::Released);
        }
    }

    /// The receiver of a reference has what it needs, or will never need it: ends the lease where it was made.
    pub(super) fn settle(&mut self, node: &str, id: ObjectId, ticket: u64, effects: &mut Vec<Effect>) {
        if node == self.options.node {
            self.end_transit(id, ticket, Ending::Released);
        } else {
            effects.push(Effect::Acknowledge { node: node.to_owned(), id, ticket });
        }
    }

    /// Rule 3 for a process that has ended.
    pub(super) fn transit_to_gone(&mut self, receiver: &Receiver) {
        for (ticket, id) in self.transit.matching(|lease| lease.receiver.as_ref() == Some(receiver)) {
            self.end_transit(id, ticket, Ending::HolderGone(receiver.process));
        }
    }

    /// Rule 4 for a process that has ended.
    pub(super) fn transit_of_gone(&mut self, holder: u64) {
        let orphaned = self.now + self.options.rules.orphaned;
        for (ticket, _) in self.transit.matching(|lease| lease.sender == holder) {
            self.transit.shorten(ticket, orphaned);
        }
    }

    /// Rule 4 for a fetch that broke off.
    pub(super) fn orphan(&mut self, id: ObjectId, ticket: u64) {
        if self.transit.by_ticket.get(&ticket).is_some_and(|lease| lease.id == id) {
            self.transit.shorten(ticket, self.now + self.options.rules.orphaned);
        }
    }
}
