//! Copying into an object. One core does not use all of the memory's bandwidth, so large ones are copied by several.

use std::sync::{Mutex, PoisonError};

/// Bytes that a thread copies before it takes more: a thread is started in the time of a part of that.
const PART: usize = 2 << 20;
/// Threads that copy at a time, this one among them.
const MAX_THREADS: usize = 4;

/// Copies `from` to `to`, which is as long.
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(MAX_THREADS).min(from.len() / PART);
    if threads < 2 {
        return to.copy_from_slice(from);
    }
    let parts = Mutex::new(to.chunks_mut(PART).zip(from.chunks(PART)));
    let work = || {
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((to, from)) = next() {
            to.copy_from_slice(from);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread is to be had the others copy its share.
            let _ = std::thread::Builder::new().name("lyceum-copy".into()).spawn_scoped(scope, work);
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_whoever_copies_it() {
        for len in [0, 1, PART - 1, 2 * PART, 5 * PART + 3] {
            let from: Vec<u8> = (0..len).map(|i| (i / 4096 + i) as u8).collect();
            let mut to = vec![0; len];
            copy(&mut to, &from);
            assert!(to == from, "{len} bytes");
        }
    }
}
