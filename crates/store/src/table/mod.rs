//! Who holds which object: the store's decisions as a pure state machine.
//!
//! [`Table::apply`] takes one event and the time and returns effects; it does no I/O, reads no clock and draws no random
//! number. The agent's threads feed it and carry its effects out. Holders are processes of this node, named by their
//! incarnation. An object is *writing* (its creator alone has it), *arriving* (fetched from another node) or *sealed*.
//!
//! Invariants, held by the property tests in `tests.rs`:
//! - **T1** a sealed object's references are its holders' leases, its leases in transit and the peers it is being
//!   served to, and nothing else;
//! - **T2** bytes in use are those of the objects in the table;
//! - **T3** a sealed object without references does not exist: it was freed in the same event;
//! - **T4** when every holder is gone, every fetch and serving has ended and the transit rules' times have passed,
//!   nothing is in use;
//! - **T5** each ask is answered exactly once, unless its holder has gone;
//! - **T6** nobody waits for room while the first in the queue would fit, and nobody overtakes the first (fair).

mod fetches;
mod requests;
#[cfg(test)]
mod tests;
mod transit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::error::StoreError;
use crate::node::{TransitRules, Usage};
use crate::object::ObjectId;
use crate::pool::{Place, Pool};
use crate::protocol::{Ask, Reply, Tell};

/// Leases that one process may have (L2).
pub(crate) const MAX_LEASES: u64 = 65_536;
/// Leases in transit that one process may have under way (L2).
pub(crate) const MAX_TRANSIT: u64 = 16_384;

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A process is attached.
    Attached { holder: u64 },
    /// A process asks. `fresh` is an unguessable number, used if the ask needs a ticket.
    Asked { holder: u64, number: u64, ask: Ask, fresh: u64 },
    /// A process says something that needs no answer.
    Told { holder: u64, tell: Tell },
    /// A process, of this node or another, has ended.
    HolderGone { holder: u64 },
    /// The bytes of a fetch are all in place; its writer is done with them.
    FetchLanded { fetch: u64, id: ObjectId },
    /// A fetch has ended without them; its writer no longer touches the place.
    FetchFailed { fetch: u64, id: ObjectId, reason: String },
    /// A peer's agent wants the object's bytes.
    Serve { serve: u64, id: ObjectId },
    /// The peer's agent holds its own lease (`acknowledged`), or broke off.
    ServeEnded { serve: u64, ticket: u64, acknowledged: bool },
    /// A peer's agent holds a lease of its own without having fetched.
    Acknowledged { id: ObjectId, ticket: u64 },
    /// Time has passed.
    Tick,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Reply {
        holder: u64,
        number: u64,
        reply: Reply,
    },
    /// The process broke the protocol: listen to it no more.
    Condemn {
        holder: u64,
        reason: String,
    },
    StartFetch {
        fetch: u64,
        id: ObjectId,
        place: Place,
        node: String,
        ticket: u64,
    },
    /// Ends in `FetchFailed` (or `FetchLanded`) once nothing writes to the place any more.
    StopFetch {
        fetch: u64,
    },
    /// Tell the node's agent that the ticket is claimed.
    Acknowledge {
        node: String,
        id: ObjectId,
        ticket: u64,
    },
    /// The answer to `Serve`.
    Served {
        serve: u64,
        grant: Result<Place, String>,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Table {
    node: String,
    incarnation: u64,
    rules: TransitRules,
    pool: Pool,
    objects: BTreeMap<ObjectId, Entry>,
    holders: BTreeMap<u64, HolderState>,
    serving: BTreeMap<u64, ObjectId>,
    transit: transit::TransitLeases,
    queue: VecDeque<Queued>,
    last_sequence: u64,
    last_fetch: u64,
}

#[derive(Debug)]
struct Entry {
    len: u64,
    /// Absent while an arriving object waits for room.
    place: Option<Place>,
    state: State,
    /// Leases of holders, leases in transit, servings (T1).
    references: u64,
}

#[derive(Debug)]
enum State {
    Writing { creator: u64 },
    Arriving(fetches::Arriving),
    Sealed,
}

#[derive(Debug, Default)]
struct HolderState {
    /// object -> count
    leases: BTreeMap<ObjectId, u64>,
    lease_count: u64,
    writing: BTreeSet<ObjectId>,
    /// Asks not answered yet: number -> what they wait for.
    waiting: BTreeMap<u64, WaitsFor>,
}

#[derive(Debug, Clone, Copy)]
enum WaitsFor {
    Room,
    Arrival(ObjectId),
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Queued {
    since: Duration,
    deadline: Duration,
    len: u64,
    demand: Demand,
}

#[derive(Debug, PartialEq)]
enum Demand {
    Create { holder: u64, number: u64 },
    Fetch { id: ObjectId },
}

impl Table {
    pub fn new(node: &str, incarnation: u64, rules: TransitRules, pool: Pool) -> Table {
        Table {
            node: node.to_owned(),
            incarnation,
            rules,
            pool,
            objects: BTreeMap::new(),
            holders: BTreeMap::new(),
            serving: BTreeMap::new(),
            transit: transit::TransitLeases::default(),
            queue: VecDeque::new(),
            last_sequence: 0,
            last_fetch: 0,
        }
    }

    /// Takes one event at `now` (time since the store began, never going back) and says what is to be done.
    pub fn apply(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.expire(now, &mut effects);
        match event {
            Event::Attached { holder } => {
                self.holders.entry(holder).or_default();
            }
            Event::Asked { holder, number, ask, fresh } => {
                self.asked(holder, number, ask, fresh, now, &mut effects);
            }
            Event::Told { holder, tell } => self.told(holder, tell, &mut effects),
            Event::HolderGone { holder } => self.holder_gone(holder, now, &mut effects),
            Event::FetchLanded { fetch, id } => self.fetch_landed(fetch, id, &mut effects),
            Event::FetchFailed { fetch, id, reason } => self.fetch_failed(fetch, id, &reason, &mut effects),
            Event::Serve { serve, id } => self.serve(serve, id, &mut effects),
            Event::ServeEnded { serve, ticket, acknowledged } => {
                self.serve_ended(serve, ticket, acknowledged, now);
            }
            Event::Acknowledged { id, ticket } => {
                self.end_transit(id, ticket);
            }
            Event::Tick => {}
        }
        self.admit(&mut effects);
        effects
    }

    /// When [`apply`](Self::apply) has something to do if nothing else happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let waiting = self.queue.iter().map(|queued| queued.deadline).min();
        [self.transit.next_expiry(), waiting].into_iter().flatten().min()
    }

    pub fn usage(&self) -> Usage {
        Usage {
            capacity_bytes: self.pool.capacity(),
            bytes_in_use: self.pool.used(),
            objects: self.objects.len() as u64,
            leases: self.holders.values().map(|h| h.lease_count).sum(),
            in_transit: self.transit.len(),
            waiting: self.queue.len() as u64,
        }
    }

    fn expire(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for (ticket, id) in self.transit.expired(now) {
            self.end_transit(id, ticket);
        }
        while let Some(index) = self.queue.iter().position(|queued| queued.deadline <= now) {
            if let Some(queued) = self.queue.remove(index) {
                self.no_room_in_time(&queued, now, effects);
            }
        }
    }

    fn no_room_in_time(&mut self, queued: &Queued, now: Duration, effects: &mut Vec<Effect>) {
        let full = StoreError::Full {
            wanted: queued.len,
            in_use: self.pool.used(),
            capacity: self.pool.capacity(),
            objects: self.objects.len() as u64,
            waited_ms: now.saturating_sub(queued.since).as_millis() as u64,
        };
        match queued.demand {
            Demand::Create { holder, number } => self.answer(holder, number, Reply::Failed(full), effects),
            Demand::Fetch { id } => {
                if let Some(Entry { state: State::Arriving(arriving), .. }) = self.objects.remove(&id) {
                    for waiter in arriving.waiters {
                        self.answer(waiter.holder, waiter.number, Reply::Failed(full.clone()), effects);
                    }
                }
            }
        }
    }

    /// Gives room to those who wait for it, strictly in turn (T6).
    fn admit(&mut self, effects: &mut Vec<Effect>) {
        while let Some(first) = self.queue.front() {
            let Some(place) = self.pool.allocate(first.len) else { return };
            match self.queue.pop_front().map(|queued| queued.demand) {
                Some(Demand::Create { holder, number }) => self.created(holder, number, place, effects),
                Some(Demand::Fetch { id }) => self.start_fetch(id, place, effects),
                None => self.pool.release(place),
            }
        }
    }

    /// Answers an ask that waited; an ask whose holder has gone needs no answer (T5).
    fn answer(&mut self, holder: u64, number: u64, reply: Reply, effects: &mut Vec<Effect>) {
        if let Some(state) = self.holders.get_mut(&holder)
            && state.waiting.remove(&number).is_some()
        {
            effects.push(Effect::Reply { holder, number, reply });
        }
    }

    /// One lease more for a holder; `false` where the holder has gone.
    fn grant_lease(&mut self, holder: u64, id: ObjectId) -> bool {
        let (Some(state), Some(entry)) = (self.holders.get_mut(&holder), self.objects.get_mut(&id)) else {
            return false;
        };
        *state.leases.entry(id).or_default() += 1;
        state.lease_count += 1;
        entry.references += 1;
        true
    }

    /// Takes `count` references off a sealed object and frees it with the last one (T3).
    fn drop_references(&mut self, id: ObjectId, count: u64) {
        let Some(entry) = self.objects.get_mut(&id) else { return };
        entry.references = entry.references.saturating_sub(count);
        self.free_if_unused(id);
    }

    fn free_if_unused(&mut self, id: ObjectId) {
        if let Some(Entry { references: 0, state: State::Sealed, .. }) = self.objects.get(&id) {
            self.free(id);
        }
    }

    fn free(&mut self, id: ObjectId) {
        if let Some(Entry { place: Some(place), .. }) = self.objects.remove(&id) {
            self.pool.release(place);
        }
    }
}
