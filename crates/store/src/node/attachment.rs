//! A process that is served, as its agent sees it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::memory::Segment;
use crate::pool::Place;
use crate::protocol::{Answer, Reply, encode};
use crate::socket;

/// A process on its socket.
#[derive(Debug)]
pub(super) struct Attachment {
    pub holder: u64,
    pub socket: OwnedFd,
    /// It broke the protocol. What it holds stays until it has ended, because it may still write to it.
    pub condemned: AtomicBool,
    /// Segments it has a writable or a read-only descriptor of.
    granted: Mutex<Granted>,
}

#[derive(Debug, Default)]
struct Granted {
    writable: BTreeSet<u32>,
    read_only: BTreeSet<u32>,
}

impl Attachment {
    pub fn new(holder: u64, socket: OwnedFd) -> Attachment {
        Attachment { holder, socket, condemned: AtomicBool::new(false), granted: Mutex::default() }
    }

    /// Sends a reply, with a descriptor of the segment if the process has none that will do.
    pub fn reply(&self, segments: &[Segment], number: u64, reply: Reply) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |index: u32| segments.get(index as usize);
        let descriptor: Option<BorrowedFd<'_>> = match &reply {
            Reply::Created { place: Place { segment, .. }, .. }
            | Reply::Kept { place: Place { segment, .. }, .. }
                if granted.writable.insert(*segment) =>
            {
                at(*segment).map(|segment| segment.writable.as_fd())
            }
            Reply::Opened { place: Place { segment, .. } } | Reply::Segment { segment, .. }
                if !granted.writable.contains(segment) && granted.read_only.insert(*segment) =>
            {
                at(*segment).map(|segment| segment.read_only.as_fd())
            }
            _ => None,
        };
        match encode(&Answer::Reply { number, reply }) {
            Ok(packet) => self.send(&packet, descriptor),
            Err(error) => self.condemn(&error.to_string()),
        }
    }

    /// Sends without waiting. A process that does not take its answers breaks the protocol.
    fn send(&self, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) {
        if self.condemned.load(Ordering::Acquire) {
            return;
        }
        match socket::send(&self.socket, packet, descriptor) {
            // The process has ended: the service thread will see it.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => self.condemn(&format!("its answers cannot be sent: {error}")),
        }
    }

    /// Listens to the process no more and says so. What it holds stays until it has ended.
    pub fn condemn(&self, reason: &str) {
        if self.condemned.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(holder = self.holder, %reason, "the store ends its attachment of a process");
        if let Ok(packet) = encode(&Answer::Goodbye { reason: reason.to_owned() }) {
            let _ = socket::send(&self.socket, &packet, None);
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }
}
