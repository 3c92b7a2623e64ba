//! What a peer's frames do to a link; called by the reader, on the I/O runtime.

use std::sync::atomic::Ordering;

use lyceum_wire::AlignedBytes;

use super::{Finished, Life, Link, MAX_IN_FLIGHT, State};
use crate::{
    DeathReport,
    credit::Credits,
    protocol::{Extension, Kind, frame},
    slot::Outcome,
};

impl Link {
    /// The peer has made calls of these numbers.
    pub(crate) fn on_asks(&self, calls: &[u64]) -> Result<(), String> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        for &call in calls {
            if state.owed.len() >= 2 * MAX_IN_FLIGHT {
                return Err(format!("more than {} calls are unanswered", 2 * MAX_IN_FLIGHT));
            }
            if state.owed.insert(call, true).is_some() {
                return Err(format!("call number {call} is used twice"));
            }
        }
        Ok(())
    }

    pub(crate) fn on_cancel(&self, call: u64) {
        let mut state = self.lock();
        if let Some(wanted) = state.owed.get_mut(&call) {
            if std::mem::replace(wanted, false) {
                self.unwanted.fetch_add(1, Ordering::AcqRel);
            }
            state.wake_givers(call);
        }
        self.unlock(state, Vec::new());
    }

    /// Replies, each with the number of the call.
    pub(crate) fn on_replies(&self, replies: &mut Vec<(u64, Outcome)>) {
        let mut done = Vec::with_capacity(replies.len());
        let mut state = self.lock();
        for (call, outcome) in replies.drain(..) {
            // A call that was not sent has no reply; nor has one that was forgotten.
            if state.pending.get_mut(call).is_some_and(|entry| entry.queued.is_none())
                && let Some(entry) = state.pending.remove(call)
            {
                done.push((entry, outcome));
            }
        }
        drop(state);
        for (entry, outcome) in done {
            // Who answers has had the message in its hands.
            if let Some(parcel) = &entry.parcel {
                parcel.hand_over();
            }
            entry.slot.complete(outcome);
        }
    }

    pub(crate) fn on_grant(&self, life: Life, credits: Credits, answer: bool) {
        let mut done = Vec::new();
        let mut state = self.lock();
        match state.outlets.get_mut(&life) {
            Some(outlet) => {
                outlet.purse.granted(credits, answer);
                state.release(life, &mut done);
            }
            // Nobody here wants it any more, and kept it would be lost to all other senders.
            None => self.push_return(&mut state, life, credits),
        }
        self.unlock(state, done);
    }

    pub(crate) fn on_reclaim(&self, life: Life) {
        let mut state = self.lock();
        let mut credits = Credits::NONE;
        if let Some(outlet) = state.outlets.get_mut(&life) {
            credits = outlet.purse.give_back();
            // Whose request is under way must know what it asked for when the answer comes.
            if outlet.queue.is_empty() && !outlet.purse.is_waiting() {
                state.outlets.remove(&life);
            }
        }
        self.push_return(&mut state, life, credits);
        self.unlock(state, Vec::new());
    }

    fn push_return(&self, state: &mut State, life: Life, credits: Credits) {
        let extension =
            Extension { actor: life.0, count: credits.count, amount: credits.bytes, ..Extension::default() };
        let answer = frame(Kind::Return, life.1, 0, 0, &extension, AlignedBytes::default());
        self.push_control(state, answer);
    }

    /// With `bytes` only the message of that size is refused; with 0 all that wait.
    pub(crate) fn on_refuse(&self, life: Life, bytes: u64, outcome: &Outcome) {
        let mut state = self.lock();
        let mut done: Finished = Vec::new();
        match bytes {
            0 => state.refuse(life, outcome, &mut done),
            bytes => state.refuse_one(life, bytes, outcome, &mut done),
        }
        self.unlock(state, done);
    }

    pub(crate) fn on_death(&self, life: Life, report: Box<DeathReport>) {
        let mut state = self.lock();
        let mut done: Finished = Vec::new();
        for slot in state.watches.remove(&life).unwrap_or_default() {
            done.push((slot, Outcome::Dead(report.clone())));
        }
        state.refuse(life, &Outcome::Dead(report), &mut done);
        self.unlock(state, done);
    }
}
