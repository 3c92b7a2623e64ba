//! One message under way, whatever its type: sent, waited for, given up.

use std::{
    any::TypeId,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    ActorAddress, Message, System,
    cell::{Envelope, LOCAL, Offered},
    clock,
    credit::Credits,
    kept::CallKey,
    large::{LARGE, Payload},
    link::{Link, Request},
    message::{encode_to, message_id},
    output::Output,
    reference::Route,
    reply::ReplyTo,
    slot::{Outcome, Slot},
};
use futures_util::future::BoxFuture;

/// A message as it is sent, and how.
#[derive(Clone)]
pub(crate) struct Letter {
    /// The receiver's role as the sender knows it.
    pub(crate) fingerprint: u64,
    /// The number of the message's type.
    pub(crate) message: u64,
    pub(crate) payload: Payload,
    /// The type that this process archived into the payload, if it did.
    pub(crate) origin: Option<TypeId>,
    pub(crate) ask: bool,
    /// Waits on while the receiver's node is silent.
    pub(crate) patient: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) trace: u64,
    /// Of a call that may be sent again; of no use within a process.
    pub(crate) key: Option<CallKey>,
    /// It will be, if this time it has no answer.
    pub(crate) again: bool,
    /// It has not been sent before.
    pub(crate) first: bool,
}

impl Letter {
    /// `message`, to be asked, without a deadline.
    pub(crate) fn of<M: Message>(message: &M, fingerprint: u64) -> Result<Letter, Outcome> {
        Letter::written(message, fingerprint, Output::default())
    }

    /// The same, for who is at the end of `route`, and nobody else.
    pub(crate) fn along<M: Message>(
        message: &M,
        fingerprint: u64,
        system: &System,
        route: &Route,
    ) -> Result<Letter, Outcome> {
        Letter::written(message, fingerprint, Output::from(system.source(route)))
    }

    fn written<M: Message>(message: &M, fingerprint: u64, output: Output) -> Result<Letter, Outcome> {
        let output = encode_to(message, output)
            .map_err(|error| Outcome::NotSent(format!("the message cannot be archived: {error}")))?;
        Ok(Letter {
            fingerprint,
            message: message_id::<M>(),
            payload: output.into_payload(),
            origin: Some(TypeId::of::<M>()),
            ask: true,
            patient: false,
            deadline: None,
            trace: 0,
            key: None,
            again: false,
            first: true,
        })
    }
}

/// A call that was submitted. Dropping it gives it up.
pub(crate) struct Submission {
    system: System,
    slot: Arc<Slot>,
    remote: Option<Remote>,
    timer: Option<clock::Key>,
    /// A large message on its way into the store.
    storing: Option<BoxFuture<'static, Payload>>,
}

/// Where a call to another process is under way.
struct Remote {
    link: Arc<Link>,
    call: u64,
    life: (u64, u64),
    /// Its key, if it was sent nowhere else: nothing need be kept for it once it is over.
    key: Option<u64>,
}

impl Submission {
    /// Sends. What has ended at once is the error.
    pub(crate) fn new(
        system: &System,
        to: &ActorAddress,
        route: Route,
        letter: Letter,
    ) -> Result<Submission, Outcome> {
        let Letter { fingerprint, message, payload, origin, ask, patient, trace, key, again, first, .. } =
            letter;
        let slot = Arc::new(Slot::default());
        let deadline = letter.deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let mut sent = Submission {
            system: system.clone(),
            slot: slot.clone(),
            remote: None,
            timer: None,
            storing: None,
        };
        match route {
            Route::Local(cell) => {
                let envelope = Envelope {
                    message,
                    paid: Some((LOCAL, Credits::of_message(payload.len()))),
                    payload,
                    origin,
                    reply: if ask { ReplyTo::Local(slot.clone()) } else { ReplyTo::Nobody },
                    deadline,
                    trace,
                };
                let (offered, untold) = cell.offer(envelope, (!ask).then(|| slot.clone()));
                system.apply(&cell, untold);
                match offered {
                    Offered::Queued if !ask => return Err(Outcome::Sent),
                    Offered::Queued | Offered::Held => {}
                    Offered::Rejected(outcome) => return Err(outcome),
                }
            }
            Route::Remote(link) => {
                sent.storing = match &payload {
                    Payload::Inline(bytes) if bytes.len() >= LARGE => {
                        system.put_large(bytes.clone(), &link.peer)
                    }
                    _ => None,
                };
                let call = link.submit(Request {
                    to,
                    fingerprint,
                    message,
                    payload: sent.storing.is_none().then_some(payload),
                    ask,
                    patient,
                    deadline,
                    trace,
                    key,
                    again,
                    slot: slot.clone(),
                })?;
                let life = (to.actor.0, to.incarnation);
                sent.remote =
                    Some(Remote { link, call, life, key: key.filter(|_| first).map(|key| key.key) });
            }
        }
        sent.timer = letter.deadline.map(|deadline| {
            system.clock().after(deadline, move || {
                slot.complete(Outcome::Deadline);
            })
        });
        if let Some(timer) = sent.timer.filter(|_| !sent.slot.is_open()) {
            system.clock().cancel(timer);
        }
        Ok(sent)
    }

    /// How it ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(storing) = &mut self.storing
            && let Poll::Ready(payload) = storing.as_mut().poll(cx)
        {
            self.storing = None;
            if let Some(Remote { link, call, .. }) = &self.remote {
                link.supply(*call, payload);
            }
        }
        let polled = self.slot.poll(cx);
        if let Poll::Ready(outcome) = &polled
            && let Some(Remote { link, call, life, key }) = self.remote.take()
        {
            match outcome {
                Outcome::Deadline => link.forget(call, key),
                Outcome::Reply { .. } | Outcome::Stored(_) | Outcome::Failed(_) if key.is_some() => {
                    link.settled(life, call, key);
                }
                // Of any other end the link knows.
                _ => {}
            }
        }
        polled
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        self.slot.close();
        if let Some(timer) = self.timer {
            self.system.clock().cancel(timer);
        }
        if let Some(Remote { link, call, key, .. }) = self.remote.take() {
            link.forget(call, key);
        }
    }
}
