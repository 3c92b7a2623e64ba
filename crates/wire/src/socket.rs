//! The UDP socket of an endpoint.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rustix::net::sockopt;

use crate::stray::Strays;

/// The most that one system call can send, segmented by the kernel or not: 65,535 less the IPv6 and UDP headers.
const MAX_SEND: usize = 65_487;

/// Binds, with buffers of the given size as far as the system grants them.
pub(crate) fn bind(addr: SocketAddr, buffer: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    let wanted = buffer as usize;
    // The forced variant goes above net.core.rmem_max and needs CAP_NET_ADMIN; without it take what is granted.
    if sockopt::set_socket_recv_buffer_size_force(&socket, wanted).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, wanted)?;
    }
    sockopt::set_socket_send_buffer_size(&socket, wanted)?;
    tracing::debug!(
        %addr,
        receive = sockopt::socket_recv_buffer_size(&socket)?,
        send = sockopt::socket_send_buffer_size(&socket)?,
        "socket buffers"
    );
    Ok(socket)
}

/// The socket that quinn sees: it cuts what is too long for one system call, and looks for strays in what comes.
///
/// quinn hands ten packets at a time to the kernel's segmentation. Once a path carries packets above 6.5 kB, that is
/// more than the kernel takes at once: it answers EMSGSIZE, which quinn takes for a probe's failure and swallows, and
/// all ten are lost, each time, until the connection times out.
#[derive(Debug)]
pub(crate) struct EndpointSocket {
    pub(crate) inner: Arc<dyn AsyncUdpSocket>,
    pub(crate) strays: Arc<Strays>,
}

impl AsyncUdpSocket for EndpointSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment) = transmit.segment_size.filter(|_| transmit.contents.len() > MAX_SEND) else {
            return self.inner.try_send(transmit);
        };
        let at_once = segment * (MAX_SEND / segment).max(1);
        for contents in transmit.contents.chunks(at_once) {
            // If this would block after the first, quinn sends all of it again: the peer drops the second copies.
            self.inner.try_send(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: (contents.len() > segment).then_some(segment),
                src_ip: transmit.src_ip,
            })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let came = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buffer, meta) in bufs.iter().zip(meta.iter()).take(came) {
            // What the kernel put together is of one sender: its first datagram speaks for all.
            self.strays.look(&buffer[..meta.len.min(meta.stride)], meta.addr);
        }
        Poll::Ready(Ok(came))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
