//! A bad network between two processes that know nothing of it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};

use super::{Faults, LossySocket};

/// Longest datagram on loopback, in bytes.
const LONGEST: usize = 65_536;

/// A UDP relay in front of one peer: who calls [`addr`](Self::addr) reaches it, over a network with faults both ways.
/// For one caller at a time. It ends when it is dropped.
#[derive(Debug)]
pub struct LossyRelay {
    addr: SocketAddr,
    sockets: [Arc<LossySocket>; 2],
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl LossyRelay {
    /// Relays to `to`. Call it within a tokio runtime, which does the relaying.
    ///
    /// # Errors
    /// The system's, when no socket can be had on loopback.
    pub fn start(to: SocketAddr, faults: Faults) -> io::Result<Self> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let front = LossySocket::bind(loopback, faults)?;
        let back = LossySocket::bind(loopback, Faults { seed: faults.seed ^ 0x5eed, ..faults })?;
        let addr = front.local_addr()?;
        let caller = Arc::new(Mutex::new(None));
        let there = {
            let (front, back, caller) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&caller));
            async move {
                let mut buffer = vec![0; LONGEST * front.max_receive_segments()];
                while let Ok((from, datagrams)) = receive(&front, &mut buffer).await {
                    *caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                    datagrams.for_each(|datagram| send(&back, to, datagram));
                }
            }
        };
        let again = {
            let (front, back) = (Arc::clone(&front), Arc::clone(&back));
            async move {
                let mut buffer = vec![0; LONGEST * back.max_receive_segments()];
                while let Ok((_, datagrams)) = receive(&back, &mut buffer).await {
                    let caller = *caller.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(caller) = caller else { continue };
                    datagrams.for_each(|datagram| send(&front, caller, datagram));
                }
            }
        };
        let tasks = [tokio::spawn(there), tokio::spawn(again)];
        Ok(Self { addr, sockets: [front, back], tasks })
    }

    /// Where the peer is to be called.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Datagrams lost so far, both ways.
    pub fn lost(&self) -> u64 {
        self.sockets.iter().map(|socket| socket.lost()).sum()
    }

    /// From now on nothing passes in either direction.
    pub fn sever(&self) {
        self.sockets.iter().for_each(|socket| socket.sever());
    }

    /// Ends [`sever`](Self::sever).
    pub fn restore(&self) {
        self.sockets.iter().for_each(|socket| socket.restore());
    }
}

impl Drop for LossyRelay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The next datagrams, all from one sender.
async fn receive<'a>(
    socket: &LossySocket,
    buffer: &'a mut [u8],
) -> io::Result<(SocketAddr, impl Iterator<Item = &'a [u8]> + use<'a>)> {
    let mut meta = [RecvMeta::default()];
    std::future::poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut meta)).await?;
    let RecvMeta { addr, len, stride, .. } = meta[0];
    Ok((addr, buffer[..len].chunks(stride.max(1))))
}

fn send(socket: &LossySocket, destination: SocketAddr, contents: &[u8]) {
    let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
    // What cannot be sent is lost, as on any network.
    let _ = socket.try_send(&transmit);
}
