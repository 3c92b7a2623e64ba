//! The calls of one link that have not ended: a table with cheap numbers.

use std::{sync::Arc, time::Instant};

use crate::{
    kept::CallKey,
    large::{Parcel, Payload},
    slot::Slot,
};

/// A call that has not ended.
pub(crate) struct Call {
    pub(crate) slot: Arc<Slot>,
    /// The (actor, incarnation) that is called.
    pub(crate) life: (u64, u64),
    pub(crate) ask: bool,
    /// Its caller waits on while the peer's node is silent.
    pub(crate) patient: bool,
    /// Its caller sends it again when the connection is lost.
    pub(crate) again: bool,
    /// The message, sent, where it lies in the store. It is taken back when the call ends without a reply.
    pub(crate) parcel: Option<Parcel>,
    /// What is still to be sent; `None` once it has been.
    pub(crate) queued: Option<Queued>,
}

/// A message that waits to be sent.
pub(crate) struct Queued {
    /// `None` while it is being put into the store.
    pub(crate) payload: Option<Payload>,
    pub(crate) message: u64,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: u64,
    pub(crate) key: Option<CallKey>,
    pub(crate) job: u64,
}

/// Calls by number. A number is a place in a vector and how often that place has been used, so that a late reply
/// to a forgotten call finds nothing; it is never 0.
#[derive(Default)]
pub(crate) struct Pending {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    uses: u32,
    call: Option<Call>,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, call: Call) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            // Callers keep the table far below 2^32 places.
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[at as usize];
        place.uses = place.uses.wrapping_add(1).max(1);
        place.call = Some(call);
        u64::from(place.uses) << 32 | u64::from(at)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Call> {
        let place = self.places.get((number & 0xffff_ffff) as usize)?;
        place.call.as_ref().filter(|_| u64::from(place.uses) == number >> 32)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Call> {
        let place = self.places.get_mut((number & 0xffff_ffff) as usize)?;
        place.call.as_mut().filter(|_| u64::from(place.uses) == number >> 32)
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Call> {
        let at = (number & 0xffff_ffff) as usize;
        let place = self.places.get_mut(at)?;
        if u64::from(place.uses) != number >> 32 {
            return None;
        }
        let call = place.call.take()?;
        self.free.push(at as u32);
        Some(call)
    }

    /// Removes and returns what has not been sent.
    pub(crate) fn take_queued(&mut self) -> Vec<(u64, Call)> {
        self.take_if(|call| call.queued.is_some())
    }

    /// Removes and returns everything.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Call)> {
        self.take_if(|_| true)
    }

    /// Removes and returns some, with their numbers.
    pub(crate) fn take_if(&mut self, which: impl Fn(&Call) -> bool) -> Vec<(u64, Call)> {
        let mut taken = Vec::new();
        for (at, place) in self.places.iter_mut().enumerate() {
            if place.call.as_ref().is_some_and(&which) {
                let number = u64::from(place.uses) << 32 | at as u64;
                taken.extend(place.call.take().map(|call| (number, call)));
                self.free.push(at as u32);
            }
        }
        taken
    }
}
