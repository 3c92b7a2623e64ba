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

/// Frames that are acted on at once, at most.
const BATCH: usize = 256;

/// Reads frames until the connection ends; returns why it did.
pub(crate) async fn read(system: System, link: Arc<Link>, mut lane: LaneReceiver) -> String {
    let mut taken = Incomings::default();
    loop {
        let mut frame = match lane.recv().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "the peer finished the lane".to_owned(),
            Err(error) => return error.to_string(),
        };
        // What has come together is acted on together: its locks are taken once, and whoever it is for is woken once.
        let mut count = 1;
        let broken = loop {
            if let Err(why) = taken.take(&system, &link, frame) {
                break Some(why);
            }
            count += 1;
            frame = match lane.try_recv() {
                Ok(Some(frame)) if count <= BATCH => frame,
                Ok(Some(frame)) => break taken.take(&system, &link, frame).err(),
                Ok(None) => break None,
                Err(error) => {
                    // The lane has closed the connection.
                    let _ = taken.act(&link);
                    return error.to_string();
                }
            };
        };
        // What came before what broke a rule stands.
        if let Some(why) = taken.act(&link).err().or(broken) {
            link.protocol_error(&why);
            return why;
        }
    }
}

/// What a peer's frames have brought and what has not been acted on, in the order in which it came.
#[derive(Default)]
pub(crate) struct Incomings {
    calls: Assembly,
    replies: Assembly,
    /// Replies to calls of this process.
    answered: Vec<(u64, Outcome)>,
    /// Messages for one actor, and which of them are to be answered.
    receiver: Option<((u64, u64), Arc<Cell>)>,
    delivered: Vec<Envelope>,
    asked: Vec<u64>,
}

impl Incomings {
    /// Takes one frame; whoever has taken the last one for now [acts](Self::act).
    pub(crate) fn take(&mut self, system: &System, link: &Arc<Link>, frame: Frame) -> Result<(), String> {
        let Frame { header, extension, payload } = frame;
        let kind = Kind::of(header.kind);
        let read = Extension::decode(&extension)?;
        if kind == Some(Kind::Reply) && read.flags == status::REPLY && read.total == payload.len() as u64 {
            self.act_on_calls(link)?;
            self.replies.expect_none()?;
            self.answered.push((read.call, Outcome::Reply { bytes: payload, origin: None }));
            return Ok(());
        }
        let life = (read.actor, header.incarnation);
        let whole = kind == Some(Kind::Call) && read.total == payload.len() as u64;
        if whole && read.key.is_none() {
            self.act_on_replies(link);
            self.calls.expect_none()?;
            if self.receiver.as_ref().is_none_or(|(known, _)| *known != life) {
                self.act_on_calls(link)?;
                self.receiver = find(system, life).ok().map(|cell| (life, cell));
            }
            if self.receiver.is_some() {
                self.deliver(system, link, header.trace, &read, payload);
                return Ok(());
            }
        }
        self.act(link)?;
        take(system, link, Frame { header, extension, payload }, &mut self.calls, &mut self.replies)
    }

    fn deliver(
        &mut self,
        system: &System,
        link: &Arc<Link>,
        trace: u64,
        extension: &Extension,
        payload: AlignedBytes,
    ) {
        let reply = match extension.call {
            0 => ReplyTo::Nobody,
            call => {
                self.asked.push(call);
                ReplyTo::Remote(link.clone(), call)
            }
        };
        self.delivered.push(envelope(system, link, trace, extension, payload, reply));
    }

    /// Acts on all that was taken.
    pub(crate) fn act(&mut self, link: &Link) -> Result<(), String> {
        self.act_on_replies(link);
        self.act_on_calls(link)
    }

    fn act_on_replies(&mut self, link: &Link) {
        if !self.answered.is_empty() {
            link.on_replies(&mut self.answered);
        }
    }

    fn act_on_calls(&mut self, link: &Link) -> Result<(), String> {
        let Some((_, cell)) = self.receiver.take() else { return Ok(()) };
        link.on_asks(&self.asked)?;
        self.asked.clear();
        cell.deliver_all(link.key, self.delivered.drain(..)).map_err(|fault| fault.to_string())
    }
}

/// What a message is in a mailbox.
fn envelope(
    system: &System,
    link: &Link,
    trace: u64,
    extension: &Extension,
    payload: AlignedBytes,
    reply: ReplyTo,
) -> Envelope {
    let cost = Credits::of_message(payload.len());
    let payload = match extension.flags & STORED {
        0 => Payload::Inline(payload),
        _ => Payload::Stored(system.received(payload)),
    };
    let deadline = (extension.amount > 0)
        .then(|| Instant::now().checked_add(Duration::from_micros(extension.amount)))
        .flatten();
    Envelope {
        message: extension.message,
        paid: Some((link.key, cost)),
        payload,
        origin: None,
        reply,
        deadline,
        trace,
    }
}

fn take(
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
                link.on_replies(&mut vec![(extension.call, outcome)]);
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
            link.on_asks(&[call])?;
            ReplyTo::Remote(link.clone(), call)
        }
    };
    let mut envelope = envelope(system, link, trace, extension, payload, ReplyTo::Nobody);
    let cell = match find(system, life) {
        Ok(cell) => cell,
        Err(outcome) => {
            reply.finish(outcome);
            return Ok(());
        }
    };
    envelope.reply = match (extension.key, reply) {
        (Some(key), ReplyTo::Remote(link, call)) => match cell.kept().find(&link, call, key) {
            Found::New(kept) => ReplyTo::Kept(kept),
            not_new => {
                if let Found::Refused(outcome) = not_new {
                    link.reply(call, outcome);
                }
                let (_, cost) = envelope.paid.unwrap_or((link.key, Credits::NONE));
                let untold = cell.passed_by(link.key, cost).map_err(|fault| fault.to_string())?;
                system.apply(&cell, untold);
                return Ok(());
            }
        },
        (_, reply) => reply,
    };
    cell.deliver_all(link.key, [envelope].into_iter()).map_err(|fault| fault.to_string())
}

/// Puts the pieces of one payload together. Memory is taken as pieces come, not as they are announced.
#[derive(Default)]
pub(crate) struct Assembly {
    open: Option<(u64, AlignedVec)>,
}

impl Assembly {
    fn expect_none(&self) -> Result<(), String> {
        match self.open {
            Some(_) => Err("a payload began before the one before it was complete".to_owned()),
            None => Ok(()),
        }
    }

    /// The payload, when `piece` completes it.
    fn add(&mut self, first: bool, total: u64, piece: AlignedBytes) -> Result<Option<AlignedBytes>, String> {
        let here = piece.len() as u64;
        if first {
            self.expect_none()?;
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
