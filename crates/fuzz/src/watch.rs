//! An input on which a body never ends would otherwise be known to nobody.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bodies take microseconds to milliseconds; one that takes this long, on whatever machine, does not end.
const NO_END: Duration = Duration::from_secs(120);

/// Ends the process, with the input, when a body does not come back.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    over: bool,
    count: u64,
    input: Vec<u8>,
}

impl Watch {
    pub(crate) fn begin(name: &'static str) -> Watch {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || watched.watch(name));
        Watch { shared, thread: Some(thread) }
    }

    /// This input comes next.
    pub(crate) fn next(&self, input: &[u8]) {
        let mut state = self.shared.lock();
        state.count += 1;
        state.input.clear();
        state.input.extend_from_slice(input);
    }
}

impl Shared {
    fn watch(&self, name: &str) {
        let mut state = self.lock();
        while !state.over {
            let before = state.count;
            let waited = self.over.wait_timeout(state, NO_END).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() && !state.over && state.count == before {
                eprintln!("{name}: the body does not end\n{}", crate::told(name, &state.input));
                std::process::abort();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.over.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends at once, and has nothing to say.
            let _ = thread.join();
        }
    }
}
