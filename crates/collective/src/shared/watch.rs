//! The watcher: one sleeping thread that learns of a peer's end from its socket.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

/// What the watcher sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The peer of this rank has closed its socket: it left, or it died.
    Gone(usize),
    /// A peer says that the epoch has failed.
    Failure,
}

/// Watches sockets until dropped.
pub(crate) struct Watch {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

struct Watched {
    peers: Vec<(usize, UnixStream)>,
    /// This end closes: what the watcher sees from then on is its own doing.
    closing: AtomicBool,
}

impl Watch {
    /// Calls `seen` from a thread of its own.
    pub(crate) fn start(
        peers: Vec<(usize, UnixStream)>,
        seen: impl Fn(Seen) + Send + 'static,
    ) -> std::io::Result<Self> {
        let watched = Arc::new(Watched { peers, closing: AtomicBool::new(false) });
        let mine = Arc::clone(&watched);
        let thread = match watched.peers.is_empty() {
            true => None,
            false => {
                let name = "lyceum-coll-watch".into();
                Some(std::thread::Builder::new().name(name).spawn(move || mine.watch(seen))?)
            }
        };
        Ok(Self { watched, thread })
    }

    /// Tells those who are watched that the epoch has failed: they look into the control page.
    pub(crate) fn tell(&self) {
        // A peer that is gone cannot be told, and one that has not read the last byte has been told.
        self.watched.peers.iter().for_each(|(_, stream)| drop((&mut &*stream).write(&[1])));
    }
}

impl Watch {
    /// Closes the sockets: those who are watched see that this rank has gone, and the watcher ends.
    pub(crate) fn close(&self) {
        self.watched.closing.store(true, Release);
        // It fails only where the peer has closed already.
        self.watched.peers.iter().for_each(|(_, stream)| drop(stream.shutdown(Shutdown::Both)));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // The last reference may fall on the watcher itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Watched {
    fn watch(&self, seen: impl Fn(Seen)) {
        let mut open: Vec<&(usize, UnixStream)> = self.peers.iter().collect();
        while !open.is_empty() {
            let mut polled: Vec<PollFd<'_>> = open
                .iter()
                .map(|(_, stream)| PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP))
                .collect();
            if poll(&mut polled, None).is_err() {
                continue;
            }
            let events: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut events = events.into_iter();
            open.retain(|(rank, stream)| {
                if !events.next().unwrap_or(false) {
                    return true;
                }
                let mut bytes = [0; 16];
                let read = rustix::net::recv(stream, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT);
                match read {
                    Ok((count, _)) if count > 0 => seen(Seen::Failure),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Ok(_) | Err(_) if self.closing.load(Acquire) => return false,
                    Ok(_) | Err(_) => {
                        seen(Seen::Gone(*rank));
                        return false;
                    }
                }
                true
            });
        }
    }
}
