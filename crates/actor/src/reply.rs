//! Answers: where they go, and holding one back to give it later.

use std::{
    any::TypeId,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use lyceum_wire::AlignedBytes;

use crate::{
    Message, Result,
    cell::Cell,
    kept::Kept,
    link::Link,
    message::encode,
    slot::{Outcome, Slot},
};

/// Where the end of a call is reported.
#[derive(Clone)]
pub(crate) enum ReplyTo {
    /// A `tell`: nowhere.
    Nobody,
    /// A caller in this process.
    Local(Arc<Slot>),
    /// A caller behind a link, and its number for the call.
    Remote(Arc<Link>, u64),
    /// The same, of a call that may come again.
    Kept(Arc<Kept>),
}

impl ReplyTo {
    pub(crate) fn finish(self, outcome: Outcome) {
        match self {
            ReplyTo::Nobody => {}
            ReplyTo::Local(slot) => {
                slot.complete(outcome);
            }
            ReplyTo::Remote(link, call) => link.reply(call, outcome),
            ReplyTo::Kept(kept) => kept.finish(outcome),
        }
    }

    /// The message is not handled, for this reason; one that may come again is handled then.
    pub(crate) fn pass_by(self, outcome: Outcome) {
        match self {
            ReplyTo::Kept(kept) => kept.pass_by(&outcome),
            other => other.finish(outcome),
        }
    }

    /// Passes a message by that nobody waits for any more; returns whether it did.
    pub(crate) fn pass_by_if_unwanted(&self) -> bool {
        if let ReplyTo::Kept(kept) = self {
            return kept.pass_by_if_unwanted();
        }
        let unwanted = !self.is_wanted();
        if unwanted {
            self.clone().finish(Outcome::Cancelled);
        }
        unwanted
    }

    /// Whether the caller still waits, as far as is known here. Nobody waits for a `tell`, which is done all the
    /// same.
    pub(crate) fn is_wanted(&self) -> bool {
        match self {
            ReplyTo::Nobody => true,
            ReplyTo::Local(slot) => slot.is_open(),
            ReplyTo::Remote(link, call) => link.is_wanted(*call),
            ReplyTo::Kept(kept) => kept.is_wanted(),
        }
    }

    /// Ready once the caller no longer waits, nor comes again; never for a `tell`.
    fn poll_unwanted(&self, giver: u64, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            ReplyTo::Nobody => Poll::Pending,
            ReplyTo::Kept(kept) => kept.poll_unwanted(giver, cx),
            ReplyTo::Local(slot) => slot.poll_unwanted(giver, cx),
            ReplyTo::Remote(link, call) => link.poll_unwanted(*call, giver, cx),
        }
    }

    fn forget_giver(&self, giver: u64) {
        match self {
            ReplyTo::Nobody => {}
            ReplyTo::Kept(kept) => kept.forget_giver(giver),
            ReplyTo::Local(slot) => slot.forget_giver(giver),
            ReplyTo::Remote(link, call) => link.forget_giver(*call, giver),
        }
    }

    pub(crate) fn local(self) -> Option<Arc<Slot>> {
        match self {
            ReplyTo::Local(slot) => Some(slot),
            ReplyTo::Nobody | ReplyTo::Remote(..) | ReplyTo::Kept(_) => None,
        }
    }
}

/// Completes when nobody waits for an answer any more: its caller has dropped the call or run into its deadline, or the
/// caller's process is gone. Also when the answer has been given; never for a `tell`. Made by
/// [`Context::cancelled`](crate::Context::cancelled) and [`Responder::cancelled`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Cancelled {
    of: ReplyTo,
    /// Among those who wait for the same, once it is polled.
    giver: Option<u64>,
}

/// Numbers of this process's givers of answers.
static GIVERS: AtomicU64 = AtomicU64::new(0);

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let giver = *self.giver.get_or_insert_with(|| GIVERS.fetch_add(1, Ordering::Relaxed));
        self.of.poll_unwanted(giver, cx)
    }
}

impl Cancelled {
    pub(crate) fn of(owed: Option<&Owed>) -> Self {
        Cancelled { of: owed.and_then(|owed| owed.to.clone()).unwrap_or(ReplyTo::Nobody), giver: None }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(giver) = self.giver {
            self.of.forget_giver(giver);
        }
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelled").finish_non_exhaustive()
    }
}

/// The answer to one message, still owed. Made by [`Context::reply_later`](crate::Context::reply_later); may be
/// kept, sent to a task or thread, and used whenever the answer is there.
///
/// Dropped unused, it gives the caller [`CallError::Cancelled`](crate::CallError::Cancelled), or the report when
/// the actor is dead.
pub struct Responder<T> {
    owed: Owed,
    reply: PhantomData<fn(T)>,
}

impl<T: Message> Responder<T> {
    pub(crate) fn new(owed: Owed) -> Self {
        Responder { owed, reply: PhantomData }
    }

    /// Gives the answer.
    pub fn reply(self, reply: T) {
        self.finish(Ok(reply));
    }

    /// Gives an error: the caller sees its chain as [`CallError::Failed`](crate::CallError::Failed).
    pub fn fail(self, error: impl Into<anyhow::Error>) {
        self.finish(Err(error.into()));
    }

    pub(crate) fn fail_with(mut self, chain: Vec<String>) {
        self.owed.finish(Outcome::Failed(chain));
    }

    /// Gives what a handler would have returned.
    pub fn finish(mut self, result: Result<T>) {
        self.owed.finish(outcome_of(result));
    }

    /// Whether the caller still waits, as far as is known here.
    pub fn is_wanted(&self) -> bool {
        self.owed.to.as_ref().is_some_and(ReplyTo::is_wanted)
    }

    /// Completes when the caller no longer waits.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::of(Some(&self.owed))
    }

    /// Completes when there is room for another answer on the way to the caller. An actor's handlers are held up without
    /// asking; whoever answers from elsewhere, again and again, waits for this.
    pub(crate) fn room(&self) -> impl Future<Output = ()> + Send + use<T> {
        let link = match &self.owed.to {
            Some(ReplyTo::Remote(link, _)) => Some(link.clone()),
            Some(ReplyTo::Kept(kept)) => kept.link(),
            _ => None,
        };
        async move {
            if let Some(link) = link {
                link.reply_room().await;
            }
        }
    }
}

impl<T> fmt::Debug for Responder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("of", &self.owed.cell.address.actor).finish_non_exhaustive()
    }
}

/// An answer owed by an actor, whatever its type.
pub(crate) struct Owed {
    to: Option<ReplyTo>,
    cell: Arc<Cell>,
}

impl Owed {
    pub(crate) fn new(to: ReplyTo, cell: Arc<Cell>) -> Self {
        Owed { to: Some(to), cell }
    }

    pub(crate) fn finish(&mut self, outcome: Outcome) {
        if let Some(to) = self.to.take() {
            to.finish(outcome);
        }
    }

    /// The message could not be taken out of the store, and so was not handled. One that may come again had its first copy
    /// there, which went with the connection.
    pub(crate) fn not_opened(mut self, why: String) {
        match self.to.take() {
            Some(ReplyTo::Kept(kept)) => {
                kept.pass_by(&Outcome::Unknown(format!("the message could not be opened: {why}")));
            }
            Some(to) => {
                to.finish(Outcome::Failed(vec!["the message could not be opened".to_owned(), why]));
            }
            None => {}
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            to.finish(match self.cell.death() {
                Some(report) => Outcome::Dead(Box::new(report.clone())),
                None => Outcome::Cancelled,
            });
        }
    }
}

/// What a handler's result is for the caller.
pub(crate) fn outcome_of<T: Message>(result: Result<T>) -> Outcome {
    match result.and_then(|reply| Ok(encode(&reply)?)) {
        Ok(bytes) => Outcome::Reply { bytes: AlignedBytes::from(bytes), origin: Some(TypeId::of::<T>()) },
        Err(error) => Outcome::Failed(chain_of(&error)),
    }
}

/// An error as the lines that travel, outermost first.
pub(crate) fn chain_of(error: &anyhow::Error) -> Vec<String> {
    error.chain().map(ToString::to_string).collect()
}
