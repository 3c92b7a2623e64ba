//! What a silent node means for the calls to it: see [`crate::suspicion`].

use lyceum_wire::{AlignedBytes, Connection};

use super::{Finished, Link, Phase};
use crate::{
    protocol::{Extension, Kind, frame},
    slot::Outcome,
};

impl Link {
    /// Sends something that the peer's end must acknowledge. Returns how much was heard of it before; `None` without a
    /// connection.
    pub(crate) fn probe(&self) -> Option<u64> {
        let heard = self.heard()?;
        self.control(Kind::Probe, 0, Extension::default(), AlignedBytes::default());
        Some(heard)
    }

    /// How much was heard of the peer so far; `None` without a connection.
    pub(crate) fn heard(&self) -> Option<u64> {
        self.connection().map(|connection| connection.heard())
    }

    /// The peer's node is silent, and the peer too. Calls that were sent end as unreachable, those that were not come
    /// back, and so do further ones; patient ones wait on.
    pub(crate) fn fall_silent(&self, why: &str) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        if state.silence.is_none() {
            tracing::warn!(peer = %self.peer, why, "a peer is unreachable");
        }
        state.silence = Some(why.to_owned());
        let calls = state.pending.take_if(|call| !call.patient);
        let mut done: Finished = Vec::new();
        for (number, call) in &calls {
            let outcome = match call.queued {
                Some(_) => Outcome::NotSent(why.to_owned()),
                None => Outcome::Unreachable(why.to_owned()),
            };
            done.push((call.slot.clone(), outcome));
            if call.queued.is_none() && call.ask && matches!(state.phase, Phase::Open { .. }) {
                // Should the node come back, what waits in a mailbox there need not be done.
                let extension = Extension { actor: call.life.0, call: *number, ..Extension::default() };
                let cancel = frame(Kind::Cancel, call.life.1, 0, 0, &extension, AlignedBytes::default());
                state.push_call(cancel);
            }
        }
        self.unlock(state, done);
        // What they hold of the store is given back.
        drop(calls);
    }

    /// The peer, or its node, is heard of again.
    pub(crate) fn speak_again(&self) {
        let spoken = self.lock().silence.take();
        if spoken.is_some() {
            tracing::info!(peer = %self.peer, "a peer is heard of again");
        }
    }

    fn connection(&self) -> Option<Connection> {
        match &self.lock().phase {
            Phase::Open { connection, .. } => Some(connection.clone()),
            Phase::Connecting | Phase::Closed(_) => None,
        }
    }
}
