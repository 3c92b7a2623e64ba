//! An endpoint's settings. The defaults are for processes on one machine or in one data centre.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::congestion;
use crate::frame::FRAME_HEAD;
use crate::{Admission, MAX_EXTENSION, MAX_PAYLOAD, Result, RoleFingerprint, WireError};

const MIB: u32 = 1024 * 1024;

/// Settings of an [`Endpoint`](crate::Endpoint).
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The UDP address to bind; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Where `bind` has port 0: the ports to have one of, the first that nobody holds. Empty, which is the default, lets the
    /// system choose.
    pub ports: Range<u16>,
    /// Who may connect. Nobody, unless set.
    pub admission: Admission,
    /// The roles that this process hosts, told to every peer in the hello.
    pub roles: Vec<RoleFingerprint>,
    /// From the first packet to the end of the hello, in either direction. Default 5 s.
    pub handshake_timeout: Duration,
    /// Incoming handshakes at a time; more are refused. Default 256.
    pub max_handshakes: usize,
    /// Bounds of each connection's lane.
    pub lane: LaneOptions,
    /// Settings of QUIC itself.
    pub transport: TransportOptions,
}

impl EndpointOptions {
    /// The defaults, on this address.
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            ports: 0..0,
            admission: Admission::nobody(),
            roles: Vec::new(),
            handshake_timeout: Duration::from_secs(5),
            max_handshakes: 256,
            lane: LaneOptions::default(),
            transport: TransportOptions::default(),
        }
    }
}

/// Bounds of the queue between the senders of a lane and its writer (L2).
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// Bytes that may wait. Default 8 MiB; at least one largest frame.
    pub queue_bytes: u32,
    /// Frames that may wait. Default 16,384. A frame counts as at least `queue_bytes / queue_frames` bytes.
    pub queue_frames: u32,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self { queue_bytes: 8 * MIB, queue_frames: 16_384 }
    }
}

impl LaneOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let largest = (MAX_PAYLOAD + MAX_EXTENSION + FRAME_HEAD) as u32;
        let refuse = |option, reason| Err(WireError::Option { option, reason });
        if self.queue_bytes < largest || self.queue_bytes > 512 * MIB {
            let found = self.queue_bytes;
            return refuse("lane.queue_bytes", format!("{found} is outside {largest} to {}", 512 * MIB));
        }
        if self.queue_frames == 0 || self.queue_frames > self.queue_bytes {
            let found = self.queue_frames;
            return refuse("lane.queue_frames", format!("{found} is outside 1 to queue_bytes"));
        }
        Ok(())
    }
}

/// Settings of QUIC. quinn's own defaults are for 100 Mbit/s over 100 ms; these are for 10 Gbit/s and more over less
/// than a millisecond.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// Bytes in flight to us on one stream. Raise it when one bulk stream shall fill a long fat link. Default 32 MiB.
    pub stream_window: u32,
    /// Bytes in flight to us on all streams of a connection. Default 64 MiB.
    pub connection_window: u32,
    /// Bytes that we keep until the peer has acknowledged them, per connection. Default 64 MiB.
    pub send_window: u32,
    /// The largest UDP payload to try for, in bytes: found by probing, so a value above the link's is harmless.
    /// Default 65,000, which loopback carries.
    pub mtu_ceiling: u16,
    /// Send and receive buffer of the socket, in bytes; the system may grant less. Default 8 MiB.
    pub socket_buffer: u32,
    /// A silent connection is pinged this often. Default 2 s.
    pub keep_alive: Duration,
    /// A connection on which nothing comes for this long is dead. Default 10 s.
    pub idle_timeout: Duration,
    /// Bulk streams that a peer may have open on one connection. Default 256.
    pub bulk_streams: u32,
    /// Bytes of received datagrams that may wait to be read; older ones are dropped. Default 1 MiB.
    pub datagram_buffer: u32,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            stream_window: 32 * MIB,
            connection_window: 64 * MIB,
            send_window: 64 * MIB,
            mtu_ceiling: 65_000,
            socket_buffer: 8 * MIB,
            keep_alive: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(10),
            bulk_streams: 256,
            datagram_buffer: MIB,
        }
    }
}

impl TransportOptions {
    pub(crate) fn to_quinn(&self) -> Result<(EndpointConfig, Arc<TransportConfig>)> {
        self.to_quinn_parts().map(|(endpoint, transport)| (endpoint, Arc::new(transport)))
    }

    pub(crate) fn to_quinn_parts(&self) -> Result<(EndpointConfig, TransportConfig)> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|_| WireError::Option {
            option: "transport.idle_timeout",
            reason: format!("{:?} is longer than QUIC can say", self.idle_timeout),
        })?;
        let mut endpoint = EndpointConfig::default();
        // Without this the peer clamps its packets to what quinn offers by default.
        endpoint.max_udp_payload_size(self.mtu_ceiling).map_err(|_| WireError::Option {
            option: "transport.mtu_ceiling",
            reason: format!("{} is outside 1200 to 65527", self.mtu_ceiling),
        })?;
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu_ceiling);
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(u64::from(self.send_window))
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(Arc::new(congestion::Factory::new()))
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(idle))
            // One more: the lane.
            .max_concurrent_bidi_streams(VarInt::from_u32(self.bulk_streams.saturating_add(1)))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(Some(self.datagram_buffer as usize));
        Ok((endpoint, transport))
    }
}
