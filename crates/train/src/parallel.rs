//! Sharing work out among threads. What is shared out here is computed alike by whichever thread takes it.

use std::sync::Mutex;

/// Runs every job once, on the calling thread and `threads - 1` others.
pub fn in_parallel<J: Send>(jobs: Vec<J>, threads: usize, run: impl Fn(J) + Sync) {
    let threads = threads.min(jobs.len());
    if threads <= 1 {
        jobs.into_iter().for_each(run);
        return;
    }
    let queue = Mutex::new(jobs.into_iter());
    let work = || {
        // A poisoned queue means that a job panicked: the scope hands that panic on.
        while let Some(job) = queue.lock().ok().and_then(|mut jobs| jobs.next()) {
            run(job);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// As many threads as libtorch uses.
pub fn threads() -> usize {
    tch::get_num_threads().max(1) as usize
}
