//! Objects on their way from another node: one fetch for all who wait for the same object.

use super::gone::Ending;
use super::room::Demand;
use super::{Effect, Entry, State, Table};
use crate::error::{Loss, StoreError};
use crate::object::ObjectId;
use crate::pool::Place;
use crate::protocol::Reply;

/// An object that is not here yet.
#[derive(Debug)]
pub(super) struct Arriving {
    phase: Phase,
    /// The node asked, and the ticket that the fetch itself will acknowledge.
    node: String,
    ticket: u64,
    pub waiters: Vec<Waiter>,
}

/// Where an arriving object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In the queue for room.
    Queued,
    /// Bytes are being written to its place.
    Running { fetch: u64 },
    /// Nobody waits any more, but the writer has not let go of the place yet.
    Stopping { fetch: u64 },
}

/// An open that waits for the object.
#[derive(Debug)]
pub(super) struct Waiter {
    pub holder: u64,
    pub number: u64,
    /// Where its reference points.
    pub node: String,
    pub ticket: u64,
}

impl Table {
    /// The object waits in the queue for room, `first` waits for the object.
    pub(super) fn expect_arrival(&mut self, id: ObjectId, len: u64, first: Waiter) {
        let (node, ticket) = (first.node.clone(), first.ticket);
        let arriving = Arriving { phase: Phase::Queued, node, ticket, waiters: vec![first] };
        self.objects.insert(id, Entry::new(len, None, State::Arriving(arriving)));
    }

    /// Room was found.
    pub(super) fn start_fetch(&mut self, id: ObjectId, place: Place, effects: &mut Vec<Effect>) {
        let Some(Entry { state: State::Arriving(arriving), place: at, .. }) = self.objects.get_mut(&id)
        else {
            self.pool.release(place);
            return;
        };
        *at = Some(place);
        self.last_fetch += 1;
        let fetch = self.last_fetch;
        arriving.phase = Phase::Running { fetch };
        let (node, ticket) = (arriving.node.clone(), arriving.ticket);
        effects.push(Effect::StartFetch { fetch, id, place, node, ticket });
    }

    pub(super) fn fetch_landed(&mut self, fetch: u64, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some((place, node, ticket, waiters)) = self.end_of_fetch(fetch, id) else { return };
        if let Some(entry) = self.objects.get_mut(&id) {
            entry.state = State::Sealed;
        }
        for waiter in waiters {
            if self.grant_lease(waiter.holder, id) {
                self.answer(waiter.holder, waiter.number, Reply::Opened { place }, effects);
            }
            if (&waiter.node, waiter.ticket) != (&node, ticket) {
                self.settle(&waiter.node, id, waiter.ticket, effects);
            }
        }
        self.free_if_unused(id, Ending::Released);
    }

    pub(super) fn fetch_failed(&mut self, fetch: u64, id: ObjectId, loss: &Loss, effects: &mut Vec<Effect>) {
        let stopped = self.phase(id) == Some(Phase::Stopping { fetch });
        let Some((place, node, _, waiters)) = self.end_of_fetch(fetch, id) else { return };
        // Those who came after a stop, or whose reference names another node, have not had their try yet.
        let (waiting, failed): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|waiter| stopped || waiter.node != node);
        for waiter in failed {
            let lost = StoreError::lost(id, &node, loss.clone());
            self.answer(waiter.holder, waiter.number, Reply::Failed(lost), effects);
        }
        match (waiting.first(), self.objects.get_mut(&id)) {
            (Some(next), Some(entry)) => {
                let (node, ticket) = (next.node.clone(), next.ticket);
                let arriving = Arriving { phase: Phase::Queued, node, ticket, waiters: waiting };
                entry.state = State::Arriving(arriving);
                self.start_fetch(id, place, effects);
            }
            _ => {
                self.objects.remove(&id);
                self.pool.release(place);
            }
        }
    }

    /// One waiter less. Returns where its reference points. The last one stops the fetch.
    pub(super) fn stop_waiting_for_arrival(
        &mut self,
        holder: u64,
        number: u64,
        id: ObjectId,
        effects: &mut Vec<Effect>,
    ) -> Option<(String, u64)> {
        let Some(Entry { state: State::Arriving(arriving), .. }) = self.objects.get_mut(&id) else {
            return None;
        };
        let index = arriving.waiters.iter().position(|w| (w.holder, w.number) == (holder, number))?;
        let waiter = arriving.waiters.remove(index);
        if arriving.waiters.is_empty() {
            match arriving.phase {
                Phase::Queued => {
                    self.leave_queue(&Demand::Fetch { id });
                    self.objects.remove(&id);
                }
                Phase::Running { fetch } => {
                    arriving.phase = Phase::Stopping { fetch };
                    effects.push(Effect::StopFetch { fetch });
                }
                Phase::Stopping { .. } => {}
            }
        }
        Some((waiter.node, waiter.ticket))
    }

    fn phase(&self, id: ObjectId) -> Option<Phase> {
        match self.objects.get(&id) {
            Some(Entry { state: State::Arriving(arriving), .. }) => Some(arriving.phase),
            _ => None,
        }
    }

    /// Takes the place, source and waiters of the running fetch out of its entry.
    fn end_of_fetch(&mut self, fetch: u64, id: ObjectId) -> Option<(Place, String, u64, Vec<Waiter>)> {
        let entry = self.objects.get_mut(&id)?;
        let State::Arriving(arriving) = &mut entry.state else { return None };
        let ours = [Phase::Running { fetch }, Phase::Stopping { fetch }].contains(&arriving.phase);
        let place = entry.place.filter(|_| ours)?;
        let waiters = std::mem::take(&mut arriving.waiters);
        Some((place, std::mem::take(&mut arriving.node), arriving.ticket, waiters))
    }
}
