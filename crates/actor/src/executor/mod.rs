//! The pool of threads that run actors.
//!
//! Tokio's scheduler keeps the task that was woken last in a slot that other threads cannot steal from, and its
//! number of threads is fixed: a handler that computes for ten seconds would hold up its neighbours. Here all
//! ready tasks lie in one queue, and when nobody has taken anything from it for [`STUCK_AFTER`], a thread is
//! added. Timers and sockets of user code still work: each thread is inside a tokio runtime's context.
//! Who has nothing to run drives the process's connections: see [`lead`].

mod lead;

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Handle, Runtime},
    task::JoinHandle,
};

use lead::Lead;

/// How long ready tasks may wait while every thread is busy with one task each.
const STUCK_AFTER: Duration = Duration::from_millis(10);
/// How long a thread beyond the base number waits for work before it ends.
const SPARE_IDLE: Duration = Duration::from_secs(5);
/// The most threads of one pool; beyond it ready tasks wait.
const MAX_THREADS: usize = 512;

/// A handle to the pool.
#[derive(Clone)]
pub(crate) struct Executor(Arc<Pool>);

struct Pool {
    tokio: Handle,
    /// The runtime of connections and timers, for as long as the I/O thread holds it.
    io: Weak<Runtime>,
    base: usize,
    state: Mutex<State>,
    work: Condvar,
    /// The I/O thread waits on this while others lead.
    stand_by: Condvar,
    /// Somebody leads, or has been called to.
    led: AtomicBool,
    /// Many frames waited to be written, since the I/O thread last looked.
    bursting: AtomicBool,
    /// The watcher sleeps on this while there is nothing to watch.
    watch: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Task>>,
    threads: usize,
    idle: usize,
    /// How many tasks have been taken from `ready` so far.
    taken: u64,
    watching: bool,
    closed: bool,
    lead: Lead,
}

impl Executor {
    /// A pool of `base` threads, at least one, named `lyceum-actor`; those that are idle drive `io`.
    pub(crate) fn start(base: usize, tokio: Handle, io: &Arc<Runtime>) -> io::Result<Self> {
        let pool = Arc::new(Pool {
            tokio,
            io: Arc::downgrade(io),
            base: base.max(1),
            state: Mutex::default(),
            work: Condvar::new(),
            stand_by: Condvar::new(),
            led: AtomicBool::new(true),
            bursting: AtomicBool::new(false),
            watch: Condvar::new(),
        });
        for _ in 0..pool.base {
            pool.lock().threads += 1;
            pool.add_thread()?;
        }
        let watcher = pool.clone();
        thread::Builder::new().name("lyceum-watch".to_owned()).spawn(move || watcher.watch_over())?;
        Ok(Executor(pool))
    }

    /// Starts the thread `lyceum-io`, which drives `io` whenever no thread of the pool does, until `serving` has ended.
    pub(crate) fn stand_by(&self, io: Arc<Runtime>, serving: JoinHandle<()>) -> io::Result<()> {
        let pool = self.0.clone();
        let stand_by = move || {
            pool.stand_by(&io, serving);
            lead::let_go(io);
        };
        thread::Builder::new().name("lyceum-io".to_owned()).spawn(stand_by).map(drop)
    }

    /// Much waits to be written: somebody is to drive the connections at once.
    pub(crate) fn call_for_io(&self) {
        self.0.call_for_io();
    }

    /// Runs `future` on the pool.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Running {
        let task = Arc::new(Task {
            pool: self.0.clone(),
            state: AtomicU8::new(SCHEDULED),
            future: Mutex::new(Some(Box::pin(future))),
        });
        self.0.push(task.clone());
        Running(task)
    }

    /// The tokio runtime whose timers and sockets user code sees.
    pub(crate) fn tokio(&self) -> &Handle {
        &self.0.tokio
    }

    /// Ends the threads once they have finished what they are at; ready tasks are dropped.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.ready);
        let leader = state.lead.end();
        drop(state);
        drop(dropped);
        if let Some(leader) = leader {
            leader.wake();
        }
        self.0.work.notify_all();
        self.0.watch.notify_all();
        self.0.stand_by.notify_all();
    }
}

/// A task of the pool.
pub(crate) struct Running(Arc<Task>);

impl Running {
    /// Drops the task's future as soon as it is not being polled.
    pub(crate) fn abort(&self) {
        // Whoever polls holds the lock; it sees the state afterwards and drops the future itself.
        self.0.state.fetch_or(ABORTED, Ordering::AcqRel);
        if let Ok(mut future) = self.0.future.try_lock() {
            let dropped = future.take();
            drop(future);
            drop(dropped);
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.state.load(Ordering::Acquire) & (DONE | ABORTED) != 0
    }
}

/// In the queue, or woken while being polled.
const SCHEDULED: u8 = 1;
/// Being polled.
const RUNNING: u8 = 2;
const DONE: u8 = 4;
const ABORTED: u8 = 8;

struct Task {
    pool: Arc<Pool>,
    state: AtomicU8,
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

impl Task {
    fn run(self: Arc<Self>) {
        // From scheduled to running in one step, so that no second thread is given the task in between.
        let before = self.state.fetch_xor(SCHEDULED | RUNNING, Ordering::AcqRel);
        if before & ABORTED != 0 {
            let aborted = self.future.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(aborted);
            return;
        }
        let waker = Waker::from(self.clone());
        let mut slot = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = slot.as_mut() else { return };
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let finished = !matches!(polled, Ok(Poll::Pending));
        let before = self.state.fetch_and(!RUNNING, Ordering::AcqRel);
        if finished || before & ABORTED != 0 {
            self.state.fetch_or(DONE, Ordering::AcqRel);
            let future = slot.take();
            drop(slot);
            // A destructor that panics ends this task and nothing else.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(future)));
            return;
        }
        drop(slot);
        if before & SCHEDULED != 0 {
            self.pool.push(self.clone());
        } else if self.state.load(Ordering::Acquire) & ABORTED != 0 {
            let aborted = self.future.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(aborted);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.state.fetch_or(SCHEDULED, Ordering::AcqRel);
        // Who is being polled is put back by the thread that polls it.
        if before & (SCHEDULED | RUNNING | DONE | ABORTED) == 0 {
            self.pool.push(self.clone());
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Arc<Task>) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return;
        }
        state.ready.push_back(task);
        let (ready, idle) = (state.ready.len(), state.idle);
        if let Some(leader) = state.lead.waker_for(ready, idle) {
            drop(state);
            leader.wake();
        } else if idle > 0 {
            drop(state);
            self.work.notify_one();
        } else if !state.watching && !state.lead.taken {
            state.watching = true;
            drop(state);
            self.watch.notify_one();
        }
    }

    fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        let pool = self.clone();
        thread::Builder::new()
            .name("lyceum-actor".to_owned())
            .spawn(move || pool.work())
            .map(drop)
            .inspect_err(|_| {
                self.lock().threads -= 1;
            })
    }

    fn work(&self) {
        let _tokio = self.tokio.enter();
        let mut state = self.lock();
        loop {
            if state.closed {
                break;
            }
            if let Some(task) = state.ready.pop_front() {
                state.taken += 1;
                // Whoever was woken for the next one may have been woken for this one too.
                let watch = !state.ready.is_empty() && !state.watching;
                state.watching |= watch;
                drop(state);
                if watch {
                    self.watch.notify_one();
                }
                task.run();
                state = self.lock();
                continue;
            }
            if !state.lead.taken
                && !state.lead.kept
                && let Some(io) = self.io.upgrade()
            {
                state = self.lead(state, &io);
                drop(state);
                lead::let_go(io);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, waited) =
                self.work.wait_timeout(state, SPARE_IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.ready.is_empty() && state.threads > self.base {
                break;
            }
        }
        state.threads -= 1;
    }

    /// Adds a thread whenever ready tasks have waited for [`STUCK_AFTER`] and nobody took any.
    fn watch_over(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            while !state.watching && !state.closed {
                state = self.watch.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
            let taken = state.taken;
            drop(state);
            thread::sleep(STUCK_AFTER);
            state = self.lock();
            if state.ready.is_empty() {
                state.watching = false;
            } else if state.taken == taken && state.threads < MAX_THREADS {
                state.threads += 1;
                drop(state);
                if let Err(error) = self.add_thread() {
                    tracing::warn!(%error, "every actor thread is busy and no further one could be started");
                }
                state = self.lock();
            }
        }
    }
}
