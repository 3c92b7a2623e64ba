//! The lane: one ordered stream of small frames each way.
//!
//! Senders put frames into a bounded queue and one writer task takes all that wait, gathers them into large writes and
//! returns their budget. The reader takes what quinn has, in many chunks at once, and cuts frames out of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Notify, Semaphore, watch};

use crate::congestion;
use crate::frame::{FrameDecoder, FrameEncoder};
use crate::membership::Registered;
use crate::{CloseCode, CloseReason, Frame, LaneOptions, Result, WireError};

/// The writer hands this many bytes to QUIC at a time, and returns their budget.
const WRITE_BYTES: usize = 256 * 1024;

/// Chunks that the reader takes from QUIC at a time.
const READ_CHUNKS: usize = 32;

/// The sending half of a lane. Cheap to clone; when the last clone is dropped, the lane is finished after the frames
/// that wait have been written.
#[derive(Clone)]
pub struct LaneSender(Arc<LastSender>);

/// A frame that was not sent, and why.
#[derive(Debug, thiserror::Error)]
#[error("frame not sent: {reason}")]
pub struct SendError {
    /// The frame, handed back. Boxed, so that a result stays small.
    pub frame: Box<Frame>,
    /// Why the lane is closed, or why the frame cannot be sent.
    pub reason: CloseReason,
}

impl From<SendError> for WireError {
    fn from(error: SendError) -> Self {
        Self::NotSent(error.reason)
    }
}

/// Why [`LaneSender::try_send`] did not take a frame.
#[derive(Debug, thiserror::Error)]
pub enum TrySendError {
    /// The queue is full.
    #[error("the lane's queue is full")]
    Full(Box<Frame>),
    /// The lane is closed, or the frame is too large.
    #[error(transparent)]
    Closed(SendError),
}

impl LaneSender {
    /// Queues a frame, waiting for room. Frames that one task sends arrive in that order. Dropping the future before it
    /// is done leaves the frame unsent.
    ///
    /// # Errors
    /// [`SendError`] with the frame when the lane is closed or the frame is above the limits.
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        let lane = &self.0.0;
        let Some(cost) = lane.cost(&frame) else { return Err(too_large(frame)) };
        match lane.budget.acquire_many(cost).await {
            Ok(permit) => {
                permit.forget();
                lane.push(frame)
            }
            Err(_) => Err(SendError { frame: Box::new(frame), reason: lane.reason() }),
        }
    }

    /// Queues a frame if there is room now.
    ///
    /// # Errors
    /// [`TrySendError`] with the frame.
    pub fn try_send(&self, frame: Frame) -> Result<(), TrySendError> {
        let lane = &self.0.0;
        let Some(cost) = lane.cost(&frame) else { return Err(TrySendError::Closed(too_large(frame))) };
        match lane.budget.try_acquire_many(cost) {
            Ok(permit) => {
                permit.forget();
                lane.push(frame).map_err(TrySendError::Closed)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(TrySendError::Full(Box::new(frame))),
            Err(tokio::sync::TryAcquireError::Closed) => {
                Err(TrySendError::Closed(SendError { frame: Box::new(frame), reason: lane.reason() }))
            }
        }
    }

    /// Sends what waits, ends the lane in good order, and returns when the peer has acknowledged all of it. Other
    /// clones can send no more.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the connection ended before that.
    pub async fn finish(self) -> Result<()> {
        let mut ended = self.0.0.ended.subscribe();
        self.0.0.finish();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(CloseReason::Finished)) => Ok(()),
            Ok(Some(reason)) => Err(reason.clone().into()),
            Ok(None) | Err(_) => Err(CloseReason::Here.into()),
        }
    }

    /// Bytes of queue that are free now; below the size of a frame `send` will wait.
    pub fn room(&self) -> usize {
        self.0.0.budget.available_permits()
    }
}

impl fmt::Debug for LaneSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneSender").field("room", &self.room()).finish()
    }
}

/// Finishes the lane when the last clone goes.
struct LastSender(Arc<Lane>);

impl Drop for LastSender {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// What senders and the writer share.
struct Lane {
    queue: Mutex<Queue>,
    /// Free bytes of the queue. Each frame costs at least `min_cost`, which bounds their number too.
    budget: Semaphore,
    min_cost: u32,
    /// Tells the writer that the queue is no longer empty, or that the lane shall be finished.
    work: Notify,
    ended: watch::Sender<Option<CloseReason>>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// No more frames may come; the writer ends the stream when it has written these.
    finishing: bool,
    closed: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cost(&self, frame: &Frame) -> Option<u32> {
        frame.check().ok()?;
        u32::try_from(frame.wire_len()).ok().map(|len| len.max(self.min_cost))
    }

    /// Queues a frame whose cost has been taken from the budget.
    fn push(&self, frame: Frame) -> Result<(), SendError> {
        let mut queue = self.lock();
        if queue.closed || queue.finishing {
            drop(queue);
            return Err(SendError { frame: Box::new(frame), reason: self.reason() });
        }
        queue.frames.push_back(frame);
        let first = queue.frames.len() == 1;
        drop(queue);
        if first {
            self.work.notify_one();
        }
        Ok(())
    }

    fn finish(&self) {
        self.lock().finishing = true;
        self.budget.close();
        self.work.notify_one();
    }

    /// The end, for whatever reason: nothing is sent any more and nobody waits.
    fn close(&self, reason: CloseReason) {
        let dropped = {
            let mut queue = self.lock();
            queue.closed = true;
            std::mem::take(&mut queue.frames)
        };
        drop(dropped);
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(reason);
            }
            first
        });
        self.budget.close();
    }

    fn reason(&self) -> CloseReason {
        self.ended.borrow().clone().unwrap_or(CloseReason::Finished)
    }
}

fn too_large(frame: Frame) -> SendError {
    let reason = match frame.check() {
        Err(error) => CloseReason::Transport(error.to_string()),
        Ok(()) => CloseReason::Transport("the frame is above the lane's limits".into()),
    };
    SendError { frame: Box::new(frame), reason }
}

/// Starts the writer and gives the two halves of a lane.
pub(crate) fn open(
    connection: quinn::Connection,
    registered: Arc<Registered>,
    streams: (SendStream, RecvStream),
    options: &LaneOptions,
) -> (LaneSender, LaneReceiver) {
    let lane = Arc::new(Lane {
        queue: Mutex::default(),
        budget: Semaphore::new(options.queue_bytes as usize),
        min_cost: options.queue_bytes.div_ceil(options.queue_frames),
        work: Notify::new(),
        ended: watch::Sender::new(None),
    });
    let (stream, incoming) = streams;
    let writer = Writer {
        lane: Arc::clone(&lane),
        connection: connection.clone(),
        stream,
        _registered: Arc::clone(&registered),
    };
    tokio::spawn(writer.run());
    let receiver = LaneReceiver {
        stream: incoming,
        connection,
        decoder: FrameDecoder::default(),
        _registered: registered,
    };
    (LaneSender(Arc::new(LastSender(lane))), receiver)
}

struct Writer {
    lane: Arc<Lane>,
    connection: quinn::Connection,
    stream: SendStream,
    _registered: Arc<Registered>,
}

impl Writer {
    async fn run(mut self) {
        let connection = self.connection.clone();
        let lane = Arc::clone(&self.lane);
        let reason = tokio::select! {
            result = self.write_all() => match result {
                Ok(()) => CloseReason::Finished,
                Err(reason) => reason,
            },
            error = connection.closed() => error.into(),
        };
        lane.close(reason);
    }

    async fn write_all(&mut self) -> Result<(), CloseReason> {
        let mut encoder = FrameEncoder::default();
        let mut batch = VecDeque::new();
        loop {
            let finishing = {
                let mut queue = self.lane.lock();
                std::mem::swap(&mut queue.frames, &mut batch);
                queue.finishing
            };
            if batch.is_empty() {
                if finishing {
                    break;
                }
                self.lane.work.notified().await;
                continue;
            }
            let mut spent = 0;
            for frame in batch.drain(..) {
                spent += self.lane.cost(&frame).unwrap_or(0);
                encoder.push(&frame).map_err(|error| CloseReason::Transport(error.to_string()))?;
                if encoder.len() >= WRITE_BYTES {
                    self.write(&mut encoder, &mut spent).await?;
                }
            }
            self.write(&mut encoder, &mut spent).await?;
        }
        // A peer that stopped the stream has ended the lane too.
        self.stream.finish().map_err(|_| CloseReason::Finished)?;
        match self.stream.stopped().await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.connection.closed().await.into()),
        }
    }

    async fn write(&mut self, encoder: &mut FrameEncoder, spent: &mut u32) -> Result<(), CloseReason> {
        if let Err(error) = self.stream.write_all_chunks(&mut encoder.take()).await {
            return Err(match error {
                quinn::WriteError::ConnectionLost(error) => error.into(),
                other => CloseReason::Transport(other.to_string()),
            });
        }
        if !self.lane.budget.is_closed() {
            self.lane.budget.add_permits(std::mem::take(spent) as usize);
        }
        Ok(())
    }
}

/// The receiving half of a lane.
#[derive(Debug)]
pub struct LaneReceiver {
    stream: RecvStream,
    connection: quinn::Connection,
    decoder: FrameDecoder,
    _registered: Arc<Registered>,
}

impl LaneReceiver {
    /// The next frame; `None` when the peer finished the lane in good order. Cancel safe: no frame is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the connection ended; [`WireError::Frame`] when the peer sent no frame, in which case
    /// this has closed the connection with the reason.
    pub async fn recv(&mut self) -> Result<Option<Frame>> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Err(self.refuse(error)),
            }
            // A peer that never pauses must not starve this thread's other tasks.
            tokio::task::coop::consume_budget().await;
            let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
            match self.stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => chunks.into_iter().take(count).for_each(|chunk| self.decoder.push(chunk)),
                Ok(None) => return self.decoder.end().map(|()| None).map_err(|error| self.refuse(error)),
                Err(quinn::ReadError::ConnectionLost(error)) => return Err(CloseReason::from(error).into()),
                Err(quinn::ReadError::Reset(_)) => return Err(self.refuse(crate::FrameError::Truncated)),
                Err(other) => return Err(CloseReason::Transport(other.to_string()).into()),
            }
        }
    }

    /// The next frame if it has come already; `None` when it must be [awaited](Self::recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv), of what has come.
    pub fn try_recv(&mut self) -> Result<Option<Frame>> {
        self.decoder.next_frame().map_err(|error| self.refuse(error))
    }

    fn refuse(&self, error: crate::FrameError) -> WireError {
        tracing::warn!(peer = %self.connection.remote_address(), %error, "bad frame, connection closed");
        congestion::close(&self.connection, CloseCode::BadFrame, &error.to_string());
        error.into()
    }
}
