//! One UDP socket that calls and is called.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quinn::{AsyncUdpSocket, ClientConfig, Runtime, ServerConfig, TokioRuntime, TransportConfig};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::guest::{MAX_GUESTS, Reception};
use crate::handshake::{self, Local};
use crate::stray::Strays;
use crate::tls::{SERVER_NAME, Tls};
use crate::{
    CloseCode, CloseReason, Connection, EndpointOptions, Expect, Guest, Hello, Membership, PeerIdentity,
    PeerRole, Purpose, Result, SocketBuffers, TransportOptions, WireError, socket, tls,
};

/// Connections that may wait for [`Endpoint::accept`]; further handshakes wait behind them.
const ACCEPT_BACKLOG: usize = 64;

/// A socket under the cluster's TLS. Cheap to clone; when the last clone is dropped it takes no more connections, and
/// the socket closes with the last connection.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

/// What became of the connections that peers tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointStatistics {
    /// Let in.
    pub accepted: u64,
    /// Refused: no TLS of ours, not admitted, no proper hello, too late, or too many at a time.
    pub refused: u64,
    /// Datagrams that were of no connection and began none.
    pub strays: u64,
}

struct Inner {
    quinn: quinn::Endpoint,
    local_addr: SocketAddr,
    tls: Tls,
    transport: Arc<TransportConfig>,
    transport_options: TransportOptions,
    buffers: Option<SocketBuffers>,
    local: Arc<Local>,
    timeout: Duration,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    guests: Mutex<mpsc::Receiver<Guest>>,
    counters: Arc<Counters>,
    strays: Arc<Strays>,
    acceptor: JoinHandle<()>,
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Endpoint {
    /// Binds `options.bind`. Call it within a tokio runtime: all I/O of the endpoint runs there.
    ///
    /// # Errors
    /// [`WireError::Bind`] when the address is taken or not ours, [`WireError::Ports`] when all of `options.ports` are held,
    /// [`WireError::Certificate`] when the credentials do not
    /// fit together, [`WireError::Option`] for an impossible option.
    pub fn bind(membership: impl Into<Membership>, options: EndpointOptions) -> Result<Self> {
        let addr = options.bind;
        let membership = membership.into();
        let (socket, buffers) = socket::bind(addr, &options.ports, options.transport.socket_buffer)?;
        let socket = TokioRuntime.wrap_udp_socket(socket);
        let socket = socket.map_err(|source| WireError::Bind { addr, source })?;
        // One of a machine says it: a worker's log is its actor's, and a person's command is over before it would matter.
        if matches!(membership.identity().role(), PeerRole::Agent | PeerRole::Head) {
            buffers.say_once();
        }
        Self::over(membership, options, socket, Some(buffers))
    }

    /// As [`bind`](Self::bind), on a socket of the caller's: `options.bind` is not looked at.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with_socket(
        membership: impl Into<Membership>,
        options: EndpointOptions,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> Result<Self> {
        Self::over(membership.into(), options, socket, None)
    }

    fn over(
        membership: Membership,
        options: EndpointOptions,
        socket: Arc<dyn AsyncUdpSocket>,
        buffers: Option<SocketBuffers>,
    ) -> Result<Self> {
        options.lane.check()?;
        Hello { purpose: Purpose::Lane, roles: options.roles.clone() }.encode()?;
        let (mut endpoint_config, transport) = options.transport.to_quinn()?;
        let strays = Arc::new(Strays::new());
        strays.mark_ids(&mut endpoint_config);
        let tls = Tls::new(membership.clone())?;
        let mut server = ServerConfig::with_crypto(Arc::new(tls.server(options.door.as_ref())?));
        server.transport_config(Arc::clone(&transport)).max_incoming(options.max_handshakes);
        let bind = |source| WireError::Bind { addr: options.bind, source };
        let socket = Arc::new(socket::EndpointSocket { inner: socket, strays: Arc::clone(&strays) });
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config,
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(bind)?;
        let local_addr = quinn.local_addr().map_err(bind)?;
        let local = Arc::new(Local {
            membership,
            admission: options.admission,
            roles: options.roles,
            lane: options.lane,
        });
        let counters = Arc::<Counters>::default();
        let (accepted_sender, accepted) = mpsc::channel(ACCEPT_BACKLOG);
        // As many as there are places: who has one never waits here.
        let (guest_sender, guests) = mpsc::channel(MAX_GUESTS);
        let acceptor = Acceptor {
            quinn: quinn.clone(),
            local: Arc::clone(&local),
            timeout: options.handshake_timeout,
            max_handshakes: options.max_handshakes,
            accepted: accepted_sender,
            reception: options.door.map(|door| Arc::new(Reception::of(door))),
            guests: guest_sender,
            counters: Arc::clone(&counters),
        };
        Ok(Self(Arc::new(Inner {
            quinn,
            local_addr,
            tls,
            transport,
            transport_options: options.transport,
            buffers,
            local,
            timeout: options.handshake_timeout,
            accepted: Mutex::new(accepted),
            guests: Mutex::new(guests),
            counters,
            strays,
            acceptor: tokio::spawn(acceptor.run()),
        })))
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// What the system gave its socket; nothing of a socket of the caller's.
    pub fn socket_buffers(&self) -> Option<SocketBuffers> {
        self.0.buffers
    }

    pub(crate) fn transport(&self) -> &TransportOptions {
        &self.0.transport_options
    }

    /// Who this process is.
    pub fn identity(&self) -> &PeerIdentity {
        self.0.local.membership.identity()
    }

    /// What this process shows, and whom it refuses.
    pub fn membership(&self) -> &Membership {
        &self.0.local.membership
    }

    /// Connects for frames.
    ///
    /// # Errors
    /// [`WireError::Connect`] when nobody answers in time or the one who does is not whom `expect` says;
    /// [`WireError::Refused`] with the peer's reason when it does not let us in.
    pub async fn connect(&self, addr: SocketAddr, expect: &Expect) -> Result<Connection> {
        self.connect_for(addr, expect, Purpose::Lane).await
    }

    /// Connects for the given purpose; bulk goes on connections of its own, so that frames do not wait behind it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_for(
        &self,
        addr: SocketAddr,
        expect: &Expect,
        purpose: Purpose,
    ) -> Result<Connection> {
        self.connect_over(addr, expect, purpose, Arc::clone(&self.0.transport)).await
    }

    pub(crate) async fn connect_over(
        &self,
        addr: SocketAddr,
        expect: &Expect,
        purpose: Purpose,
        transport: Arc<TransportConfig>,
    ) -> Result<Connection> {
        let mut config = ClientConfig::new(Arc::new(self.0.tls.client(expect)?));
        config.transport_config(transport);
        let failed = |reason: String| WireError::Connect { addr, reason };
        let connecting =
            self.0.quinn.connect_with(config, addr, SERVER_NAME).map_err(|e| failed(e.to_string()))?;
        let attempt = async {
            let quinn = connecting.await.map_err(|error| match CloseReason::from(error) {
                CloseReason::ByPeer { reason, .. } => WireError::Refused { addr, reason },
                other => failed(other.to_string()),
            })?;
            handshake::call(quinn, purpose, &self.0.local).await
        };
        let limit = self.0.timeout;
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(handshake::timed_out(addr, limit)))
    }

    /// The next peer that was let in; `None` once the endpoint is closed. Handshakes go on beside each other whether or
    /// not this is called. Cancel safe.
    pub async fn accept(&self) -> Option<Connection> {
        self.0.accepted.lock().await.recv().await
    }

    /// The next guest, where there is a [door](EndpointOptions::door); `None` once the endpoint is closed. Cancel safe.
    pub async fn accept_guest(&self) -> Option<Guest> {
        self.0.guests.lock().await.recv().await
    }

    /// Counts since the start.
    pub fn statistics(&self) -> EndpointStatistics {
        let Counters { accepted, refused } = &*self.0.counters;
        EndpointStatistics {
            accepted: accepted.load(Relaxed),
            refused: refused.load(Relaxed),
            strays: self.0.strays.count(),
        }
    }

    /// Closes every connection and takes no more.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.0.acceptor.abort();
        self.0.quinn.close((code as u32).into(), reason.as_bytes());
    }

    /// Waits until the peers of all closed connections have been told.
    pub async fn wait_idle(&self) {
        self.0.quinn.wait_idle().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} at {})", self.identity(), self.0.local_addr)
    }
}

/// Takes incoming connections through their handshakes, side by side.
struct Acceptor {
    quinn: quinn::Endpoint,
    local: Arc<Local>,
    timeout: Duration,
    max_handshakes: usize,
    accepted: mpsc::Sender<Connection>,
    /// Without it there are no guests.
    reception: Option<Arc<Reception>>,
    guests: mpsc::Sender<Guest>,
    counters: Arc<Counters>,
}

/// Whoever has come in.
enum Caller {
    Member(Connection),
    Guest(Guest),
}

impl Acceptor {
    async fn run(self) {
        let mut handshakes = JoinSet::new();
        while let Some(incoming) = self.quinn.accept().await {
            while handshakes.try_join_next().is_some() {}
            if handshakes.len() >= self.max_handshakes {
                tracing::warn!(peer = %incoming.remote_address(), "refused: {} handshakes under way", handshakes.len());
                self.counters.refused.fetch_add(1, Relaxed);
                incoming.refuse();
                continue;
            }
            if handshakes.len() >= self.max_handshakes / 2 && incoming.may_retry() {
                // Under load a caller first shows that its address is its own. It fails only where `may_retry` is false.
                let _ = incoming.retry();
                continue;
            }
            handshakes.spawn(self.handshake(incoming));
        }
    }

    fn handshake(&self, incoming: quinn::Incoming) -> impl Future<Output = ()> + Send + use<> {
        let (local, accepted, limit) = (Arc::clone(&self.local), self.accepted.clone(), self.timeout);
        let counters = Arc::clone(&self.counters);
        let (reception, guests) = (self.reception.clone(), self.guests.clone());
        async move {
            let addr = incoming.remote_address();
            let attempt = async {
                let quinn = incoming.await.map_err(CloseReason::from)?;
                match reception {
                    Some(reception) if tls::is_guest(&quinn) => {
                        reception.hear(quinn).await.map(Caller::Guest)
                    }
                    _ => handshake::answer(quinn, &local).await.map(Caller::Member),
                }
            };
            let result = tokio::time::timeout(limit, attempt).await;
            match result.unwrap_or_else(|_| Err(handshake::timed_out(addr, limit))) {
                // Either fails only when the endpoint is gone.
                Ok(Caller::Member(connection)) => {
                    counters.accepted.fetch_add(1, Relaxed);
                    let _ = accepted.send(connection).await;
                }
                Ok(Caller::Guest(guest)) => _ = guests.send(guest).await,
                Err(error) => {
                    counters.refused.fetch_add(1, Relaxed);
                    // What the peer was told, without the words for the peer's own log.
                    let why = match error {
                        WireError::Refused { reason, .. } => reason,
                        other => other.to_string(),
                    };
                    tracing::warn!(peer = %addr, why, "connection refused");
                }
            }
        }
    }
}
