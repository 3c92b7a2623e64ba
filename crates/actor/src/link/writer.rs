//! The writer's side of a link: it takes what is queued and feeds the lane.

use std::{collections::VecDeque, sync::atomic::Ordering};

use lyceum_wire::{Frame, LaneSender, TrySendError};

use super::{CALL_SHARE, Life, Link, Phase};

/// How many frames the writer takes at a time.
const WRITE_BATCH: usize = 256;
/// From so many frames at a time on more are about to come, and until there are so many it is worth to wait for them: a
/// conversation of one call after the other is never held up.
const FEW: usize = 5;
const GATHERED: usize = 64;
/// How many turns of the thread that may take.
const TURNS: usize = 8;

impl Link {
    /// Writes what is queued until the link is closed, or is [to part](Link::part). Runs on the I/O runtime.
    pub(crate) async fn write(&self, lane: LaneSender) {
        let mut batch = VecDeque::new();
        let mut written = 0;
        loop {
            if (FEW..GATHERED).contains(&written) {
                self.gather().await;
            }
            match self.next_frames(&mut batch) {
                Next::Closed => return,
                Next::Nothing => {
                    self.work.notified().await;
                    continue;
                }
                Next::Some => {}
                Next::Part => {
                    // It fails when the connection is lost, and with it those who would have heard.
                    if lane.finish().await.is_ok() {
                        self.parted();
                    }
                    return;
                }
            }
            written = batch.len();
            for frame in batch.drain(..) {
                let sent = match lane.try_send(frame) {
                    Ok(()) => Ok(()),
                    Err(TrySendError::Full(frame)) => lane.send(*frame).await.map_err(|error| error.reason),
                    Err(TrySendError::Closed(error)) => Err(error.reason),
                };
                if let Err(reason) = sent {
                    self.close(&reason.to_string());
                    return;
                }
            }
        }
    }

    /// Lets others of this thread go first, for a few turns or until enough waits to be written: what is sent together costs
    /// the kernel, and the peer, little more than one frame does.
    async fn gather(&self) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
            let state = self.lock();
            if state.calls.len() + state.control.len() >= GATHERED {
                return;
            }
        }
    }

    fn next_frames(&self, batch: &mut VecDeque<Frame>) -> Next {
        let mut done = Vec::new();
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return Next::Closed;
        }
        if !state.control.is_empty() {
            std::mem::swap(&mut state.control, batch);
            self.control_bytes.store(0, Ordering::Release);
            drop(state);
            self.room.notify_waiters();
            return Next::Some;
        }
        let was_full = state.call_bytes > CALL_SHARE;
        let take = state.calls.len().min(WRITE_BATCH);
        batch.extend(state.calls.drain(..take));
        let bytes: usize = batch.iter().map(Frame::wire_len).sum();
        state.call_bytes -= bytes;
        if was_full && state.call_bytes <= CALL_SHARE {
            let lives: Vec<Life> = state.outlets.keys().copied().collect();
            for life in lives {
                state.release(life, &mut done);
            }
        }
        let next = match batch.is_empty() {
            false => Next::Some,
            true if state.parting.is_some() && state.storing == 0 => Next::Part,
            true => Next::Nothing,
        };
        state.writer_idle = batch.is_empty();
        self.unlock(state, done);
        next
    }
}

enum Next {
    Some,
    Nothing,
    /// Everything is written, and nothing more will come.
    Part,
    Closed,
}
