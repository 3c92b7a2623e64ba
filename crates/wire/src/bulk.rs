//! Bulk streams: large transfers, each begun by a small header of the upper layer's.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};

use crate::membership::Registered;
use crate::{CloseReason, Result, WireError};

/// The longest header of a bulk stream, in bytes.
pub const MAX_BULK_HEADER: usize = 4 * 1024;

/// The sending half of a bulk stream. Dropping it without [`finish`](Self::finish) resets the stream.
#[derive(Debug)]
pub struct BulkSender {
    stream: SendStream,
    finished: bool,
    _registered: Arc<Registered>,
}

impl BulkSender {
    pub(crate) fn new(stream: SendStream, registered: Arc<Registered>) -> Self {
        Self { stream, finished: false, _registered: registered }
    }

    /// Writes all of `bytes`, waiting for room in QUIC's windows.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the connection ended, [`WireError::Bulk`] when the peer stopped the stream.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.map_err(write_error)
    }

    /// Writes bytes that QUIC keeps as they lie, without a copy.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<()> {
        self.stream.write_chunk(bytes).await.map_err(write_error)
    }

    /// Ends the stream. What was written is still delivered, as long as the connection lives.
    ///
    /// # Errors
    /// [`WireError::Bulk`] when the peer has stopped the stream.
    pub fn finish(&mut self) -> Result<()> {
        self.finished = true;
        self.stream.finish().map_err(|_| WireError::Bulk("stopped by the peer".into()))
    }

    /// Waits until the peer has acknowledged all, after [`finish`](Self::finish).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn delivered(&mut self) -> Result<()> {
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(WireError::Bulk("stopped by the peer".into())),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(CloseReason::from(error).into()),
            Err(other) => Err(WireError::Bulk(other.to_string())),
        }
    }
}

impl Drop for BulkSender {
    fn drop(&mut self) {
        if !self.finished {
            // Without this quinn would finish it, and the peer take a part for the whole. An error means that it is
            // reset already.
            let _ = self.stream.reset(0u32.into());
        }
    }
}

/// The receiving half of a bulk stream. Dropping it tells the peer to stop.
#[derive(Debug)]
pub struct BulkReceiver {
    stream: RecvStream,
    _registered: Arc<Registered>,
}

impl BulkReceiver {
    pub(crate) fn new(stream: RecvStream, registered: Arc<Registered>) -> Self {
        Self { stream, _registered: registered }
    }

    /// Reads what there is straight into `buffer`: the number of bytes, or `None` at the stream's end. Cancel safe.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the connection ended, [`WireError::Bulk`] when the peer reset the stream.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        self.stream.read(buffer).await.map_err(read_error)
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`WireError::Bulk`] when the stream ends before that.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let wanted = buffer.len();
        self.stream.read_exact(buffer).await.map_err(|error| match error {
            ReadExactError::FinishedEarly(read) => {
                WireError::Bulk(format!("{wanted} bytes expected, {read} came"))
            }
            ReadExactError::ReadError(error) => read_error(error),
        })
    }

    /// The next bytes as QUIC holds them, at most `max`; `None` at the stream's end. Cancel safe.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_bytes(&mut self, max: usize) -> Result<Option<Bytes>> {
        let chunk = self.stream.read_chunk(max, true).await.map_err(read_error)?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }

    /// All up to the stream's end, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`WireError::Bulk`] when there is more.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>> {
        self.stream.read_to_end(limit).await.map_err(|error| match error {
            quinn::ReadToEndError::TooLong => WireError::Bulk(format!("more than {limit} bytes")),
            quinn::ReadToEndError::Read(error) => read_error(error),
        })
    }
}

fn write_error(error: WriteError) -> WireError {
    match error {
        WriteError::ConnectionLost(error) => CloseReason::from(error).into(),
        WriteError::Stopped(_) => WireError::Bulk("stopped by the peer".into()),
        other => WireError::Bulk(other.to_string()),
    }
}

fn read_error(error: ReadError) -> WireError {
    match error {
        ReadError::ConnectionLost(error) => CloseReason::from(error).into(),
        ReadError::Reset(_) => WireError::Bulk("reset by the peer".into()),
        other => WireError::Bulk(other.to_string()),
    }
}

/// A bulk stream that the peer opened and whose header is still coming.
#[derive(Debug)]
pub(crate) struct Arriving {
    sender: SendStream,
    receiver: RecvStream,
    bytes: Vec<u8>,
    wanted: usize,
}

impl Arriving {
    pub(crate) fn new((sender, receiver): (SendStream, RecvStream)) -> Self {
        Self { sender, receiver, bytes: Vec::new(), wanted: 2 }
    }

    /// Reads on; true when the header is whole. Cancel safe.
    pub(crate) async fn read_header(&mut self) -> Result<()> {
        loop {
            while self.bytes.len() < self.wanted {
                let mut part = [0; 256];
                let room = part.len().min(self.wanted - self.bytes.len());
                match self.receiver.read(&mut part[..room]).await.map_err(read_error)? {
                    Some(read) => self.bytes.extend_from_slice(&part[..read]),
                    None => return Err(WireError::Bulk("it ended within its header".into())),
                }
            }
            if self.wanted > 2 || self.bytes == [0, 0] {
                return Ok(());
            }
            let len = usize::from(u16::from_le_bytes([self.bytes[0], self.bytes[1]]));
            if len > MAX_BULK_HEADER {
                return Err(WireError::BulkHeader { len, limit: MAX_BULK_HEADER });
            }
            self.wanted = 2 + len;
        }
    }

    pub(crate) fn finish(self, registered: &Arc<Registered>) -> (Bytes, BulkSender, BulkReceiver) {
        let header = Bytes::from(self.bytes).slice(2..);
        let sender = BulkSender::new(self.sender, registered.clone());
        (header, sender, BulkReceiver::new(self.receiver, registered.clone()))
    }
}
