//! How a link ends, and what those are told who wait on it.

use std::sync::{Arc, atomic::Ordering};

use lyceum_wire::CloseCode;

use super::{Finished, Life, Link, Phase};
use crate::{
    ActorId, ProcessDeath, System,
    pending::Call,
    slot::{Givers, Outcome, Slot},
};

impl Link {
    /// Has everything that is queued written and then the lane finished; takes no further call. The slot is completed
    /// when the peer has acknowledged all of it, or when the link is closed.
    pub(crate) fn part(&self) -> Arc<Slot> {
        let parted = Arc::new(Slot::default());
        let mut state = self.lock();
        match state.phase {
            Phase::Open { .. } if state.silence.is_none() && state.parting.is_none() => {
                state.parting = Some(parted.clone());
            }
            // Nothing is on its way there, or nobody would acknowledge it.
            _ => drop(parted.complete(Outcome::Sent)),
        }
        self.unlock(state, Vec::new());
        self.work.notify_one();
        parted
    }

    /// The peer has everything that was sent.
    pub(super) fn parted(&self) {
        let mut state = self.lock();
        state.lent.drain(..).for_each(|parcel| parcel.hand_over());
        let done = state.parting.take().map(|slot| (slot, Outcome::Sent)).into_iter().collect();
        self.unlock(state, done);
    }

    /// The connection is gone, or never came up. What was never sent is handed back; what was sent is kept for
    /// [`dead`](Link::dead) or [`give_up`](Link::give_up).
    pub(crate) fn close(&self, why: &str) {
        let mut done = Vec::new();
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        let old = std::mem::replace(&mut state.phase, Phase::Closed(why.to_owned()));
        let why = format!("no connection to {}: {why}", self.peer);
        let unsent = state.pending.take_queued();
        done.extend(unsent.iter().map(|(_, call)| (call.slot.clone(), Outcome::NotSent(why.clone()))));
        // Whoever sends again need not know how the peer ended.
        let again = state.pending.take_if(|call| call.again);
        let lost = |call: &Call| (call.slot.clone(), Outcome::Unknown(format!("{why}, after it was sent")));
        done.extend(again.iter().map(|(_, call)| lost(call)));
        if let Some(parting) = state.parting.take() {
            // The peer may have heard the last word and closed, and still have to open what it was lent.
            state.lent.drain(..).for_each(|parcel| parcel.hand_over());
            done.push((parting, Outcome::Sent));
        }
        state.outlets.clear();
        state.owed.clear();
        // From now on no answer is wanted.
        self.unwanted.store(usize::MAX / 2, Ordering::Release);
        let givers = std::mem::take(&mut state.givers).into_values().flat_map(Givers::into_wakers);
        state.to_wake.extend(givers);
        let (calls, control) = (std::mem::take(&mut state.calls), std::mem::take(&mut state.control));
        let lent = std::mem::take(&mut state.lent);
        self.control_bytes.store(0, Ordering::Release);
        self.unlock(state, done);
        self.work.notify_one();
        self.room.notify_waiters();
        if let Phase::Open { connection, .. } = old {
            connection.close(CloseCode::Done, "closed");
        }
        if let Some(system) = self.system.upgrade().map(System::of) {
            system.revoke_unsent(calls.iter().chain(&control));
        }
        // They take what they stand for out of the store.
        drop((unsent, again, lent));
    }

    /// The peer broke a rule: the connection ends, with the reason for it.
    pub(crate) fn protocol_error(&self, why: &str) {
        tracing::warn!(peer = %self.peer, why, "a peer broke the protocol and is cut off");
        if let Phase::Open { connection, .. } = &self.lock().phase {
            connection.close(CloseCode::Protocol, why);
        }
        self.close(why);
    }

    /// The peer process is dead: everyone who waits for it is told (L3).
    pub(crate) fn dead(&self, death: &ProcessDeath) {
        self.close(&death.report("", None).to_string());
        // The caller, who knows it, puts the role in.
        self.end_waits(|life| Outcome::Dead(Box::new(death.report("", Some(ActorId(life.0))))));
    }

    /// Nobody said how the peer ended: those who still wait are told that nothing is known.
    pub(crate) fn give_up(&self) {
        let why = match &self.lock().phase {
            Phase::Closed(why) => format!("the connection to {} was lost: {why}", self.peer),
            Phase::Connecting | Phase::Open { .. } => return,
        };
        self.end_waits(|_| Outcome::Unknown(why.clone()));
    }

    fn end_waits(&self, outcome: impl Fn(Life) -> Outcome) {
        let mut state = self.lock();
        let calls = state.pending.take_all();
        let mut done: Finished =
            calls.iter().map(|(_, call)| (call.slot.clone(), outcome(call.life))).collect();
        for (life, slots) in std::mem::take(&mut state.watches) {
            done.extend(slots.into_iter().map(|slot| (slot, outcome(life))));
        }
        self.unlock(state, done);
        drop(calls);
    }
}
