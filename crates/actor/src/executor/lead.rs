//! Who drives the process's connections and timers.
//!
//! They live on one current-thread runtime, which whoever *leads* drives. A thread of the pool that has nothing to run
//! leads, so that what arrives is handled, and answered, by the thread that read it: waking another one costs more than
//! all else that a small call needs. A thread that runs user code does not lead. The I/O thread stands by, which never
//! runs user code: when nobody has led for [`TICK`] it leads until a thread of the pool is idle again, and when
//! [a burst](Pool::call_for_io) waits to be written it leads for as long as bursts come. So a handler that computes for
//! ten seconds holds up no connection for longer than two ticks, and under a load of many calls at once one thread reads
//! and writes while others handle.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{runtime::Runtime, task::JoinHandle};

use super::{Pool, State};

/// How often the I/O thread looks whether anybody leads, while threads of the pool come and go.
const TICK: Duration = Duration::from_millis(1);
/// How often the I/O thread, once it was called for a burst, looks whether there was another.
const BURST_TICK: Duration = Duration::from_millis(2);
/// After so many ticks in which nobody came or went, the I/O thread sleeps until somebody goes.
const QUIET_TICKS: u32 = 20;

thread_local! {
    /// Whether this thread leads: what it makes ready, it finds by itself.
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

/// Who leads, or waits to.
#[derive(Default)]
pub(super) struct Lead {
    /// A thread of the pool does.
    pub(super) taken: bool,
    /// Wakes it for a task that is ready.
    leader: Option<Waker>,
    /// Tells the I/O thread, which leads, that a thread of the pool would.
    relief: Option<Waker>,
    /// How often a thread of the pool has gone to run a task.
    departures: u64,
    /// The I/O thread is to be woken when one goes.
    asleep: bool,
    /// The I/O thread is to lead now, unless somebody does.
    wanted: bool,
    /// The I/O thread leads, and goes on while bursts come: threads of the pool that are idle wait.
    pub(super) kept: bool,
}

impl Lead {
    /// Takes the waker of the leader, where the task that has just become the first of `ready` is its to run.
    pub(super) fn waker_for(&mut self, ready: usize, idle: usize) -> Option<Waker> {
        let finds_it = LEADS.get() && ready == 1;
        if finds_it || idle == 0 { self.leader.take() } else { None }
    }

    /// Takes the waker of the leader, who is to stop.
    pub(super) fn end(&mut self) -> Option<Waker> {
        self.leader.take()
    }
}

impl Pool {
    /// Drives `io` until a task is ready, or the pool is closed.
    pub(super) fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        io: &Runtime,
    ) -> MutexGuard<'a, State> {
        state.lead.taken = true;
        self.led.store(true, Ordering::Relaxed);
        let relief = state.lead.relief.take();
        drop(state);
        if let Some(relief) = relief {
            relief.wake();
        }
        LEADS.set(true);
        io.block_on(UntilReady(self));
        LEADS.set(false);
        let mut state = self.lock();
        state.lead.taken = false;
        state.lead.leader = None;
        state.lead.departures += 1;
        self.led.store(false, Ordering::Relaxed);
        if state.lead.asleep {
            self.stand_by.notify_one();
        }
        state
    }

    /// What the I/O thread does until `serving` has ended.
    pub(super) fn stand_by(&self, io: &Runtime, mut serving: JoinHandle<()>) {
        while !io.block_on(UntilRelieved { pool: self, serving: &mut serving }) {
            let burst = self.wait_until_nobody_leads();
            self.led.store(true, Ordering::Relaxed);
            if burst && io.block_on(self.lead_through_bursts(&mut serving)) {
                return;
            }
        }
    }

    /// Keeps the lead until no burst has come for a while; ready at once, with `true`, when `serving` has ended.
    async fn lead_through_bursts(&self, serving: &mut JoinHandle<()>) -> bool {
        loop {
            if tokio::time::timeout(BURST_TICK, &mut *serving).await.is_ok() {
                return true;
            }
            if !self.bursting.swap(false, Ordering::Relaxed) {
                break;
            }
        }
        let mut state = self.lock();
        state.lead.kept = false;
        let idle = state.idle > 0;
        drop(state);
        if idle {
            // It takes over.
            self.work.notify_one();
        }
        false
    }

    /// Much waits to be written: the I/O thread leads at once if nobody does.
    pub(super) fn call_for_io(&self) {
        if !self.bursting.load(Ordering::Relaxed) {
            self.bursting.store(true, Ordering::Relaxed);
        }
        // Once for each time that nobody leads: this is asked for every message of a burst.
        if !self.led.load(Ordering::Relaxed) && !self.led.swap(true, Ordering::Relaxed) {
            self.lock().lead.wanted = true;
            self.stand_by.notify_one();
        }
    }

    /// Returns whether it was called for, by a burst.
    fn wait_until_nobody_leads(&self) -> bool {
        let mut state = self.lock();
        let (mut seen, mut quiet) = (state.lead.departures, 0);
        while !state.closed {
            if std::mem::take(&mut state.lead.wanted) && !state.lead.taken {
                state.lead.kept = true;
                return true;
            }
            if state.lead.taken && quiet >= QUIET_TICKS {
                state.lead.asleep = true;
                state = self.stand_by.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.lead.asleep = false;
                (seen, quiet) = (state.lead.departures, 0);
                continue;
            }
            state = self.stand_by.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
            if state.lead.departures != seen {
                (seen, quiet) = (state.lead.departures, 0);
            } else if state.lead.taken {
                quiet += 1;
            } else {
                return false;
            }
        }
        false
    }
}

/// Ready when the pool has something to run, or is closed.
struct UntilReady<'a>(&'a Pool);

impl Future for UntilReady<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.closed || !state.ready.is_empty() {
            return Poll::Ready(());
        }
        state.lead.leader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Ready when a thread of the pool would lead (`false`), or when `serving` has ended (`true`).
struct UntilRelieved<'a> {
    pool: &'a Pool,
    serving: &'a mut JoinHandle<()>,
}

impl Future for UntilRelieved<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        if Pin::new(&mut *self.serving).poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        let mut state = self.pool.lock();
        if state.lead.taken && !state.closed {
            return Poll::Ready(false);
        }
        state.lead.relief = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Ends a runtime with the last who holds it; what still runs there is dropped, not awaited.
pub(super) fn let_go(io: Arc<Runtime>) {
    if let Some(io) = Arc::into_inner(io) {
        io.shutdown_background();
    }
}
