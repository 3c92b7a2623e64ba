//! Objects that go to disk and come back.
//!
//! A *spill* is a file with one object's bytes. While it is being written the object stays where it is and can be opened,
//! which makes the file worthless. When it is written the place is free. Whoever opens the object then waits for room
//! and for the file to be read; a peer is sent it from the file.
//!
//! Reading back needs room in memory, which other objects make by going to disk. So a part of the disk is kept for that:
//! as much as the memory, or half of the disk where that is less. With the former, all that nobody has open fits on disk
//! at any time, and who reads back waits for processes alone, never for the disk.

use std::time::Duration;

use super::fetches::Waiter;
use super::gone::Ending;
use super::room::Demand;
use super::{Effect, Entry, Served, State, Table, WaitsFor};
use crate::error::{StoreError, bounded};
use crate::object::ObjectId;
use crate::pool::Place;
use crate::protocol::Reply;

/// After a failure nothing is written for this long.
const PAUSE: Duration = Duration::from_secs(5);

/// What is on disk, and what may be.
#[derive(Debug)]
pub(super) struct Disk {
    capacity: u64,
    /// What is kept for those who read back.
    kept: u64,
    /// Bytes of objects that have a file, or will have one.
    pub used: u64,
    /// Those that are being written and whose places will be free.
    pub coming: u64,
    /// Files that nobody needs any more, until they are told.
    pub dropped: Vec<u64>,
    /// When something may be written again.
    pub resume: Duration,
    failure: Option<String>,
    last_spill: u64,
}

/// A sealed object that is on disk and that somebody wants to open.
#[derive(Debug)]
pub(super) struct Restoring {
    pub spill: u64,
    /// Its bytes are being read to its place; before, it waits for one.
    pub running: bool,
    pub waiters: Vec<Waiter>,
}

impl Disk {
    pub fn new(capacity: u64, memory: u64) -> Disk {
        Disk {
            capacity,
            kept: memory.min(capacity / 2),
            used: 0,
            coming: 0,
            dropped: Vec::new(),
            resume: Duration::ZERO,
            failure: None,
            last_spill: 0,
        }
    }

    /// Whether an object of `footprint` bytes may be written, for one who reads another back or who does not.
    pub fn has_room(&self, footprint: u64, reads_back: bool) -> bool {
        let kept = if reads_back { 0 } else { self.kept };
        self.used.saturating_add(footprint) <= self.capacity - kept
    }

    /// Why no more goes there, for those who waited in vain.
    pub fn in_words(&self) -> String {
        match (&self.failure, self.capacity) {
            (_, 0) => "nothing may go to disk".into(),
            (Some(failure), _) => format!("the disk failed: {failure}"),
            (None, capacity) => format!(
                "{} of {capacity} bytes are used on disk, and {} are kept for what is read back",
                self.used, self.kept
            ),
        }
    }
}

impl Table {
    pub(super) fn start_spill(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(footprint) = self.footprint_of(id) else { return };
        let Some(entry) = self.objects.get_mut(&id) else { return };
        let (Some(place), idle) = (entry.place, entry.idle.take()) else { return };
        self.disk.last_spill += 1;
        let spill = self.disk.last_spill;
        entry.state = State::Spilling { spill };
        self.disk.used += footprint;
        self.disk.coming += footprint;
        self.forget_idle(id, idle);
        effects.push(Effect::Spill { spill, id, place });
    }

    pub(super) fn spilled(&mut self, spill: u64, id: ObjectId) {
        let Some((open, references)) = self.end_of_spill(spill, id) else { return };
        let Some(entry) = self.objects.get_mut(&id) else { return };
        self.disk.failure = None;
        if open > 0 || references == 0 {
            let len = entry.len;
            entry.state = State::Sealed;
            self.drop_file(spill, len);
            self.free_if_unused(id, Ending::Released);
        } else {
            entry.state = State::OnDisk { spill };
            if let Some(place) = entry.place.take() {
                self.pool.release(place);
            }
        }
    }

    pub(super) fn spill_failed(&mut self, spill: u64, id: ObjectId, reason: String) {
        if self.end_of_spill(spill, id).is_none() {
            return;
        }
        self.disk.failure = Some(bounded(reason));
        self.disk.resume = self.now + PAUSE;
        let Some(entry) = self.objects.get_mut(&id) else { return };
        entry.state = State::Sealed;
        self.disk.used -= self.pool.footprint(entry.len);
        self.note_use(id);
        self.free_if_unused(id, Ending::Released);
    }

    /// How often the object of a spill under way is open, and referred to.
    fn end_of_spill(&mut self, spill: u64, id: ObjectId) -> Option<(u64, u64)> {
        let entry = self.objects.get(&id)?;
        if !matches!(entry.state, State::Spilling { spill: ours } if ours == spill) {
            return None;
        }
        self.disk.coming -= self.pool.footprint(entry.len);
        Some((entry.open, entry.references))
    }

    /// The file is no part of the store any more.
    pub(super) fn drop_file(&mut self, spill: u64, len: u64) {
        self.disk.used -= self.pool.footprint(len);
        self.disk.dropped.push(spill);
    }

    /// The object is on disk: `waiter` waits until it is back, `wait_ms` for room at most.
    pub(super) fn restore(&mut self, id: ObjectId, waiter: Waiter, wait_ms: u64) {
        self.wait(waiter.holder, waiter.number, WaitsFor::Arrival(id));
        let Some(entry) = self.objects.get_mut(&id) else { return };
        match &mut entry.state {
            State::OnDisk { spill } => {
                let len = entry.len;
                entry.state =
                    State::Restoring(Restoring { spill: *spill, running: false, waiters: vec![waiter] });
                self.queue(len, wait_ms, Demand::Restore { id });
            }
            State::Restoring(restoring) => restoring.waiters.push(waiter),
            _ => {}
        }
    }

    /// Room was found.
    pub(super) fn start_restore(&mut self, id: ObjectId, place: Place, effects: &mut Vec<Effect>) {
        let Some(Entry { state: State::Restoring(restoring), place: at, .. }) = self.objects.get_mut(&id)
        else {
            self.pool.release(place);
            return;
        };
        *at = Some(place);
        restoring.running = true;
        effects.push(Effect::Restore { spill: restoring.spill, id, place });
    }

    pub(super) fn restored(&mut self, spill: u64, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some((place, waiters)) = self.end_of_restore(spill, id) else { return };
        let Some(entry) = self.objects.get_mut(&id) else { return };
        entry.state = State::Sealed;
        let len = entry.len;
        self.drop_file(spill, len);
        self.note_use(id);
        for waiter in waiters {
            if self.grant_lease(waiter.holder, id) {
                self.answer(waiter.holder, waiter.number, Reply::Opened { place }, effects);
            }
            self.settle(&waiter.node, id, waiter.ticket, effects);
        }
        self.free_if_unused(id, Ending::Released);
    }

    /// The bytes are gone: so is the object, and whoever waits for it is told (L3).
    pub(super) fn restore_failed(
        &mut self,
        spill: u64,
        id: ObjectId,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some((_, waiters)) = self.end_of_restore(spill, id) else { return };
        let loss = self.lost_now(format!("it was on disk and cannot be read back: {reason}"));
        for waiter in waiters {
            let lost = StoreError::lost(id, &self.options.node, loss.clone());
            self.answer(waiter.holder, waiter.number, Reply::Failed(lost), effects);
        }
        for serve in self.serves.of(id) {
            if self.serves.waits(serve) {
                effects.push(Effect::Served { serve, served: Served::Refused(loss.clone()) });
            }
        }
        self.transit.forget(id);
        self.free(id, Ending::Unreadable);
    }

    /// The place of a running restoring, and who waits for it.
    fn end_of_restore(&mut self, spill: u64, id: ObjectId) -> Option<(Place, Vec<Waiter>)> {
        let entry = self.objects.get_mut(&id)?;
        let State::Restoring(restoring) = &mut entry.state else { return None };
        let ours = restoring.spill == spill && restoring.running;
        let place = entry.place.filter(|_| ours)?;
        Some((place, std::mem::take(&mut restoring.waiters)))
    }

    /// Nobody is to wait for room for the object any more: those who did.
    pub(super) fn stay_on_disk(&mut self, id: ObjectId) -> Vec<Waiter> {
        let Some(entry) = self.objects.get_mut(&id) else { return Vec::new() };
        let State::Restoring(restoring) = &mut entry.state else { return Vec::new() };
        let (spill, waiters) = (restoring.spill, std::mem::take(&mut restoring.waiters));
        entry.state = State::OnDisk { spill };
        self.free_if_unused(id, Ending::Released);
        waiters
    }

    /// One waiter less, who wanted the object read back. Returns where its reference points.
    pub(super) fn stop_waiting_for_disk(
        &mut self,
        holder: u64,
        number: u64,
        id: ObjectId,
    ) -> Option<(String, u64)> {
        let Some(Entry { state: State::Restoring(restoring), .. }) = self.objects.get_mut(&id) else {
            return None;
        };
        let index = restoring.waiters.iter().position(|w| (w.holder, w.number) == (holder, number))?;
        let waiter = restoring.waiters.remove(index);
        // What is being read is kept: it was wanted, and its file may go.
        if restoring.waiters.is_empty() && !restoring.running {
            self.leave_queue(&Demand::Restore { id });
            self.stay_on_disk(id);
        }
        Some((waiter.node, waiter.ticket))
    }
}
