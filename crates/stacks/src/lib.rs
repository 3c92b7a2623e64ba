//! What the threads of this process are doing: the stack of each, as it is.
//!
//! For a process that makes no progress, which cannot be expected to help: each thread is interrupted by a signal, notes down
//! its return addresses into memory that is there already, and goes on. Names are found afterwards, by the thread that asked.
//!
//! Threads are looked at one after the other, so this is no picture of one moment. System calls that were waited in are
//! begun again by the kernel, or, where they cannot be, end with `EINTR`, as they may at any time.

mod capture;
mod maps;
mod symbols;
mod threads;

use std::io;

pub use threads::Thread;

/// Threads that are looked at, at most.
pub const MAX_THREADS: usize = 1024;

/// The stacks of all threads but the calling one, by thread number. Several callers take turns.
///
/// An error means that the list of threads cannot be read, or the signal not be used. A thread that has ended meanwhile is left
/// out, and one that did not answer has a reason in place of its frames.
pub fn of_all_threads() -> io::Result<Vec<Thread>> {
    let mut capture = capture::Capture::begin()?;
    let me = rustix::thread::gettid();
    let mut threads = Vec::new();
    for thread in threads::list()?.into_iter().filter(|thread| *thread != me).take(MAX_THREADS) {
        let Some((name, state)) = threads::look(thread) else { continue };
        let addresses = capture.of(thread);
        threads.push((thread, name, state, addresses));
    }
    drop(capture);
    let symbols = symbols::Symbols::load();
    let named = threads.into_iter().map(|(thread, name, state, addresses)| Thread {
        number: thread.as_raw_nonzero().get().unsigned_abs(),
        name,
        state,
        frames: addresses.map(|addresses| symbols.frames(&addresses)),
    });
    Ok(named.collect())
}
