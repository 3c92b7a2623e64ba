//! What processes ask for and tell.

use super::fetches::Waiter;
use super::gone::Ending;
use super::room::Demand;
use super::{Effect, Entry, MAX_LEASES, State, Table, WaitsFor};
use crate::error::StoreError;
use crate::object::{ObjectId, ObjectRef, Receiver};
use crate::pool::Place;
use crate::protocol::{Ask, MAX_OUTSTANDING, Reply, Tell};

impl Table {
    pub(super) fn asked(
        &mut self,
        holder: u64,
        number: u64,
        ask: Ask,
        fresh: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.holders.get(&holder) else { return };
        if state.waiting.contains_key(&number) {
            let reason =
                format!("it used the number {number} for a second ask before the first was answered");
            effects.push(Effect::Condemn { holder, reason });
            return;
        }
        if state.waiting.len() >= MAX_OUTSTANDING {
            let reason = format!("it has more than {MAX_OUTSTANDING} asks under way");
            effects.push(Effect::Condemn { holder, reason });
            return;
        }
        let reply = match ask {
            Ask::Create { len, wait_ms } => self.create(holder, number, len, wait_ms),
            Ask::Seal { id } => Some(self.seal(holder, id)),
            Ask::Share { id, receiver } => Some(self.share(holder, id, receiver, fresh)),
            Ask::Send { id, receiver } => Some(self.send(holder, id, receiver, fresh)),
            Ask::Keep { len } => Some(self.keep(holder, len, effects)),
            Ask::Segment { segment } => Some(self.segment(segment)),
            Ask::Open { reference, wait_ms } => self.open(holder, number, reference, wait_ms, effects),
        };
        if let Some(reply) = reply {
            effects.push(Effect::Reply { holder, number, reply });
        }
    }

    pub(super) fn told(&mut self, holder: u64, tell: Tell, effects: &mut Vec<Effect>) {
        let Some(state) = self.holders.get_mut(&holder) else { return };
        match tell {
            Tell::Abandon { id } if state.writing.remove(&id) => self.free(id, Ending::Unsealed),
            Tell::Release { id } if state.leases.contains_key(&id) => self.release(holder, id),
            Tell::Abandon { id } | Tell::Release { id } => {
                let reason = format!("it gave back object {id}, which it does not hold");
                effects.push(Effect::Condemn { holder, reason });
            }
            Tell::Revoke { id, ticket } => self.revoke(holder, id, ticket),
            Tell::Discard { reference: ObjectRef { id, node, ticket, .. } } => {
                self.settle(&node, id, ticket, effects);
            }
            Tell::Freed { slot } => self.region_told_free(slot, effects),
            Tell::Cancel { number } => {
                if let Some(&waits_for) = state.waiting.get(&number) {
                    self.stop_waiting(holder, number, waits_for, effects);
                    self.answer(holder, number, Reply::Failed(StoreError::Cancelled), effects);
                }
            }
        }
    }

    /// Everything of a process that has ended. Safe only once it has: its mappings must be gone.
    pub(super) fn holder_gone(&mut self, holder: u64, effects: &mut Vec<Effect>) {
        if let Some(state) = self.holders.remove(&holder) {
            for (number, waits_for) in state.waiting {
                // The message reached its receiver, which died with it: nobody else will claim the ticket.
                let reference = self.stop_waiting(holder, number, waits_for, effects);
                if let (Some((node, ticket)), WaitsFor::Arrival(id)) = (reference, waits_for) {
                    self.settle(&node, id, ticket, effects);
                }
            }
            for id in state.writing {
                self.free(id, Ending::HolderGone(holder));
            }
            for (id, count) in state.leases {
                self.close(id, count, Ending::HolderGone(holder));
            }
        }
        self.transit_to_gone(&Receiver { node: self.options.node.clone(), process: holder });
        self.transit_of_gone(holder);
        self.regions_of_gone(holder, effects);
    }

    fn segment(&self, segment: u32) -> Reply {
        match self.pool.segment_bytes(segment) {
            Some(segment_bytes) => Reply::Segment { segment, segment_bytes },
            None => Reply::Failed(StoreError::Invalid(format!("there is no segment {segment}"))),
        }
    }

    fn create(&mut self, holder: u64, number: u64, len: u64, wait_ms: u64) -> Option<Reply> {
        let largest = self.pool.largest();
        if len > largest {
            return Some(Reply::Failed(StoreError::TooLarge { wanted: len, largest }));
        }
        if let Some(limit) = self.lease_limit(holder) {
            return Some(Reply::Failed(limit));
        }
        self.wait(holder, number, WaitsFor::Room);
        self.queue(len, wait_ms, Demand::Create { holder, number });
        None
    }

    /// Room was found for a create.
    pub(super) fn created(&mut self, holder: u64, number: u64, place: Place, effects: &mut Vec<Effect>) {
        let Some(state) = self.holders.get_mut(&holder) else {
            self.pool.release(place);
            return;
        };
        self.last_sequence += 1;
        let id = ObjectId { origin: self.options.incarnation, sequence: self.last_sequence };
        state.writing.insert(id);
        let state = State::Writing { creator: holder };
        self.objects.insert(id, Entry::new(place.len, Some(place), state));
        self.answer(holder, number, Reply::Created { id, place }, effects);
    }

    fn seal(&mut self, holder: u64, id: ObjectId) -> Reply {
        match self.objects.get_mut(&id) {
            Some(entry) if matches!(entry.state, State::Writing { creator } if creator == holder) => {
                entry.state = State::Sealed;
                if let Some(state) = self.holders.get_mut(&holder) {
                    state.writing.remove(&id);
                }
                self.grant_lease(holder, id);
                Reply::Sealed
            }
            _ => Reply::Failed(StoreError::NotHeld { id, action: "seal".into() }),
        }
    }

    /// Seals an object for one receiver alone: what its creator leaves is the lease in transit.
    fn send(&mut self, holder: u64, id: ObjectId, receiver: Receiver, fresh: u64) -> Reply {
        match self.seal(holder, id) {
            Reply::Sealed => {
                let shared = self.share(holder, id, Some(receiver), fresh);
                self.release(holder, id);
                shared
            }
            refused => refused,
        }
    }

    /// One lease less for a holder that has one.
    fn release(&mut self, holder: u64, id: ObjectId) {
        let Some(state) = self.holders.get_mut(&holder) else { return };
        let Some(count) = state.leases.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            state.leases.remove(&id);
        }
        state.lease_count -= 1;
        self.close(id, 1, Ending::Released);
    }

    fn open(
        &mut self,
        holder: u64,
        number: u64,
        reference: ObjectRef,
        wait_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Option<Reply> {
        let ObjectRef { id, node, len, ticket } = reference;
        if let Some(limit) = self.lease_limit(holder) {
            return Some(Reply::Failed(limit));
        }
        let waiter = Waiter { holder, number, node: node.clone(), ticket };
        let never_sealed = self.lost_now("it was never sealed");
        match self.objects.get_mut(&id) {
            Some(entry) if entry.len != len => Some(Reply::Failed(StoreError::Invalid(format!(
                "the reference says that object {id} has {len} bytes, but it has {}",
                entry.len
            )))),
            Some(Entry { state: State::Sealed | State::Spilling { .. }, place: Some(place), .. }) => {
                let place = *place;
                self.grant_lease(holder, id);
                self.settle(&node, id, ticket, effects);
                Some(Reply::Opened { place })
            }
            Some(Entry { state: State::Arriving(arriving), .. }) => {
                arriving.waiters.push(waiter);
                self.wait(holder, number, WaitsFor::Arrival(id));
                None
            }
            Some(Entry { state: State::OnDisk { .. } | State::Restoring(_), .. }) => {
                self.restore(id, waiter, wait_ms);
                None
            }
            Some(_) => Some(Reply::Failed(StoreError::lost(id, &node, never_sealed))),
            None if node == self.options.node => {
                Some(Reply::Failed(StoreError::lost(id, &node, self.absent(id))))
            }
            // Its number will be that of another object, which must not find its place taken.
            None if id.origin == self.options.incarnation && id.sequence > self.last_sequence => {
                Some(Reply::Failed(StoreError::lost(id, &node, self.lost_now("it was never created"))))
            }
            None if len > self.pool.largest() => {
                Some(Reply::Failed(StoreError::TooLarge { wanted: len, largest: self.pool.largest() }))
            }
            None => {
                self.wait(holder, number, WaitsFor::Arrival(id));
                self.queue(len, wait_ms, Demand::Fetch { id });
                self.expect_arrival(id, len, waiter);
                None
            }
        }
    }

    pub(super) fn wait(&mut self, holder: u64, number: u64, waits_for: WaitsFor) {
        if let Some(state) = self.holders.get_mut(&holder) {
            state.waiting.insert(number, waits_for);
        }
    }

    /// Takes an ask out of what it waits in; returns the node and ticket of an open.
    fn stop_waiting(
        &mut self,
        holder: u64,
        number: u64,
        waits_for: WaitsFor,
        effects: &mut Vec<Effect>,
    ) -> Option<(String, u64)> {
        match waits_for {
            WaitsFor::Room => {
                self.leave_queue(&Demand::Create { holder, number });
                None
            }
            WaitsFor::Arrival(id) => self
                .stop_waiting_for_arrival(holder, number, id, effects)
                .or_else(|| self.stop_waiting_for_disk(holder, number, id)),
        }
    }

    /// The bound on leases counts what is under way, so that a grant can never exceed it.
    fn lease_limit(&self, holder: u64) -> Option<StoreError> {
        let state = self.holders.get(&holder)?;
        let count = state.lease_count + (state.writing.len() + state.waiting.len()) as u64;
        (count >= MAX_LEASES).then(|| StoreError::Limit { holder, what: "leases".into(), limit: MAX_LEASES })
    }
}
