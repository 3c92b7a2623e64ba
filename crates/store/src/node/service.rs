//! The thread that listens to this node's processes, and the one that faults pages in.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::attachment::Attachment;
use super::core::Core;
use crate::error::{Result, StoreError};
use crate::protocol::{MAX_PACKET, Request, decode_request};
use crate::socket::{self, Received};
use crate::table::Event;

/// Packets taken from one process before the others have their turn.
const PACKETS_A_TURN: usize = 32;

/// Bytes faulted in between two looks at whether the store still runs.
const PREFAULT_STEP: usize = 16 << 20;

/// Starts the thread; it ends with the store.
pub(super) fn start(core: Arc<Core>) -> Result<()> {
    spawn("lyceum-store", move || run(&core))
}

/// Starts the thread that faults all segments in; it ends when it has, or with the store.
pub(super) fn start_prefault(core: Arc<Core>) -> Result<()> {
    spawn("lyceum-prefault", move || {
        for (index, segment) in core.segments.iter().enumerate() {
            let bytes = segment.mapping.bytes();
            for offset in (0..bytes).step_by(PREFAULT_STEP) {
                if core.stopping() {
                    return;
                }
                if let Err(error) = segment.mapping.populate(segment.writable.as_fd(), offset, PREFAULT_STEP)
                {
                    tracing::warn!(%error, index, offset, "the store's memory cannot be had ahead of use");
                    return;
                }
            }
        }
    })
}

/// Starts a thread.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map(drop)
        .map_err(|e| StoreError::system(format!("start the thread {name}"), e))
}

fn run(core: &Arc<Core>) {
    while !core.stopping() {
        let (attachments, timeout) = core.watched();
        let mut polled = vec![PollFd::new(&core.wake, PollFlags::IN)];
        polled.extend(attachments.iter().map(|attachment| {
            // Of a condemned process only its end matters, which poll always tells.
            let condemned = attachment.condemned.load(Ordering::Acquire);
            let flags = if condemned { PollFlags::empty() } else { PollFlags::IN };
            PollFd::new(&attachment.socket, flags)
        }));
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                // Out of memory, most likely: the processes are still there, so try again, but do not spin.
                tracing::error!(%error, "the store cannot listen to its processes");
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            }
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        if ready.first().is_some_and(|flags| !flags.is_empty()) {
            core.wake.clear();
        }
        core.apply(Event::Tick);
        for (attachment, flags) in attachments.iter().zip(ready.into_iter().skip(1)) {
            if !flags.is_empty() {
                listen(core, attachment, flags);
            }
        }
    }
}

/// Takes what the process said. Nothing that it can send harms anybody else.
fn listen(core: &Arc<Core>, attachment: &Arc<Attachment>, flags: PollFlags) {
    let ended = flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    let mut buffer = [0; MAX_PACKET];
    let mut packets = 0;
    // After its end, the rest of what it said; it is bounded by the socket's buffer.
    while (ended || packets < PACKETS_A_TURN) && !attachment.condemned.load(Ordering::Acquire) {
        packets += 1;
        match socket::receive(&attachment.socket, &mut buffer) {
            Ok(Received::Packet { len, descriptors }) if descriptors.is_empty() => {
                match decode_request(&buffer[..len]) {
                    Ok(Request::Ask { number, ask }) => core.asked(attachment.holder, number, ask),
                    Ok(Request::Tell(tell)) => {
                        core.apply(Event::Told { holder: attachment.holder, tell });
                    }
                    Err(error) => attachment.condemn(&format!("{len} bytes that are no request: {error}")),
                }
            }
            Ok(Received::Packet { .. }) => attachment.condemn("a request with descriptors"),
            Ok(Received::Oversized) => {
                attachment.condemn(&format!("a request of more than {MAX_PACKET} bytes"));
            }
            Ok(Received::Nothing) if ended => break,
            Ok(Received::Nothing) => {
                // An empty packet, half a shutdown, or the end, which may have come since the poll.
                if !hung_up(attachment) {
                    attachment.condemn("an empty request");
                }
                break;
            }
            Err(_) => break,
        }
    }
    if ended {
        core.detached(attachment);
    }
}

fn hung_up(attachment: &Attachment) -> bool {
    let mut polled = [PollFd::new(&attachment.socket, PollFlags::empty())];
    let polled_now = rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled_now.is_ok() && polled[0].revents().contains(PollFlags::HUP)
}
