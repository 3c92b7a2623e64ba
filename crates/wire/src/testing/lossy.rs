//! A UDP socket that behaves as a bad network does.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Packets that may be on their way at a time; more are lost, as a router's full queue loses them.
const IN_FLIGHT: usize = 8192;

/// What a [`LossySocket`] does to the packets it sends. The same seed draws the same fates in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Seed of all draws.
    pub seed: u64,
    /// Share of packets that never arrive, 0 to 1.
    pub loss: f64,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplication: f64,
    /// Every packet takes at least this long.
    pub delay: Duration,
    /// And up to this much more, drawn for each: packets overtake one another.
    pub jitter: Duration,
    /// Packets of more bytes than this never arrive.
    pub longest: usize,
}

impl Faults {
    /// A network that can be cut and does nothing else to its packets.
    pub fn none() -> Self {
        Faults { loss: 0.0, duplication: 0.0, jitter: Duration::ZERO, ..Faults::bad(1) }
    }

    /// Five percent lost, five duplicated, 1 to 4 ms on the way.
    pub fn bad(seed: u64) -> Self {
        Self {
            seed,
            loss: 0.05,
            duplication: 0.05,
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(3),
            longest: usize::MAX,
        }
    }
}

/// A UDP socket for [`Endpoint::bind_with_socket`](crate::Endpoint::bind_with_socket) that loses, delays, reorders and
/// duplicates what it sends, and can be [severed](Self::sever).
#[derive(Debug)]
pub struct LossySocket {
    inner: Arc<dyn AsyncUdpSocket>,
    faults: Faults,
    random: Mutex<SplitMix>,
    flying: Mutex<BinaryHeap<Reverse<Packet>>>,
    launched: Notify,
    severed: AtomicBool,
    lost: AtomicU64,
}

impl LossySocket {
    /// Binds `addr`. Call it within a tokio runtime; its delays are kept there.
    ///
    /// # Errors
    /// The system's, when the address cannot be bound.
    pub fn bind(addr: SocketAddr, faults: Faults) -> io::Result<Arc<Self>> {
        let socket = Arc::new(Self {
            inner: TokioRuntime.wrap_udp_socket(UdpSocket::bind(addr)?)?,
            faults,
            random: Mutex::new(SplitMix(faults.seed)),
            flying: Mutex::default(),
            launched: Notify::new(),
            severed: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        tokio::spawn(land(Arc::downgrade(&socket)));
        Ok(socket)
    }

    /// From now on nothing passes in either direction: the peer has fallen silent without a word.
    pub fn sever(&self) {
        self.severed.store(true, Relaxed);
    }

    /// Ends [`sever`](Self::sever).
    pub fn restore(&self) {
        self.severed.store(false, Relaxed);
    }

    /// Packets lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn launch(&self, transmit: &Transmit<'_>, after: Duration) {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        if flying.len() >= IN_FLIGHT {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        flying.push(Reverse(Packet {
            due: Instant::now() + after,
            destination: transmit.destination,
            source: transmit.src_ip,
            contents: transmit.contents.into(),
        }));
        drop(flying);
        self.launched.notify_one();
    }

    /// Sends what is due and says when the next packet will be.
    fn land_due(&self) -> Option<Instant> {
        loop {
            let packet = {
                let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
                let due = flying.peek()?.0.due;
                if due > Instant::now() {
                    return Some(due);
                }
                flying.pop()?.0
            };
            // A full socket buffer is one more lost packet.
            let sent = self.inner.try_send(&Transmit {
                destination: packet.destination,
                ecn: None,
                contents: &packet.contents,
                segment_size: None,
                src_ip: packet.source,
            });
            if sent.is_err() {
                self.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Delivers delayed packets for as long as the socket lives.
async fn land(socket: Weak<LossySocket>) {
    /// How often a task without work looks whether its socket still lives.
    const LOOK: Duration = Duration::from_secs(1);
    while let Some(socket) = socket.upgrade() {
        let next = socket.land_due().unwrap_or_else(|| Instant::now() + LOOK);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = socket.launched.notified() => {}
        }
    }
}

impl AsyncUdpSocket for LossySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let [loss, duplication, first, second] = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            std::array::from_fn(|_| random.fraction())
        };
        let vanishes = loss < self.faults.loss || transmit.contents.len() > self.faults.longest;
        if self.severed.load(Relaxed) || vanishes {
            self.lost.fetch_add(1, Relaxed);
            return Ok(());
        }
        self.launch(transmit, self.faults.delay + self.faults.jitter.mul_f64(first));
        if duplication < self.faults.duplication {
            self.launch(transmit, self.faults.delay + self.faults.jitter.mul_f64(second));
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.inner.poll_recv(cx, bufs, meta) {
                // What comes in while severed is swallowed.
                Poll::Ready(Ok(_)) if self.severed.load(Relaxed) => {}
                other => return other,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[derive(Debug)]
struct Packet {
    due: Instant,
    destination: SocketAddr,
    source: Option<std::net::IpAddr>,
    contents: Box<[u8]>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    /// Uniform in [0, 1).
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
