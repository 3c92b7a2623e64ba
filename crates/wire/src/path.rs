//! Whether packets of the size that this end's interface sends come through to a peer.
//!
//! QUIC finds the size that a path carries by itself, and goes on with that. But where packets of the interface's own size
//! vanish without a word, the network is not as its owner believes: an interface says more than a tunnel, a switch or a bridge
//! on the way takes, and the message that would say so is filtered. Everything that asks the path less carefully hangs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::MtuDiscoveryConfig;
use rustix::net::sockopt;

use crate::{CloseCode, Endpoint, Expect, Purpose, Result, WireError};

/// The least UDP payload that QUIC asks of a path, in bytes: every connection has shown that it passes.
const LEAST: u16 = 1200;
/// quinn tries a size so many times before it gives it up.
const TRIES: u64 = 3;
/// A small packet goes this often, so that the loss of a large one is noticed.
const EVERY: Duration = Duration::from_millis(20);
/// Longest wait for a verdict.
const WITHIN: Duration = Duration::from_secs(5);

/// What became of packets of the size that this end's interface sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathCheck {
    /// They come through.
    Carries {
        /// Their UDP payload, in bytes.
        payload: u16,
    },
    /// They vanish, and small ones come through.
    BlackHole {
        /// The UDP payload of those that vanish, in bytes.
        payload: u16,
        /// What the route's interface says of itself: bytes of an IP packet.
        mtu: u32,
    },
    /// Neither was seen in time.
    Unknown,
}

impl Endpoint {
    /// Sends packets as large as the route's interface allows to whom `expect` says, over a connection of their own.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn check_path(&self, addr: SocketAddr, expect: &Expect) -> Result<PathCheck> {
        let Some(mtu) = route_mtu(self.local_addr().ip(), addr) else { return Ok(PathCheck::Unknown) };
        let headers = if addr.is_ipv4() { 28 } else { 48 };
        let largest = mtu.saturating_sub(headers).min(u32::from(self.transport().mtu_ceiling));
        let payload = u16::try_from(largest).unwrap_or(u16::MAX);
        if payload <= LEAST {
            return Ok(PathCheck::Carries { payload: LEAST });
        }
        let (_, mut transport) = self.transport().to_quinn_parts()?;
        let mut discovery = MtuDiscoveryConfig::default();
        // With a change that is at least all of it, the first size that is tried is the largest.
        discovery.upper_bound(payload).minimum_change(payload - LEAST);
        transport.mtu_discovery_config(Some(discovery));
        let connection = self.connect_over(addr, expect, Purpose::Bulk, Arc::new(transport)).await?;
        let mut ticks = tokio::time::interval(EVERY);
        let watching = async {
            loop {
                ticks.tick().await;
                connection.send_datagram(Bytes::from_static(b"?"))?;
                let (carries, lost) = connection.probed();
                if carries >= payload {
                    return Ok::<_, WireError>(PathCheck::Carries { payload });
                }
                if lost >= TRIES {
                    return Ok(PathCheck::BlackHole { payload, mtu });
                }
            }
        };
        let found = tokio::time::timeout(WITHIN, watching).await;
        connection.close(CloseCode::Done, "the path was looked at");
        found.unwrap_or(Ok(PathCheck::Unknown))
    }
}

/// The MTU of the way to `addr`, as this machine believes it to be.
fn route_mtu(from: IpAddr, addr: SocketAddr) -> Option<u32> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect(addr).ok()?;
    match addr {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket).ok(),
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket).ok(),
    }
}
