//! Callers, and called, that follow no rule of ours: for tests that show what a process does about them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::WantsClientCert;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder};

use crate::tls::{ALPN, SERVER_NAME, Tls, signatures};
use crate::{CloseReason, Credentials, MAX_PAYLOAD, Membership, RKYV_FORMAT, Result, WireError};

/// A caller that speaks QUIC and TLS as we do, and then whatever it likes. It does not ask whom it has reached.
pub struct Rogue {
    _endpoint: quinn::Endpoint,
    connection: quinn::Connection,
}

impl Rogue {
    /// Calls `addr` with the certificate of `credentials`, whosever authority signed it.
    ///
    /// # Errors
    /// [`WireError::Connect`] when the other side refuses it in the middle of the handshake. Mostly it does so later,
    /// since the caller's side of a handshake ends first: see [`told`](Self::told).
    pub async fn call(credentials: &Credentials, addr: SocketAddr) -> Result<Self> {
        let tls = careless()?.with_client_cert_resolver(Arc::new(Membership::from(credentials.clone())));
        Self::open(tls, addr).await
    }

    /// Calls `addr` without a certificate.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_without_certificate(addr: SocketAddr) -> Result<Self> {
        Self::open(careless()?.with_no_client_auth(), addr).await
    }

    async fn open(mut tls: ClientConfig, addr: SocketAddr) -> Result<Self> {
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let failed = |reason: String| WireError::Connect { addr, reason };
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint =
            quinn::Endpoint::client(local).map_err(|source| WireError::Bind { addr: local, source })?;
        let tls = QuicClientConfig::try_from(tls).map_err(|error| failed(error.to_string()))?;
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let connecting =
            endpoint.connect_with(config, addr, SERVER_NAME).map_err(|error| failed(error.to_string()))?;
        let connection = connecting.await.map_err(|error| failed(error.to_string()))?;
        Ok(Self { _endpoint: endpoint, connection })
    }

    /// Opens a stream, the first of which is the lane, and says `bytes` on it.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the other side has closed the connection already.
    pub async fn say(&self, bytes: &[u8]) -> Result<(quinn::SendStream, quinn::RecvStream)> {
        let (mut sender, receiver) = self.connection.open_bi().await.map_err(crate::CloseReason::from)?;
        // The other side may close before it has read all of it, which is what it is tested for.
        let _ = sender.write_all(bytes).await;
        Ok((sender, receiver))
    }

    /// Waits for the end of the connection: the code and the reason that the other side gave; no code where QUIC or TLS
    /// ended it.
    pub async fn told(&self) -> (Option<u64>, String) {
        end_of(&self.connection).await
    }
}

impl fmt::Debug for Rogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rogue(calling {})", self.connection.remote_address())
    }
}

/// A process that lets everybody in, and then says whatever it likes.
pub struct RogueHost {
    endpoint: quinn::Endpoint,
    addr: SocketAddr,
}

impl RogueHost {
    /// Listens on loopback, with the certificate of `credentials`.
    ///
    /// # Errors
    /// [`WireError::Bind`] and [`WireError::Certificate`], as for an honest one.
    pub fn listen(credentials: &Credentials) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bind = |source| WireError::Bind { addr: any, source };
        let config =
            quinn::ServerConfig::with_crypto(Arc::new(Tls::new(credentials.clone().into())?.server(None)?));
        let endpoint = quinn::Endpoint::server(config, any).map_err(bind)?;
        let addr = endpoint.local_addr().map_err(bind)?;
        Ok(Self { endpoint, addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes the next caller, waits for its first stream, which is its hello's, says `bytes` on it, and gives what it is told at the
    /// end of the connection: the code and the reason.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the caller does not come so far.
    pub async fn answer(&self, bytes: &[u8]) -> Result<(Option<u64>, String)> {
        let incoming = self.endpoint.accept().await.ok_or(WireError::Closed(CloseReason::Here))?;
        let connection = incoming.await.map_err(CloseReason::from)?;
        let (mut sender, _receiver) = connection.accept_bi().await.map_err(CloseReason::from)?;
        let _ = sender.write_all(bytes).await;
        Ok(end_of(&connection).await)
    }
}

impl fmt::Debug for RogueHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RogueHost({})", self.addr)
    }
}

async fn end_of(connection: &quinn::Connection) -> (Option<u64>, String) {
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            (Some(close.error_code.into_inner()), reason)
        }
        other => (None, other.to_string()),
    }
}

/// A sound hello on the wire, pinned byte by byte: version 2, lane, no roles.
pub fn sound_hello() -> Vec<u8> {
    let body = [&b"LYCM"[..], &[2, 0, 0, 0], &RKYV_FORMAT.to_le_bytes(), &[0, 0]].concat();
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// The head of a frame that announces one byte more than may come.
pub fn oversized_frame() -> Vec<u8> {
    [&(MAX_PAYLOAD as u32 + 1).to_le_bytes()[..], &[0; 28]].concat()
}

/// Datagrams that are no QUIC: noise of many lengths, and the same behind the first bytes of an `Initial` packet of
/// version 1, cut short or with nonsense in it. The same seed gives the same datagrams.
pub fn hostile_datagrams(seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..1500usize).step_by(7).flat_map(move |len| {
        // xorshift64: <https://en.wikipedia.org/wiki/Xorshift>.
        let noise: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        // Long header, fixed bit, type Initial; version 1; an eight-byte connection id: RFC 9000, 17.2.2.
        let initial = [&[0xc3, 0, 0, 0, 1, 8][..], &noise].concat();
        [noise, initial]
    })
}

fn careless() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(unusable)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider })))
}

fn unusable(error: rustls::Error) -> WireError {
    WireError::Certificate(error.to_string())
}

/// Takes whoever answers for the right one.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
