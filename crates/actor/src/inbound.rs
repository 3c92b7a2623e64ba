//! What a peer's frames do. The reader never waits: what it cannot place is an error of the peer's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lyceum_wire::{AlignedBytes, Frame, LaneReceiver};
use rkyv::util::AlignedVec;

use crate::{
    ActorId, System,
    cell::{Cell, Envelope},
    credit::{CreditFault, Credits},
    kept::{CallKey, Found},
    large::Payload,
    link::Link,
    protocol::{ANSWER, Extension, Kind, STORED, decode_death, decode_outcome, status},
    reply::ReplyTo,
    slot::Outcome,
};

/// The longest message or reply that is taken in pieces, in bytes. Longer ones travel through the store or not at all.
pub(crate) const MAX_ASSEMBLED: u64 = 256 << 20;

/// Reads frames until the connection ends; returns why it did.
pub(crate) async fn read(system: System, link: Arc<Link>, mut lane: LaneReceiver) -> String {
    let mut calls = Assembly::default();
    let mut replies = Assembly::default();
    loop {
        let frame = match lane.recv().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "the peer finished the lane".to_owned(),
            Err(error) => return error.to_string(),
        };
        if let Err(why) = take(&system, &link, frame, &mut calls, &mut replies) {
            link.protocol_error(&why);
            return why;
        }
    }
}

pub(crate) fn take(
    system: &System,
    link: &Arc<Link>,
    frame: Frame,
    calls: &mut Assembly,
    replies: &mut Assembly,
) -> Result<(), String> {
    let kind = Kind::of(frame.header.kind)
        .ok_or_else(|| format!("a frame has the unknown kind {}", frame.header.kind))?;
    let extension = Extension::decode(&frame.extension)?;
    let life = (extension.actor, frame.header.incarnation);
    let credits = Credits { count: extension.count, bytes: extension.amount };
    match kind {
        Kind::Call | Kind::CallPiece => {
            if let Some(payload) = calls.add(kind == Kind::Call, extension.total, frame.payload)? {
                call(system, link, life, frame.header.trace, &extension, payload)?;
            }
        }
        Kind::Cancel => {
            link.on_cancel(extension.call);
            if let (Some(CallKey { key, .. }), Ok(cell)) = (extension.key, find(system, life)) {
                cell.settle_kept(link, key);
            }
        }
        Kind::Reply | Kind::ReplyPiece => {
            if let Some(payload) = replies.add(kind == Kind::Reply, extension.total, frame.payload)? {
                let outcome = match extension.flags {
                    status::STORED => Outcome::Stored(system.received(payload)),
                    status => decode_outcome(status, payload)?,
                };
                link.on_reply(extension.call, outcome);
            }
        }
        Kind::Request => request(system, link, life, credits, &extension)?,
        Kind::Grant => link.on_grant(life, credits, extension.flags & ANSWER != 0),
        Kind::Refuse => {
            link.on_refuse(life, extension.total, &decode_outcome(extension.flags, frame.payload)?)
        }
        Kind::Reclaim => link.on_reclaim(life),
        Kind::Return => {
            if let Ok(cell) = find(system, life) {
                // A dead actor's ledger is of no interest any more.
                if let Ok((returned, untold)) = cell.credit_returned(link.key, credits) {
                    system.apply(&cell, untold);
                    returned.map_err(|fault| fault.to_string())?;
                }
            }
        }
        Kind::Watch => {
            let watched =
                find(system, life).and_then(|cell| cell.watch_from(link.key).map_err(Outcome::Dead));
            match watched {
                Ok(()) => {}
                Err(Outcome::Dead(report)) => link.tell_death(life, &report),
                Err(other) => link.tell_death(life, &system.never_lived(life.0, other)),
            }
        }
        Kind::Death => link.on_death(life, decode_death(&frame.payload)?),
        // That its packet is acknowledged is all its sender wants.
        Kind::Probe => {}
    }
    Ok(())
}

/// The actor that is meant, alive and in that incarnation, or what its caller is told.
fn find(system: &System, (actor, incarnation): (u64, u64)) -> Result<Arc<Cell>, Outcome> {
    system.find(ActorId(actor), incarnation)
}

fn request(
    system: &System,
    link: &Arc<Link>,
    life: (u64, u64),
    returning: Credits,
    extension: &Extension,
) -> Result<(), String> {
    let cell = match find(system, life) {
        Ok(cell) => cell,
        Err(outcome) => {
            link.refuse(life, 0, outcome);
            return Ok(());
        }
    };
    if cell.fingerprint != extension.message {
        let why = format!(
            "role {} differs: its fingerprint is {:#x} here and {:#x} at the caller; build both programs from the \
             same sources",
            cell.address.role, cell.fingerprint, extension.message
        );
        tracing::warn!(peer = %link.peer, why, "calls are refused");
        link.refuse(life, 0, Outcome::Refused(why));
        return Ok(());
    }
    let cost = Credits { count: 1, bytes: extension.total };
    match cell.credit_asked(link.key, returning, cost) {
        Err(outcome) => link.refuse(life, 0, outcome),
        Ok((Ok(()), untold)) => system.apply(&cell, untold),
        Ok((Err(fault @ CreditFault::TooLarge { .. }), untold)) => {
            system.apply(&cell, untold);
            link.refuse(life, extension.total, Outcome::NotSent(fault.to_string()));
        }
        Ok((Err(fault), _)) => return Err(fault.to_string()),
    }
    Ok(())
}

fn call(
    system: &System,
    link: &Arc<Link>,
    life: (u64, u64),
    trace: u64,
    extension: &Extension,
    payload: AlignedBytes,
) -> Result<(), String> {
    let reply = match extension.call {
        0 => ReplyTo::Nobody,
        call => {
            link.on_ask(call)?;
            ReplyTo::Remote(link.clone(), call)
        }
    };
    let cost = Credits::of_message(payload.len());
    let payload = match extension.flags & STORED {
        0 => Payload::Inline(payload),
        _ => Payload::Stored(system.received(payload)),
    };
    let cell = match find(system, life) {
        Ok(cell) => cell,
        Err(outcome) => {
            reply.finish(outcome);
            return Ok(());
        }
    };
    let deadline = (extension.amount > 0)
        .then(|| Instant::now().checked_add(Duration::from_micros(extension.amount)))
        .flatten();
    let reply = match (extension.key, reply) {
        (Some(key), ReplyTo::Remote(link, call)) => match cell.kept().find(&link, call, key) {
            Found::New(kept) => ReplyTo::Kept(kept),
            not_new => {
                if let Found::Refused(outcome) = not_new {
                    link.reply(call, outcome);
                }
                let untold = cell.passed_by(link.key, cost).map_err(|fault| fault.to_string())?;
                system.apply(&cell, untold);
                return Ok(());
            }
        },
        (_, reply) => reply,
    };
    let envelope = Envelope {
        message: extension.message,
        paid: Some((link.key, cost)),
        payload,
        origin: None,
        reply,
        deadline,
        trace,
    };
    cell.deliver(link.key, envelope).map_err(|fault| fault.to_string())
}

/// Puts the pieces of one payload together. Memory is taken as pieces come, not as they are announced.
#[derive(Default)]
pub(crate) struct Assembly {
    open: Option<(u64, AlignedVec)>,
}

impl Assembly {
    /// The payload, when `piece` completes it.
    fn add(&mut self, first: bool, total: u64, piece: AlignedBytes) -> Result<Option<AlignedBytes>, String> {
        let here = piece.len() as u64;
        if first {
            if self.open.is_some() {
                return Err("a payload began before the one before it was complete".to_owned());
            }
            if here == total {
                return Ok(Some(piece));
            }
            if total > MAX_ASSEMBLED || here > total {
                return Err(format!("a payload of {total} bytes begins with {here} bytes"));
            }
            let mut bytes = AlignedVec::new();
            bytes.extend_from_slice(&piece);
            self.open = Some((total, bytes));
            return Ok(None);
        }
        let Some((total, bytes)) = &mut self.open else {
            return Err("a piece came that belongs to no payload".to_owned());
        };
        if here == 0 || bytes.len() as u64 + here > *total {
            return Err(format!("a piece of {here} bytes does not fit a payload of {total} bytes"));
        }
        bytes.extend_from_slice(&piece);
        if (bytes.len() as u64) < *total {
            return Ok(None);
        }
        Ok(self.open.take().map(|(_, bytes)| bytes.into()))
    }
}
