//! Who waits for room, and whose place they get: that of objects that nobody has open, which go to disk.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::gone::Ending;
use super::{Effect, Entry, State, Table};
use crate::error::StoreError;
use crate::object::ObjectId;
use crate::protocol::Reply;

/// An object that nobody has had open for this long may go to disk; one that was just sent is about to be opened.
pub(super) const SETTLED: Duration = Duration::from_millis(250);

/// Since when nobody has had an object open, and its number in the order of those.
pub(super) type Idle = (Duration, u64);

/// Those who wait for room, in turn, and the objects that could make some, longest unused first.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub queue: VecDeque<Queued>,
    pub idle: BTreeSet<(Idle, ObjectId)>,
    last_use: u64,
}

/// Somebody who waits for room.
#[derive(Debug)]
pub(super) struct Queued {
    pub since: Duration,
    pub deadline: Duration,
    pub len: u64,
    pub demand: Demand,
}

#[derive(Debug, PartialEq)]
pub(super) enum Demand {
    Create { holder: u64, number: u64 },
    Fetch { id: ObjectId },
    Restore { id: ObjectId },
}

impl Room {
    pub fn len(&self) -> u64 {
        self.queue.len() as u64
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.iter().map(|queued| queued.deadline).min()
    }
}

impl Table {
    /// Waits for room for `len` bytes, `wait_ms` at most.
    pub(super) fn queue(&mut self, len: u64, wait_ms: u64, demand: Demand) {
        let deadline = self.now.saturating_add(Duration::from_millis(wait_ms));
        let before = match demand {
            // What is read back is on its way to be used and freed, so it goes before what fills the store (T6).
            Demand::Restore { .. } => {
                let others = |queued: &Queued| !matches!(queued.demand, Demand::Restore { .. });
                self.room.queue.iter().position(others).unwrap_or(self.room.queue.len())
            }
            Demand::Create { .. } | Demand::Fetch { .. } => self.room.queue.len(),
        };
        self.room.queue.insert(before, Queued { since: self.now, deadline, len, demand });
    }

    pub(super) fn leave_queue(&mut self, demand: &Demand) {
        self.room.queue.retain(|queued| queued.demand != *demand);
    }

    pub(super) fn expire(&mut self, effects: &mut Vec<Effect>) {
        for (ticket, id) in self.transit.expired(self.now) {
            self.end_transit(id, ticket, Ending::Unclaimed);
        }
        while let Some(index) = self.room.queue.iter().position(|queued| queued.deadline <= self.now) {
            if let Some(queued) = self.room.queue.remove(index) {
                self.no_room_in_time(&queued, effects);
            }
        }
    }

    /// What one is told who waited for `wanted` bytes in vain.
    pub(super) fn full(&self, wanted: u64, waited: Duration) -> StoreError {
        let in_use = self.pool.used();
        let idle: u64 = self.room.idle.iter().filter_map(|(_, id)| self.footprint_of(*id)).sum();
        StoreError::Full {
            wanted,
            in_use,
            capacity: self.pool.capacity(),
            objects: self.objects.len() as u64,
            held: in_use.saturating_sub(idle),
            disk: self.disk.in_words(),
            waited_ms: waited.as_millis() as u64,
        }
    }

    fn no_room_in_time(&mut self, queued: &Queued, effects: &mut Vec<Effect>) {
        let full = self.full(queued.len, self.now.saturating_sub(queued.since));
        match queued.demand {
            Demand::Create { holder, number } => self.answer(holder, number, Reply::Failed(full), effects),
            Demand::Fetch { id } => {
                if let Some(Entry { state: State::Arriving(arriving), .. }) = self.objects.remove(&id) {
                    for waiter in arriving.waiters {
                        self.answer(waiter.holder, waiter.number, Reply::Failed(full.clone()), effects);
                    }
                }
            }
            Demand::Restore { id } => {
                for waiter in self.stay_on_disk(id) {
                    self.answer(waiter.holder, waiter.number, Reply::Failed(full.clone()), effects);
                }
            }
        }
    }

    /// Gives room to those who wait for it, strictly in turn, and makes some for the first who stays (T6).
    pub(super) fn admit(&mut self, effects: &mut Vec<Effect>) {
        self.admit_what_fits(effects);
        if let Some(first) = self.room.queue.front() {
            self.make_room(first.len, effects);
        }
    }

    pub(super) fn admit_what_fits(&mut self, effects: &mut Vec<Effect>) {
        while let Some(first) = self.room.queue.front() {
            let Some(place) = self.pool.allocate(first.len) else { return };
            match self.room.queue.pop_front().map(|queued| queued.demand) {
                Some(Demand::Create { holder, number }) => self.created(holder, number, place, effects),
                Some(Demand::Fetch { id }) => self.start_fetch(id, place, effects),
                Some(Demand::Restore { id }) => self.start_restore(id, place, effects),
                None => self.pool.release(place),
            }
        }
    }

    /// Wants regions back; where that does not help, sends to disk what nobody has open, longest unused first, until what
    /// comes of it would hold `len` bytes. Places that come free may not touch: then it goes on, one object after the other.
    fn make_room(&mut self, len: u64, effects: &mut Vec<Effect>) {
        if self.want_regions(effects) {
            return;
        }
        let wanted = self.pool.footprint(len);
        while self.disk.coming == 0 || self.pool.capacity() - self.pool.used() + self.disk.coming < wanted {
            let Some(id) = self.next_victim() else { return };
            self.start_spill(id, effects);
        }
    }

    fn next_victim(&self) -> Option<ObjectId> {
        let may_go =
            |&&(idle, id): &&(Idle, ObjectId)| self.may_go(idle, id).is_some_and(|at| at <= self.now);
        self.room.idle.iter().find(may_go).map(|(_, id)| *id)
    }

    /// When an object that nobody has open may go to disk, for the first who waits for room; `None`: not as things are.
    pub(super) fn may_go(&self, idle: Idle, id: ObjectId) -> Option<Duration> {
        let first = self.room.queue.front()?;
        let reads_back = matches!(first.demand, Demand::Restore { .. });
        let possible = self.disk.has_room(self.footprint_of(id)?, reads_back);
        possible.then_some((idle.0 + SETTLED).max(self.disk.resume))
    }

    /// When an object that could make room may first go to disk, if somebody waits for that.
    pub(super) fn next_spill(&self) -> Option<Duration> {
        self.room.idle.iter().filter_map(|(idle, id)| self.may_go(*idle, *id)).find(|at| *at > self.now)
    }

    pub(super) fn footprint_of(&self, id: ObjectId) -> Option<u64> {
        self.objects.get(&id).map(|entry| self.pool.footprint(entry.len))
    }

    /// The object was just used: it is the last to go to disk, or, where somebody has it open, is not to go at all.
    pub(super) fn note_use(&mut self, id: ObjectId) {
        let Some(entry) = self.objects.get_mut(&id) else { return };
        let before = entry.idle.take();
        if matches!(entry.state, State::Sealed) && entry.open == 0 {
            self.room.last_use += 1;
            let idle = (self.now, self.room.last_use);
            entry.idle = Some(idle);
            self.room.idle.insert((idle, id));
        }
        self.forget_idle(id, before);
    }

    pub(super) fn forget_idle(&mut self, id: ObjectId, idle: Option<Idle>) {
        if let Some(idle) = idle {
            self.room.idle.remove(&(idle, id));
        }
    }
}
