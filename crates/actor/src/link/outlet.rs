//! The way to each remote actor: calls wait there, in order, until their credit has come.

use std::{collections::VecDeque, time::Instant};

use lyceum_wire::{AlignedBytes, Frame};

use super::{CALL_SHARE, Finished, Life, Phase, State};
use crate::{
    credit::{Credits, Purse},
    inbound::MAX_ASSEMBLED,
    large::Payload,
    pending::Queued,
    protocol::{self, Extension, Kind, STORED, frame},
    slot::Outcome,
};

/// A longer payload goes in pieces of this size, in bytes.
const PIECE: usize = 256 * 1024;

/// The way to one remote actor.
pub(super) struct Outlet {
    pub(super) role: String,
    pub(super) fingerprint: u64,
    pub(super) purse: Purse,
    /// Calls that wait for credit, in order.
    pub(super) queue: VecDeque<u64>,
}

impl State {
    /// Moves calls of one outlet to the writer as far as credit reaches.
    pub(super) fn release(&mut self, life: Life, done: &mut Finished) {
        let Some(outlet) = self.outlets.get_mut(&life) else { return };
        let hello = match &self.phase {
            Phase::Open { hello, .. } => hello,
            Phase::Connecting | Phase::Closed(_) => return,
        };
        if let Some(theirs) = hello.fingerprint(&outlet.role)
            && theirs != outlet.fingerprint
        {
            let why = format!(
                "role {} differs: its fingerprint is {:#x} here and {theirs:#x} there; build both programs from \
                 the same sources",
                outlet.role, outlet.fingerprint
            );
            self.refuse(life, &Outcome::Refused(why), done);
            return;
        }
        while let Some(&call) = outlet.queue.front() {
            if self.call_bytes > CALL_SHARE {
                return;
            }
            let Some(entry) = self.pending.get_mut(call) else {
                outlet.queue.pop_front();
                continue;
            };
            // A message that is still being stored keeps its place in the order.
            let Some(payload) = entry.queued.as_ref().and_then(|queued| queued.payload.as_ref()) else {
                return;
            };
            if payload.len() as u64 > MAX_ASSEMBLED {
                let why = format!(
                    "the message has {} bytes: above {MAX_ASSEMBLED} bytes it must find room in the store",
                    payload.len()
                );
                done.extend(self.pending.remove(call).map(|call| (call.slot, Outcome::NotSent(why))));
                outlet.queue.pop_front();
                continue;
            }
            if !outlet.purse.spend(Credits::of_message(payload.len())) {
                self.short.push(life);
                return;
            }
            outlet.queue.pop_front();
            let Some(Queued { payload: Some(payload), message, deadline, trace, key, job }) =
                entry.queued.take()
            else {
                continue;
            };
            let left = deadline.map_or(0, |deadline| {
                let left = deadline.saturating_duration_since(Instant::now()).as_micros();
                u64::try_from(left).unwrap_or(u64::MAX).max(1)
            });
            let extension = Extension {
                actor: life.0,
                call: if entry.ask { call } else { 0 },
                message,
                flags: if matches!(payload, Payload::Stored(_)) { STORED } else { 0 },
                amount: left,
                total: payload.len() as u64,
                key,
                ..Extension::default()
            };
            let bytes = payload.bytes().clone();
            match payload {
                Payload::Stored(parcel) if entry.ask => entry.parcel = Some(parcel),
                // From here on the frame is what knows of it.
                Payload::Stored(parcel) => parcel.hand_over(),
                Payload::Inline(_) => {}
            }
            let ask = entry.ask;
            for piece in pieces(Kind::Call, Kind::CallPiece, life.1, job, trace, extension, bytes) {
                self.call_bytes += piece.wire_len();
                self.calls.push_back(piece);
            }
            if !ask && let Some(tell) = self.pending.remove(call) {
                done.push((tell.slot, Outcome::Sent));
            }
        }
    }

    /// The requests for credit that have become due.
    pub(super) fn take_requests(&mut self) -> Vec<Frame> {
        let mut requests = Vec::new();
        for life in std::mem::take(&mut self.short) {
            let Some(outlet) = self.outlets.get_mut(&life) else { continue };
            let waiting = outlet.queue.front().and_then(|call| self.pending.get(*call));
            let Some(payload) = waiting.and_then(|call| call.queued.as_ref()?.payload.as_ref()) else {
                continue;
            };
            let Some(returning) = outlet.purse.request() else { continue };
            let extension = Extension {
                actor: life.0,
                message: outlet.fingerprint,
                count: returning.count,
                amount: returning.bytes,
                total: payload.len() as u64,
                ..Extension::default()
            };
            requests.push(frame(Kind::Request, life.1, 0, 0, &extension, AlignedBytes::default()));
        }
        requests
    }

    /// Nothing more can be sent to this actor: what waits for credit is handed back with `outcome`.
    pub(super) fn refuse(&mut self, life: Life, outcome: &Outcome, done: &mut Finished) {
        let Some(outlet) = self.outlets.remove(&life) else { return };
        for call in outlet.queue {
            done.extend(self.pending.remove(call).map(|call| (call.slot, outcome.clone())));
        }
    }

    /// The mailbox can never take a message of `bytes`: the one that asked for credit is handed back, those behind
    /// it go on.
    pub(super) fn refuse_one(&mut self, life: Life, bytes: u64, outcome: &Outcome, done: &mut Finished) {
        let Some(outlet) = self.outlets.get_mut(&life) else { return };
        outlet.purse.granted(Credits::NONE, true);
        let too_large = outlet.queue.iter().copied().find(|call| {
            let queued = self.pending.get(*call).and_then(|call| call.queued.as_ref());
            queued
                .and_then(|queued| queued.payload.as_ref())
                .is_some_and(|payload| payload.len() as u64 == bytes)
        });
        // Its place in the queue is skipped once it is empty.
        done.extend(
            too_large.and_then(|call| self.pending.remove(call)).map(|call| (call.slot, outcome.clone())),
        );
        self.release(life, done);
    }

    pub(super) fn push_call(&mut self, frame: Frame) {
        self.call_bytes += frame.wire_len();
        self.calls.push_back(frame);
    }
}

/// `payload` as one frame, or as several that the peer puts together.
pub(super) fn pieces(
    first: Kind,
    further: Kind,
    incarnation: u64,
    job: u64,
    trace: u64,
    extension: Extension,
    payload: AlignedBytes,
) -> impl Iterator<Item = Frame> {
    let mut rest = Some((first, payload));
    std::iter::from_fn(move || {
        let (kind, payload) = rest.take()?;
        if payload.len() <= PIECE {
            return Some(protocol::frame(kind, incarnation, job, trace, &extension, payload));
        }
        let mut bytes = payload.into_bytes();
        let piece = AlignedBytes::from_bytes(bytes.split_to(PIECE));
        rest = Some((further, AlignedBytes::from_bytes(bytes)));
        Some(protocol::frame(kind, incarnation, job, trace, &extension, piece))
    })
}
