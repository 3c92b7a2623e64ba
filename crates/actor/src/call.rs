//! Calls under way: futures that send when they are first polled.

use std::{
    any::TypeId,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use lyceum_wire::AlignedBytes;

use crate::{
    Accepts, ActorRef, CallError, Incoming, Message, ReplyOf,
    cell::{Envelope, LOCAL, Offered},
    clock,
    credit::Credits,
    large::{LARGE, Payload},
    link::{Link, Request},
    message::{encode, message_id},
    reference::Route,
    reply::ReplyTo,
    slot::{Outcome, Slot},
};

/// A call that answers with the receiver's reply. Sent when it is first polled; dropping it takes the message
/// back if it has not left, and else tells the receiver that nobody waits.
#[must_use = "nothing is sent until this is awaited"]
pub struct Ask<R: Accepts<M>, M: Message> {
    outgoing: Outgoing<R, M>,
    /// The reply is being fetched from the store.
    opening: Option<BoxFuture<'static, Result<AlignedBytes, String>>>,
}

impl<R: Accepts<M>, M: Message> Ask<R, M> {
    pub(crate) fn new(target: ActorRef<R>, message: M) -> Self {
        Ask { outgoing: Outgoing::new(target, message), opening: None }
    }

    /// How long the answer may take, counted from when the call is sent. It travels with the message as the time
    /// that remains.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.outgoing.deadline = Some(deadline);
        self
    }

    /// Waits on when the receiver's node falls silent, until an answer or the verdict comes. Without it such a call ends
    /// with [`CallError::Unreachable`] within seconds, long before the node is given up. For calls that take long by
    /// nature and that a node which comes back shall still answer.
    pub fn through_silence(mut self) -> Self {
        self.outgoing.patient = true;
        self
    }

    /// The number by which this call, and calls made on behalf of it, can be followed through logs.
    pub fn trace(mut self, trace: u64) -> Self {
        self.outgoing.trace = trace;
        self
    }
}

impl<R: Accepts<M>, M: Message> Future for Ask<R, M> {
    type Output = Result<Incoming<ReplyOf<R, M>>, CallError<M>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (bytes, origin) = match &mut this.opening {
            Some(opening) => match ready!(opening.as_mut().poll(cx)) {
                Ok(bytes) => (bytes, None),
                Err(why) => {
                    let why = format!("it was executed, but its reply could not be opened: {why}");
                    return Poll::Ready(Err(CallError::Unknown(why)));
                }
            },
            None => match ready!(this.outgoing.poll(cx, true)) {
                Outcome::Reply { bytes, origin } => (bytes, origin),
                Outcome::Stored(parcel) => {
                    this.opening = Some(Box::pin(parcel.open()));
                    return self.poll(cx);
                }
                outcome => return Poll::Ready(Err(this.outgoing.error(outcome))),
            },
        };
        let system = this.outgoing.target.system();
        Poll::Ready(Incoming::new(bytes, origin, system).map_err(|why| {
            CallError::Unknown(format!("it was executed, but its reply does not validate: {why}"))
        }))
    }
}

/// A call without an answer: done when the message is on its way, in the order of this sender's messages.
#[must_use = "nothing is sent until this is awaited"]
pub struct Tell<R: Accepts<M>, M: Message> {
    outgoing: Outgoing<R, M>,
}

impl<R: Accepts<M>, M: Message> Tell<R, M> {
    pub(crate) fn new(target: ActorRef<R>, message: M) -> Self {
        Tell { outgoing: Outgoing::new(target, message) }
    }

    /// How long the message may wait until it is on its way, or for its turn in the mailbox.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.outgoing.deadline = Some(deadline);
        self
    }
}

impl<R: Accepts<M>, M: Message> Future for Tell<R, M> {
    type Output = Result<(), CallError<M>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.outgoing.poll(cx, false));
        Poll::Ready(match outcome {
            Outcome::Sent => Ok(()),
            outcome => Err(self.outgoing.error(outcome)),
        })
    }
}

/// What `ask` and `tell` share: sending, waiting, giving up.
struct Outgoing<R, M> {
    target: ActorRef<R>,
    message: Option<M>,
    deadline: Option<Duration>,
    patient: bool,
    trace: u64,
    sent: Option<Sent>,
    kind: PhantomData<fn() -> M>,
}

/// A call that was submitted.
struct Sent {
    slot: Arc<Slot>,
    remote: Option<(Arc<Link>, u64)>,
    timer: Option<clock::Key>,
    /// A large message on its way into the store.
    storing: Option<BoxFuture<'static, Payload>>,
}

// Nothing in it is pinned: the stored futures are boxed.
impl<R: Accepts<M>, M: Message> Unpin for Ask<R, M> {}
impl<R: Accepts<M>, M: Message> Unpin for Tell<R, M> {}

impl<R: Accepts<M>, M: Message> Outgoing<R, M> {
    fn new(target: ActorRef<R>, message: M) -> Self {
        Outgoing {
            target,
            message: Some(message),
            deadline: None,
            patient: false,
            trace: 0,
            sent: None,
            kind: PhantomData,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, ask: bool) -> Poll<Outcome> {
        if self.sent.is_none() {
            match self.submit(ask) {
                Ok(sent) => self.sent = Some(sent),
                Err(outcome) => return Poll::Ready(outcome),
            }
        }
        let Some(sent) = &mut self.sent else { return Poll::Pending };
        if let Some(storing) = &mut sent.storing
            && let Poll::Ready(payload) = storing.as_mut().poll(cx)
        {
            sent.storing = None;
            if let Some((link, call)) = &sent.remote {
                link.supply(*call, payload);
            }
        }
        let polled = sent.slot.poll(cx);
        if let Poll::Ready(outcome) = &polled
            && let Some((link, call)) = sent.remote.take()
            && matches!(outcome, Outcome::Deadline)
        {
            // Of any other end the link knows.
            link.forget(call);
        }
        polled
    }

    fn submit(&self, ask: bool) -> Result<Sent, Outcome> {
        let Some(message) = &self.message else { return Err(Outcome::Cancelled) };
        let payload: AlignedBytes = match encode(message) {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(Outcome::NotSent(format!("the message cannot be archived: {error}"))),
        };
        let system = self.target.system();
        let slot = Arc::new(Slot::default());
        let mut sent = Sent { slot: slot.clone(), remote: None, timer: None, storing: None };
        let deadline = self.deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        match self.target.route()? {
            Route::Local(cell) => {
                let envelope = Envelope {
                    message: message_id::<M>(),
                    paid: Some((LOCAL, Credits::of_message(payload.len()))),
                    payload: Payload::Inline(payload),
                    origin: Some(TypeId::of::<M>()),
                    reply: if ask { ReplyTo::Local(slot.clone()) } else { ReplyTo::Nobody },
                    deadline,
                    trace: self.trace,
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
                let large = payload.len() >= LARGE;
                sent.storing = large.then(|| system.put_large(payload.clone(), &link.peer)).flatten();
                let call = link.submit(Request {
                    to: self.target.address(),
                    fingerprint: self.target.fingerprint(),
                    message: message_id::<M>(),
                    payload: sent.storing.is_none().then_some(payload),
                    ask,
                    patient: self.patient,
                    deadline,
                    trace: self.trace,
                    slot: slot.clone(),
                })?;
                sent.remote = Some((link, call));
            }
        }
        sent.timer = self.deadline.map(|deadline| {
            system.clock().after(deadline, move || {
                slot.complete(Outcome::Deadline);
            })
        });
        if let Some(timer) = sent.timer.filter(|_| !sent.slot.is_open()) {
            system.clock().cancel(timer);
        }
        Ok(sent)
    }

    fn error(&mut self, outcome: Outcome) -> CallError<M> {
        self.target.name_the_dead(outcome).into_error(self.message.take())
    }
}

impl<R, M> Drop for Outgoing<R, M> {
    fn drop(&mut self) {
        let Some(sent) = self.sent.take() else { return };
        sent.slot.close();
        if let Some(timer) = sent.timer {
            self.target.system().clock().cancel(timer);
        }
        if let Some((link, call)) = sent.remote {
            link.forget(call);
        }
    }
}

impl<R: Accepts<M>, M: Message> fmt::Debug for Ask<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("to", self.outgoing.target.address()).finish_non_exhaustive()
    }
}

impl<R: Accepts<M>, M: Message> fmt::Debug for Tell<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tell").field("to", self.outgoing.target.address()).finish_non_exhaustive()
    }
}
