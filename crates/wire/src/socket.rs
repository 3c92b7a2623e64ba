//! The UDP socket of an endpoint.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rustix::net::sockopt;

use crate::stray::Strays;
use crate::{Result, WireError, ports};

/// The most that one system call can send, segmented by the kernel or not: 65,535 less the IPv6 and UDP headers.
const MAX_SEND: usize = 65_487;

/// Whether this process has said that its sockets are given less than they ask for.
static SAID: AtomicBool = AtomicBool::new(false);

/// The buffers of an endpoint's socket, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBuffers {
    /// What each was to have.
    pub asked: usize,
    /// What arrives may wait in so much.
    pub receive: usize,
    /// What leaves may wait in so much.
    pub send: usize,
}

impl SocketBuffers {
    /// What the system gave `socket`. Linux counts twice what may be used: the other half is for its own account.
    fn of(socket: &UdpSocket, asked: usize) -> io::Result<SocketBuffers> {
        let receive = sockopt::socket_recv_buffer_size(socket)? / 2;
        Ok(SocketBuffers { asked, receive, send: sockopt::socket_send_buffer_size(socket)? / 2 })
    }

    /// Says once in a process's life what is less than was asked for.
    pub(crate) fn say_once(&self) {
        if let Some(said) = self.clamped()
            && !SAID.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{said}");
        }
    }

    /// What is less than was asked for, and what to do; nothing where all was given.
    pub fn clamped(&self) -> Option<String> {
        let SocketBuffers { asked, receive, send } = *self;
        let limits = [("receive", receive, "net.core.rmem_max"), ("send", send, "net.core.wmem_max")];
        let short: Vec<_> = limits.into_iter().filter(|(_, given, _)| *given < asked).collect();
        let given: Vec<String> =
            short.iter().map(|(which, given, _)| format!("{} KiB to {which}", given / 1024)).collect();
        let keys: Vec<String> = short.iter().map(|(.., key)| format!("{key}={asked}")).collect();
        (!short.is_empty()).then(|| {
            format!(
                "UDP buffers are clamped: the system gives {}, {} KiB were asked for; bursts are lost then, and bulk is slower: \
                 sysctl -w {}",
                given.join(" and "),
                asked / 1024,
                keys.join(" ")
            )
        })
    }
}

/// Binds, with buffers of the given size as far as the system grants them.
pub(crate) fn bind(addr: SocketAddr, ports: &Range<u16>, buffer: u32) -> Result<(UdpSocket, SocketBuffers)> {
    let socket = ports::bind(addr, ports)?;
    let buffers = grant(&socket, buffer as usize).map_err(|source| WireError::Bind { addr, source })?;
    tracing::debug!(%addr, receive = buffers.receive, send = buffers.send, "socket buffers");
    Ok((socket, buffers))
}

fn grant(socket: &UdpSocket, wanted: usize) -> io::Result<SocketBuffers> {
    // The forced variant goes above net.core.rmem_max and needs CAP_NET_ADMIN; without it take what is granted.
    if sockopt::set_socket_recv_buffer_size_force(socket, wanted).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, wanted)?;
    }
    sockopt::set_socket_send_buffer_size(socket, wanted)?;
    SocketBuffers::of(socket, wanted)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_gave_is_read_back_and_less_is_said_with_what_to_do() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (socket, buffers) = bind(any, &(0..0), 64 << 10).unwrap();
        assert_eq!(buffers, SocketBuffers { asked: 64 << 10, receive: 64 << 10, send: 64 << 10 });
        assert_eq!(buffers.clamped(), None);
        // More than any system allows.
        let (_, buffers) = bind(any, &(0..0), u32::MAX / 4).unwrap();
        let said = buffers.clamped().expect("it is less");
        assert!(said.contains("KiB to send") && said.contains("net.core.wmem_max=1073741823"), "{said}");
        drop(socket);
        let buffers = SocketBuffers { asked: 8 << 20, receive: 208 << 10, send: 8 << 20 };
        assert_eq!(
            buffers.clamped().unwrap(),
            "UDP buffers are clamped: the system gives 208 KiB to receive, 8192 KiB were asked for; bursts are lost then, and \
             bulk is slower: sysctl -w net.core.rmem_max=8388608"
        );
    }
}
