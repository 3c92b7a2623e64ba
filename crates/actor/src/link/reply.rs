//! Answers to the peer's calls.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use super::{Link, Phase, State, outlet::pieces};
use crate::{
    System,
    large::{LARGE, Parcel, Payload},
    protocol::{Extension, Kind, encode_outcome, status},
    slot::{Givers, Outcome},
};

/// An actor waits with its next message while its caller's replies take more than this, in bytes.
const REPLY_SHARE: usize = 8 << 20;
/// Replies beyond this many bytes are replaced by an error: their receiver does not read.
const REPLY_LIMIT: usize = 256 << 20;
/// Stored replies whose fate is followed; older ones are taken for opened.
const MAX_LENT: usize = 256;

impl Link {
    /// Answers the peer's call number `call`.
    pub(crate) fn reply(self: &Arc<Self>, call: u64, outcome: Outcome) {
        let system = match &outcome {
            Outcome::Reply { bytes, .. } if bytes.len() >= LARGE => self.system.upgrade().map(System::of),
            _ => None,
        };
        if let Outcome::Reply { bytes, .. } = &outcome
            && let Some(system) = &system
            && let Some(parcel) = system.put_large_now(bytes, &self.peer)
        {
            system.watch_process(&self.peer);
            let mut state = self.lock();
            self.push_stored(&mut state, call, parcel);
            self.unlock(state, Vec::new());
            return;
        }
        if let Outcome::Reply { bytes, .. } = &outcome
            && let Some(system) = system
            && let Some(put) = system.put_large(bytes.clone(), &self.peer)
        {
            // Its share of the store is freed when the receiver is gone, so that is to be heard of.
            system.watch_process(&self.peer);
            self.lock().storing += 1;
            let link = self.clone();
            system.executor().spawn(async move {
                let payload = put.await;
                let mut state = link.lock();
                state.storing -= 1;
                match payload {
                    Payload::Stored(parcel) => link.push_stored(&mut state, call, parcel),
                    Payload::Inline(bytes) => {
                        link.push_reply(&mut state, call, Outcome::Reply { bytes, origin: None });
                    }
                }
                link.unlock(state, Vec::new());
                // Whoever waits for the last replies waits for this one too.
                link.work.notify_one();
            });
            return;
        }
        let mut state = self.lock();
        self.push_reply(&mut state, call, outcome);
        self.unlock(state, Vec::new());
    }

    /// Whether the peer still waits for its call number `call`.
    pub(crate) fn is_wanted(&self, call: u64) -> bool {
        // As a rule nothing is unwanted, and asked for each call.
        self.unwanted.load(Ordering::Acquire) == 0 || self.lock().owed.get(&call) == Some(&true)
    }

    /// Ready once the peer no longer waits for its call number `call`.
    pub(crate) fn poll_unwanted(&self, call: u64, giver: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.owed.get(&call) != Some(&true) {
            return Poll::Ready(());
        }
        state.givers.entry(call).or_default().remember(giver, cx.waker());
        Poll::Pending
    }

    /// This giver of an answer to call number `call` no longer waits.
    pub(crate) fn forget_giver(&self, call: u64, giver: u64) {
        let mut state = self.lock();
        if let Some(givers) = state.givers.get_mut(&call) {
            givers.forget(giver);
            if givers.is_empty() {
                state.givers.remove(&call);
            }
        }
    }

    /// Waits until this peer's share for replies has room.
    pub(crate) async fn reply_room(&self) {
        while self.control_bytes.load(Ordering::Acquire) > REPLY_SHARE {
            let notified = self.room.notified();
            if self.control_bytes.load(Ordering::Acquire) <= REPLY_SHARE || self.is_closed() {
                return;
            }
            notified.await;
        }
    }

    fn push_reply(&self, state: &mut State, call: u64, outcome: Outcome) {
        if !self.settle_debt(state, call) {
            return;
        }
        let (mut status, mut payload) = encode_outcome(outcome);
        if self.control_bytes.load(Ordering::Relaxed) + payload.len() > REPLY_LIMIT {
            (status, payload) = encode_outcome(Outcome::Failed(vec![format!(
                "the reply of {} bytes does not fit: {REPLY_LIMIT} bytes of replies wait for this caller's network",
                payload.len()
            )]));
        }
        let extension =
            Extension { call, flags: status, total: payload.len() as u64, ..Extension::default() };
        for piece in pieces(Kind::Reply, Kind::ReplyPiece, 0, 0, 0, extension, payload) {
            self.push_control(state, piece);
        }
    }

    /// Call number `call` of the peer is being answered. Returns whether the answer is wanted.
    fn settle_debt(&self, state: &mut State, call: u64) -> bool {
        state.wake_givers(call);
        let wanted = state.owed.remove(&call);
        if wanted == Some(false) {
            self.unwanted.fetch_sub(1, Ordering::AcqRel);
        }
        wanted == Some(true) && matches!(state.phase, Phase::Open { .. })
    }

    /// A reply that nobody waits for any more is dropped, which takes it out of the store.
    fn push_stored(&self, state: &mut State, call: u64, parcel: Parcel) {
        if !self.settle_debt(state, call) {
            return;
        }
        let payload = parcel.description().clone();
        let total = payload.len() as u64;
        let extension = Extension { call, flags: status::STORED, total, ..Extension::default() };
        for piece in pieces(Kind::Reply, Kind::ReplyPiece, 0, 0, 0, extension, payload) {
            self.push_control(state, piece);
        }
        state.lent.push_back(parcel);
        if state.lent.len() > MAX_LENT
            && let Some(oldest) = state.lent.pop_front()
        {
            oldest.hand_over();
        }
    }
}

impl State {
    /// Whoever would give an answer to call number `call` is told that it is not wanted any more.
    pub(super) fn wake_givers(&mut self, call: u64) {
        // Few calls have such: most of the time the table is empty.
        if !self.givers.is_empty() {
            self.to_wake.extend(self.givers.remove(&call).into_iter().flat_map(Givers::into_wakers));
        }
    }
}
