//! A connection to a peer whose identity has been proven and whose hello has been understood.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendDatagramError, SendStream};

use crate::bulk::Arriving;
use crate::congestion;
use crate::{
    BulkReceiver, BulkSender, CloseCode, CloseReason, Hello, LaneOptions, LaneReceiver, LaneSender,
    MAX_BULK_HEADER, PeerIdentity, Purpose, Result, WireError, lane,
};

/// A connection. Cheap to clone; it closes when the last clone, its lane and its streams are gone.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    quinn: quinn::Connection,
    peer: PeerIdentity,
    hello: Hello,
    lane: Mutex<Option<(SendStream, RecvStream)>>,
    lane_options: LaneOptions,
    /// A stream whose header had not come when an `accept_bulk` was dropped.
    arriving: tokio::sync::Mutex<Option<Arriving>>,
}

impl Connection {
    pub(crate) fn new(
        quinn: quinn::Connection,
        peer: PeerIdentity,
        hello: Hello,
        lane: (SendStream, RecvStream),
        lane_options: LaneOptions,
    ) -> Self {
        let (lane, arriving) = (Mutex::new(Some(lane)), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { quinn, peer, hello, lane, lane_options, arriving }))
    }

    /// Who the peer is, as its certificate proved.
    pub fn peer(&self) -> &PeerIdentity {
        &self.0.peer
    }

    /// What the peer said of itself.
    pub fn peer_hello(&self) -> &Hello {
        &self.0.hello
    }

    /// What the connection is for, as the caller said.
    pub fn purpose(&self) -> Purpose {
        self.0.hello.purpose
    }

    /// The peer's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.quinn.remote_address()
    }

    /// Estimated time of a round trip.
    pub fn round_trip(&self) -> Duration {
        self.0.quinn.rtt()
    }

    /// How many acknowledgements and pings have come from the peer. Once something was sent, a peer whose network thread lives
    /// makes this grow within a round trip; one that is stopped, or out of reach, does not.
    pub fn heard(&self) -> u64 {
        let frames = self.0.quinn.stats().frame_rx;
        frames.acks + frames.ping
    }

    /// The two halves of the connection's lane; handed out once. Starts the writer's task, so call it within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`WireError::LaneTaken`] the second time.
    pub fn lane(&self) -> Result<(LaneSender, LaneReceiver)> {
        let streams = self.0.lane.lock().unwrap_or_else(PoisonError::into_inner).take();
        let streams = streams.ok_or(WireError::LaneTaken)?;
        Ok(lane::open(self.0.quinn.clone(), streams, &self.0.lane_options))
    }

    /// Opens a bulk stream; the peer's [`accept_bulk`](Self::accept_bulk) gets `header` with it. Waits while the peer
    /// has as many streams open as it allows.
    ///
    /// # Errors
    /// [`WireError::BulkHeader`] when the header is too long, [`WireError::Closed`] when the connection ended.
    pub async fn open_bulk(&self, header: &[u8]) -> Result<(BulkSender, BulkReceiver)> {
        if header.len() > MAX_BULK_HEADER {
            return Err(WireError::BulkHeader { len: header.len(), limit: MAX_BULK_HEADER });
        }
        let (sender, receiver) = self.0.quinn.open_bi().await.map_err(CloseReason::from)?;
        let mut sender = BulkSender::new(sender);
        let mut bytes = (header.len() as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        sender.write_bytes(bytes.into()).await?;
        Ok((sender, BulkReceiver::new(receiver)))
    }

    /// The next bulk stream that the peer opens, with its header. Cancel safe. A stream that ends within its header is
    /// passed over; one whose header is too long closes the connection.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the connection ended, [`WireError::BulkHeader`] when this closed it.
    pub async fn accept_bulk(&self) -> Result<(Bytes, BulkSender, BulkReceiver)> {
        let mut slot = self.0.arriving.lock().await;
        loop {
            if slot.is_none() {
                *slot = Some(Arriving::new(self.0.quinn.accept_bi().await.map_err(CloseReason::from)?));
            }
            let Some(arriving) = slot.as_mut() else { continue };
            match arriving.read_header().await {
                Ok(()) => {}
                Err(WireError::Bulk(reason)) => {
                    tracing::debug!(peer = %self.0.peer, %reason, "a bulk stream was given up within its header");
                    *slot = None;
                    continue;
                }
                Err(error) => {
                    *slot = None;
                    self.close(CloseCode::BadFrame, &error.to_string());
                    return Err(error);
                }
            }
            if let Some(arrived) = slot.take() {
                return Ok(arrived.finish());
            }
        }
    }

    /// Sends a datagram: at most once, in no order, never waiting. When too many wait, the oldest is dropped.
    ///
    /// # Errors
    /// [`WireError::Datagram`] when it is above [`max_datagram`](Self::max_datagram), [`WireError::Closed`] when the
    /// connection ended.
    pub fn send_datagram(&self, bytes: Bytes) -> Result<()> {
        let len = bytes.len();
        self.0.quinn.send_datagram(bytes).map_err(|error| match error {
            SendDatagramError::ConnectionLost(error) => CloseReason::from(error).into(),
            other => WireError::Datagram(format!("{other} ({len} bytes)")),
        })
    }

    /// The next datagram from the peer. Cancel safe.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the connection ended.
    pub async fn read_datagram(&self) -> Result<Bytes> {
        Ok(self.0.quinn.read_datagram().await.map_err(CloseReason::from)?)
    }

    /// The largest datagram that fits now, in bytes; it grows as the path's MTU is found. At least 1,100.
    pub fn max_datagram(&self) -> usize {
        self.0.quinn.max_datagram_size().unwrap_or(0)
    }

    /// Closes the connection at once and tells the peer why. What has not been delivered is dropped: to end in good
    /// order, [finish the lane](LaneSender::finish) first.
    pub fn close(&self, code: CloseCode, reason: &str) {
        congestion::close(&self.0.quinn, code, reason);
    }

    /// Waits for the connection's end.
    pub async fn closed(&self) -> CloseReason {
        self.0.quinn.closed().await.into()
    }

    /// How the connection ended, if it has.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.0.quinn.close_reason().map(CloseReason::from)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} at {}, {:?})", self.0.peer, self.remote_address(), self.purpose())
    }
}
