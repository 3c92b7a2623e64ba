//! Calls under way: futures that send when they are first polled.

use std::{
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
    kept::OpenKey,
    reference::Route,
    slot::{Outcome, Slot},
    submission::{Letter, Submission},
};

/// Before a call is sent again the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Before any further one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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

    /// Sends the message again, so many times at most, when nothing is known of it, or it could not be sent: on another
    /// connection, or after a silence; with a pause of 0.1 s before the first, twice as long before each further one, 5 s at
    /// most. The receiver executes it once, however often it comes, and gives the same answer again.
    ///
    /// It stays a call to one incarnation: the death of that ends it. What is within one process is never sent twice.
    pub fn retries(mut self, times: u32) -> Self {
        self.outgoing.retries = times;
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
    /// How often it may be sent again, and has been.
    retries: u32,
    retried: u32,
    key: Option<OpenKey>,
    /// When it was sent first.
    began: Option<Instant>,
    /// It is sent again when this is completed.
    pause: Option<Arc<Slot>>,
    sent: Option<Submission>,
    kind: PhantomData<fn() -> M>,
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
            retries: 0,
            retried: 0,
            key: None,
            began: None,
            pause: None,
            sent: None,
            kind: PhantomData,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, ask: bool) -> Poll<Outcome> {
        loop {
            if let Some(pause) = &self.pause {
                ready!(pause.poll(cx));
                self.pause = None;
            }
            if self.sent.is_none() {
                match self.submit(ask) {
                    Ok(sent) => self.sent = Some(sent),
                    Err(outcome) if self.goes_again(&outcome) => continue,
                    Err(outcome) => return Poll::Ready(outcome),
                }
            }
            let Some(sent) = &mut self.sent else { return Poll::Pending };
            let outcome = ready!(sent.poll(cx));
            if !self.goes_again(&outcome) {
                return Poll::Ready(outcome);
            }
        }
    }

    fn submit(&mut self, ask: bool) -> Result<Submission, Outcome> {
        let Some(message) = &self.message else { return Err(Outcome::Cancelled) };
        let system = self.target.system();
        let route = self.target.route();
        if self.retries > 0 && self.key.is_none() && !matches!(route, Ok(Route::Local(_))) {
            let to = self.target.address();
            self.key = Some(system.inner().keys.begin((to.actor.0, to.incarnation)));
        }
        let route = route?;
        // The clock is looked at where it matters.
        if self.deadline.is_some() && self.began.is_none() {
            self.began = Some(Instant::now());
        }
        let passed = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let letter = Letter {
            ask,
            patient: self.patient,
            deadline: self.deadline.map(|deadline| deadline.saturating_sub(passed)),
            trace: self.trace,
            key: self.key.as_ref().map(OpenKey::now),
            again: self.retried < self.retries,
            first: self.retried == 0,
            ..Letter::along(message, self.target.fingerprint(), system, &route)?
        };
        Submission::new(system, self.target.address(), route, letter)
    }

    /// Whether it is sent again after it came to this; then the pause before that has begun.
    fn goes_again(&mut self, outcome: &Outcome) -> bool {
        let nothing_known =
            matches!(outcome, Outcome::Unknown(_) | Outcome::Unreachable(_) | Outcome::NotSent(_));
        if !nothing_known || self.retried >= self.retries || self.key.is_none() {
            return false;
        }
        let pause = (FIRST_PAUSE * (1 << self.retried.min(16))).min(LONGEST_PAUSE);
        let left = match (self.deadline, self.began) {
            (Some(deadline), Some(began)) => deadline.saturating_sub(began.elapsed()),
            _ => Duration::MAX,
        };
        if pause >= left {
            return false;
        }
        self.retried += 1;
        self.sent = None;
        let over = Arc::new(Slot::default());
        self.pause = Some(over.clone());
        self.target.system().clock().after(pause, move || {
            over.complete(Outcome::Sent);
        });
        true
    }

    fn error(&mut self, outcome: Outcome) -> CallError<M> {
        self.target.name_the_dead(outcome).into_error(self.message.take())
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
