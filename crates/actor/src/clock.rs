//! Deadlines and timers, all on the I/O runtime, which no handler can hold up.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Names one thing to be done.
pub(crate) type Key = (Instant, u64);
/// Done on the I/O runtime: must be short and must not be user code.
type Action = Box<dyn FnOnce() + Send>;

/// Things to be done at their time.
#[derive(Default)]
pub(crate) struct Clock {
    state: Mutex<State>,
    earlier: Notify,
}

#[derive(Default)]
struct State {
    actions: BTreeMap<Key, Action>,
    next: u64,
}

impl Clock {
    /// Has `action` done after `delay`.
    pub(crate) fn after(&self, delay: Duration, action: impl FnOnce() + Send + 'static) -> Key {
        let now = Instant::now();
        // Beyond what the clock can tell is never; a year is as good.
        let at = now.checked_add(delay).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        let mut state = self.lock();
        let key = (at, state.next);
        state.next += 1;
        let first = state.actions.first_key_value().is_none_or(|(first, _)| key < *first);
        state.actions.insert(key, Box::new(action));
        drop(state);
        if first {
            self.earlier.notify_one();
        }
        key
    }

    pub(crate) fn cancel(&self, key: Key) {
        let action = self.lock().actions.remove(&key);
        drop(action);
    }

    /// Does what is due, for ever.
    pub(crate) async fn run(&self) {
        loop {
            let now = Instant::now();
            let mut next = None;
            loop {
                let mut state = self.lock();
                match state.actions.first_entry() {
                    Some(first) if first.key().0 <= now => {
                        let action = first.remove();
                        drop(state);
                        action();
                    }
                    Some(first) => {
                        next = Some(first.key().0);
                        break;
                    }
                    None => break,
                }
            }
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.earlier.notified() => {}
                    }
                }
                None => self.earlier.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
