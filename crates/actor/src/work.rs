//! What an actor is at: noted message by message, for whoever asks and for whoever watches its progress.

use std::{
    fmt,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rkyv::{Archive, Deserialize, Serialize};

use crate::{Actor, Role, dispatch::HandledBy};

/// In the place of a message's number: nothing is being handled.
const NOTHING: u64 = 0;
/// In the place of a message's number: the actor starts.
const STARTING: u64 = 1;
/// In the place of a message's number: the actor stops.
const STOPPING: u64 = 2;

/// When this process began to count time.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds of this process; never 0, which is "not yet".
fn now() -> u64 {
    BEGAN.elapsed().as_nanos() as u64 + 1
}

/// What one actor is at. Written by the actor, read by anybody.
pub(crate) struct Work {
    name: fn(u64) -> Option<&'static str>,
    /// How long it may go without progress.
    deadline: Duration,
    /// What is being handled, alone with the actor.
    message: AtomicU64,
    began: AtomicU64,
    progress: AtomicU64,
    /// Messages that the actor has taken out of its mailbox and has not come to.
    taken: AtomicUsize,
    /// Readers at work.
    readers: Mutex<Vec<Reading>>,
    /// The last progress before a stall that was told of; 0 for none.
    told: AtomicU64,
}

struct Reading {
    reader: u64,
    message: u64,
    began: u64,
    progress: u64,
}

/// A handler at work.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Handling {
    /// The type of its message, without its path; `start` and `stop` are what the actor does before and after all messages.
    pub message: String,
    /// Milliseconds since it began.
    pub for_ms: u64,
    /// Milliseconds since it last said that it goes on; as many as above where it never did.
    pub idle_ms: u64,
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        write!(f, "`{}` for {:.1} s", self.message, seconds(self.for_ms))?;
        match self.idle_ms < self.for_ms {
            true => write!(f, ", {:.1} s of it without progress", seconds(self.idle_ms)),
            false => Ok(()),
        }
    }
}

/// What a look at an actor's progress came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Look {
    /// There is nothing new to tell.
    AsBefore,
    /// It has passed its deadline in this.
    Stalled(Handling),
    /// It had, and goes on.
    GoesOn,
}

impl Work {
    pub(crate) fn of<A: Actor>() -> Self {
        Work {
            name: <A::Role as Role>::Messages::name,
            deadline: A::PROGRESS,
            message: AtomicU64::new(NOTHING),
            began: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            taken: AtomicUsize::new(0),
            readers: Mutex::default(),
            told: AtomicU64::new(0),
        }
    }

    pub(crate) fn starts(&self) {
        self.begin(STARTING);
    }

    pub(crate) fn stops(&self) {
        self.begin(STOPPING);
    }

    /// A message is being handled from now on.
    pub(crate) fn begin(&self, message: u64) {
        let now = now();
        self.began.store(now, Ordering::Relaxed);
        self.progress.store(now, Ordering::Relaxed);
        self.message.store(message, Ordering::Release);
    }

    /// None is any more.
    pub(crate) fn end(&self) {
        self.message.store(NOTHING, Ordering::Release);
    }

    /// So many messages are behind this one, out of the mailbox already.
    pub(crate) fn taken(&self, messages: usize) {
        self.taken.store(messages, Ordering::Relaxed);
    }

    /// Messages that are out of the mailbox and wait.
    pub(crate) fn behind(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// A reader, under a number of its own, is at work from now on.
    pub(crate) fn reader_begins(&self, reader: u64, message: u64) {
        let now = now();
        self.readers().push(Reading { reader, message, began: now, progress: now });
    }

    pub(crate) fn reader_ends(&self, reader: u64) {
        self.readers().retain(|reading| reading.reader != reader);
    }

    /// The handler, or this reader, says that it goes on.
    pub(crate) fn goes_on(&self, reader: Option<u64>) {
        let now = now();
        match reader {
            None => self.progress.store(now, Ordering::Relaxed),
            Some(reader) => {
                let mut readers = self.readers();
                if let Some(reading) = readers.iter_mut().find(|reading| reading.reader == reader) {
                    reading.progress = now;
                }
            }
        }
    }

    /// All that is at work, the longest first.
    pub(crate) fn handlings(&self) -> Vec<Handling> {
        let now = now();
        let mut all = self.all();
        all.sort_unstable_by_key(|reading| reading.began);
        all.iter().map(|reading| self.handling(reading, now)).collect()
    }

    /// How long it may go without progress.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether it has passed its deadline, or no longer; each is said once. For one who looks.
    pub(crate) fn look(&self) -> Look {
        let now = now();
        let latest = self.all().into_iter().min_by_key(|reading| reading.progress);
        let told = self.told.load(Ordering::Relaxed);
        let deadline = u64::try_from(self.deadline.as_nanos()).unwrap_or(u64::MAX);
        match latest.filter(|reading| now.saturating_sub(reading.progress) >= deadline) {
            Some(stalled) if stalled.progress == told => Look::AsBefore,
            Some(stalled) => {
                self.told.store(stalled.progress, Ordering::Relaxed);
                Look::Stalled(self.handling(&stalled, now))
            }
            None if told == 0 => Look::AsBefore,
            None => {
                self.told.store(0, Ordering::Relaxed);
                Look::GoesOn
            }
        }
    }

    fn all(&self) -> Vec<Reading> {
        let readers = self.readers();
        let copy = |reading: &Reading| Reading { ..*reading };
        let mut all: Vec<Reading> = readers.iter().map(copy).collect();
        drop(readers);
        let message = self.message.load(Ordering::Acquire);
        if message != NOTHING {
            let began = self.began.load(Ordering::Relaxed);
            all.push(Reading { reader: 0, message, began, progress: self.progress.load(Ordering::Relaxed) });
        }
        all
    }

    fn handling(&self, reading: &Reading, now: u64) -> Handling {
        let message = match reading.message {
            STARTING => "start",
            STOPPING => "stop",
            message => (self.name)(message).unwrap_or("an unknown message"),
        };
        let millis = |since: u64| now.saturating_sub(since) / 1_000_000;
        Handling {
            message: message.to_owned(),
            for_ms: millis(reading.began),
            idle_ms: millis(reading.progress),
        }
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Reading>> {
        // Nothing that is done under this lock can panic half way.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
