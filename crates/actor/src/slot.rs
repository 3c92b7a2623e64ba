//! Where the end of one call is put and waited for.

use std::{
    any::TypeId,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use lyceum_wire::AlignedBytes;

use crate::{CallError, DeathReport, large::Parcel};

/// How a call ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The archived reply, and the type it is the archive of when this process archived it.
    Reply {
        bytes: AlignedBytes,
        origin: Option<TypeId>,
    },
    /// The reply lies in the store.
    Stored(Parcel),
    /// A `tell` was handed over.
    Sent,
    NotSent(String),
    Unknown(String),
    Unreachable(String),
    Dead(Box<DeathReport>),
    Deadline,
    Cancelled,
    Failed(Vec<String>),
    Refused(String),
}

impl Outcome {
    /// Bytes that it holds, about.
    pub(crate) fn size(&self) -> usize {
        match self {
            Outcome::Reply { bytes, .. } => bytes.len(),
            Outcome::Failed(chain) => chain.iter().map(String::len).sum(),
            Outcome::NotSent(why)
            | Outcome::Unknown(why)
            | Outcome::Unreachable(why)
            | Outcome::Refused(why) => why.len(),
            Outcome::Dead(report) => report.log_tail.iter().map(String::len).sum(),
            Outcome::Stored(_) | Outcome::Sent | Outcome::Deadline | Outcome::Cancelled => 0,
        }
    }

    /// The error that the caller of `message` sees. What is no error becomes `Unknown`: it does not fit the call.
    pub(crate) fn into_error<M>(self, message: Option<M>) -> CallError<M> {
        match self {
            Outcome::NotSent(why) => match message {
                Some(message) => CallError::NotSent(message, why),
                None => CallError::Unknown(why),
            },
            Outcome::Unknown(why) => CallError::Unknown(why),
            Outcome::Unreachable(why) => CallError::Unreachable(why),
            Outcome::Dead(report) => CallError::Dead(report),
            Outcome::Deadline => CallError::Deadline,
            Outcome::Cancelled => CallError::Cancelled,
            Outcome::Failed(chain) => CallError::Failed(chain),
            Outcome::Refused(why) => CallError::Refused(why),
            Outcome::Reply { .. } | Outcome::Stored(_) | Outcome::Sent => {
                CallError::Unknown("the receiver answered in a form that does not fit the call".to_owned())
            }
        }
    }
}

/// A place for one [`Outcome`]: completed at most once, waited for by at most one task.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    state: State,
    /// Who is to be told when an outcome would no longer be read.
    givers: Givers,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Waiting(Waker),
    Done(Outcome),
    /// Taken, or nobody waits any more.
    Closed,
}

impl Slot {
    /// Puts the outcome in, unless there is one. Returns whether it was put in.
    pub(crate) fn complete(&self, outcome: Outcome) -> bool {
        let mut place = self.lock();
        let waker = match std::mem::replace(&mut place.state, State::Closed) {
            State::Empty => None,
            State::Waiting(waker) => Some(waker),
            old => {
                place.state = old;
                return false;
            }
        };
        place.state = State::Done(outcome);
        let givers = std::mem::take(&mut place.givers);
        drop(place);
        waker.into_iter().chain(givers.into_wakers()).for_each(Waker::wake);
        true
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut place = self.lock();
        match std::mem::replace(&mut place.state, State::Closed) {
            State::Done(outcome) => Poll::Ready(outcome),
            State::Waiting(waker) if waker.will_wake(cx.waker()) => {
                place.state = State::Waiting(waker);
                Poll::Pending
            }
            State::Empty | State::Waiting(_) => {
                place.state = State::Waiting(cx.waker().clone());
                Poll::Pending
            }
            State::Closed => Poll::Ready(Outcome::Cancelled),
        }
    }

    /// Ready once an outcome would no longer be read. Any number may wait, each with a number of its own.
    pub(crate) fn poll_unwanted(&self, giver: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut place = self.lock();
        if !place.state.is_open() {
            return Poll::Ready(());
        }
        place.givers.remember(giver, cx.waker());
        Poll::Pending
    }

    /// This giver no longer waits.
    pub(crate) fn forget_giver(&self, giver: u64) {
        self.lock().givers.forget(giver);
    }

    pub(crate) async fn wait(&self) -> Outcome {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        let mut place = self.lock();
        place.state = State::Closed;
        let givers = std::mem::take(&mut place.givers);
        drop(place);
        givers.into_wakers().for_each(Waker::wake);
    }

    /// Whether an outcome would still be read.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().state.is_open()
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        // Nothing that is done under this lock can panic half way.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_open(&self) -> bool {
        matches!(self, State::Empty | State::Waiting(_))
    }
}

/// Those who work on an answer and want to hear that it is not wanted any more.
#[derive(Debug, Default)]
pub(crate) struct Givers(Vec<(u64, Waker)>);

impl Givers {
    pub(crate) fn remember(&mut self, giver: u64, waker: &Waker) {
        match self.0.iter_mut().find(|(known, _)| *known == giver) {
            Some((_, old)) => old.clone_from(waker),
            None => self.0.push((giver, waker.clone())),
        }
    }

    pub(crate) fn forget(&mut self, giver: u64) {
        self.0.retain(|(known, _)| *known != giver);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_wakers(self) -> impl Iterator<Item = Waker> {
        self.0.into_iter().map(|(_, waker)| waker)
    }
}
