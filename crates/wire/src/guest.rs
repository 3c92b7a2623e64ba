//! Callers without a certificate, who ask for one: one request, one answer, and nothing else.
//!
//! A guest speaks a protocol of its own (ALPN), which an endpoint with a [`Door`] understands while that is open. It knows
//! the cluster's authority by its [fingerprint](Fingerprint) alone, and says nothing before the other end has proven to be
//! that cluster's head. What its request must hold to be granted is the upper layer's to know.
//!
//! A guest is heard for no longer than a handshake may take, in [`MAX_REQUEST`] bytes. [`MAX_GUESTS`] are served at a time, and
//! no more than so many a second begin; members never wait for them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{RecvStream, SendStream};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{Error, RootCertStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tls::{SERVER_NAME, identity_of, signatures, tls_error};
use crate::{
    CloseCode, CloseReason, Expect, Fingerprint, PROTOCOL_VERSION, PeerRole, Result, WireError, congestion,
};

pub(crate) const GUEST_ALPN: &[u8] = b"lyceum-guest";

/// The longest request of a guest, in bytes.
pub const MAX_REQUEST: usize = 4 * 1024;
/// The longest answer to a guest, in bytes.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Guests that are served at a time.
pub const MAX_GUESTS: usize = 16;
/// Guests that may begin at once, and how many more each second.
const GUESTS_PER_SECOND: f64 = 32.0;
/// How long an answer may take to arrive.
const PARTING: Duration = Duration::from_secs(5);

const MAGIC: [u8; 4] = *b"LYCG";
/// magic 4, version 2, zero 2, length 4.
const HEAD: usize = 12;

/// QUIC's numbers for what TLS refuses: RFC 9001, 4.8.
const TLS_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
/// TLS's own word for whoever shows no certificate where one is asked for: RFC 8446, 6.2, after QUIC's 0x100.
const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;

/// Whether an endpoint hears guests. Shut, whoever has no certificate is refused in the handshake. Cheap to clone; all
/// clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Door(Arc<AtomicBool>);

impl Door {
    /// Opens or shuts it; for handshakes that begin from now on.
    pub fn set_open(&self, open: bool) {
        self.0.store(open, Ordering::Release);
    }

    /// Is it open?
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A guest whose request has come.
pub struct Guest {
    connection: quinn::Connection,
    sender: SendStream,
    request: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// What it asks.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Where it calls from.
    pub fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Answers, waits until that has arrived, and parts.
    ///
    /// # Errors
    /// [`WireError::Bulk`] when the answer is above [`MAX_ANSWER`], or the guest is gone.
    pub async fn answer(mut self, answer: &[u8]) -> Result<()> {
        let lost = |reason: &dyn fmt::Display| WireError::Bulk(format!("the answer to a guest: {reason}"));
        if answer.len() > MAX_ANSWER {
            return Err(lost(&format!("{} bytes, at most {MAX_ANSWER} are sent", answer.len())));
        }
        let given = async {
            write(&mut self.sender, answer).await?;
            self.sender.finish().map_err(|error| lost(&error))?;
            self.sender.stopped().await.map_err(|error| lost(&error))
        };
        let given = tokio::time::timeout(PARTING, given).await;
        congestion::close(&self.connection, CloseCode::Done, "the answer was given");
        given.unwrap_or_else(|_| Err(lost(&"it does not arrive"))).map(drop)
    }

    /// Says no, and why.
    pub fn refuse(self, why: &str) {
        congestion::close(&self.connection, CloseCode::NotAdmitted, why);
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guest({})", self.address())
    }
}

/// The places that an endpoint has for guests.
#[derive(Debug)]
pub(crate) struct Reception {
    door: Door,
    places: Arc<Semaphore>,
    /// Guests that may begin now, as of then.
    rate: Mutex<(f64, Instant)>,
}

impl Reception {
    pub(crate) fn of(door: Door) -> Reception {
        let rate = Mutex::new((GUESTS_PER_SECOND, Instant::now()));
        Reception { door, places: Arc::new(Semaphore::new(MAX_GUESTS)), rate }
    }

    /// Hears a guest whose handshake is done; or tells it why not.
    pub(crate) async fn hear(&self, connection: quinn::Connection) -> Result<Guest> {
        let addr = connection.remote_address();
        let place = self.place().map_err(|why| WireError::Refused { addr, reason: why.to_owned() });
        let heard = async {
            let _place = place?;
            let (sender, mut receiver) = connection.accept_bi().await.map_err(CloseReason::from)?;
            let request = read(&mut receiver, MAX_REQUEST).await?;
            Ok(Guest { connection: connection.clone(), sender, request, _place })
        };
        heard.await.inspect_err(|error| {
            let (code, reason) = match error {
                WireError::Refused { reason, .. } => (CloseCode::NotAdmitted, reason.clone()),
                other => (CloseCode::BadHello, other.to_string()),
            };
            congestion::close(&connection, code, &reason);
        })
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, &'static str> {
        if !self.door.is_open() {
            return Err("nobody is awaited here");
        }
        let now = Instant::now();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *rate;
        let left = (left + since.elapsed().as_secs_f64() * GUESTS_PER_SECOND).min(GUESTS_PER_SECOND);
        *rate = (left, now);
        if left < 1.0 {
            return Err(TOO_MANY_GUESTS);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| TOO_MANY_GUESTS)?;
        *rate = (left - 1.0, now);
        Ok(place)
    }
}

/// What a guest is told that may come again at once.
pub const TOO_MANY_GUESTS: &str = "too many ask at a time: try again in a second";

/// Asks the head of `cluster` at `addr` for something, without a certificate: its answer. The other end must show that it is
/// the head, by a certificate of the authority with this fingerprint, before it is told anything.
///
/// # Errors
/// [`WireError::Connect`] when nobody answers within `patience`, [`WireError::Certificate`] when somebody else does, and
/// [`WireError::Refused`] with the head's words when it says no.
pub async fn ask_as_guest(
    addr: SocketAddr,
    cluster: &str,
    authority: Fingerprint,
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Pinned { provider: Arc::clone(&provider), authority, cluster: cluster.to_owned() };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![GUEST_ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_sni = false;
    let tls = QuicClientConfig::try_from(tls).map_err(|error| WireError::Certificate(error.to_string()))?;
    let any = match addr {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = quinn::Endpoint::client(any).map_err(|source| WireError::Bind { addr: any, source })?;
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let failed = |reason: String| WireError::Connect { addr, reason };
    let connecting = endpoint.connect_with(config, addr, SERVER_NAME).map_err(|e| failed(e.to_string()))?;
    let asked = tokio::time::timeout(patience, async {
        let connection = connecting.await.map_err(|error| told(addr, error))?;
        let answer = exchange(&connection, request).await;
        let why = connection.close_reason();
        congestion::close(&connection, CloseCode::Done, "the answer has come");
        answer.map_err(|error| why.map_or(error, |why| told(addr, why)))
    });
    let asked = asked.await;
    endpoint.wait_idle().await;
    asked.unwrap_or_else(|_| Err(failed(format!("no answer within {} s", patience.as_secs()))))
}

async fn exchange(connection: &quinn::Connection, request: &[u8]) -> Result<Vec<u8>> {
    let (mut sender, mut receiver) = connection.open_bi().await.map_err(CloseReason::from)?;
    // It may be refused before it is read: then the end of the connection says why.
    write(&mut sender, request).await?;
    read(&mut receiver, MAX_ANSWER).await
}

/// What a guest is told by the end of its connection.
fn told(addr: SocketAddr, error: quinn::ConnectionError) -> WireError {
    if let quinn::ConnectionError::ConnectionClosed(close) = &error
        && u64::from(close.error_code) == CERTIFICATE_REQUIRED
    {
        return WireError::Refused { addr, reason: "nobody is awaited here".into() };
    }
    if let quinn::ConnectionError::TransportError(error) = &error
        && TLS_ERRORS.contains(&u64::from(error.code))
    {
        return WireError::Certificate(format!("{addr}: {}", error.reason));
    }
    match CloseReason::from(error) {
        CloseReason::ByPeer { reason, .. } => WireError::Refused { addr, reason },
        other => WireError::Connect { addr, reason: other.to_string() },
    }
}

async fn write(stream: &mut SendStream, body: &[u8]) -> Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    stream.write_all(&bytes).await.map_err(|error| WireError::Hello(error.to_string()))
}

async fn read(stream: &mut RecvStream, limit: usize) -> Result<Vec<u8>> {
    let unread = |error: quinn::ReadExactError| WireError::Hello(error.to_string());
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await.map_err(unread)?;
    let mut body = vec![0; length(&head, limit)?];
    stream.read_exact(&mut body).await.map_err(unread)?;
    Ok(body)
}

/// The length that the head of a request or an answer announces.
pub(crate) fn length(head: &[u8; HEAD], limit: usize) -> Result<usize> {
    let [a, b, c, d, version, version_high, _, _, length @ ..] = *head;
    if [a, b, c, d] != MAGIC {
        return Err(WireError::Hello("it does not begin as a guest's does".into()));
    }
    let version = u16::from_le_bytes([version, version_high]);
    if version != PROTOCOL_VERSION {
        return Err(WireError::Hello(format!(
            "the other end has protocol version {version}, this one has {PROTOCOL_VERSION}: let both be programs of the same \
             version"
        )));
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(WireError::Hello(format!("{length} bytes, at most {limit} are read")));
    }
    Ok(length)
}

/// The head of a cluster whose authority is known by its fingerprint: it sends that certificate behind its own.
#[derive(Debug)]
struct Pinned {
    provider: Arc<CryptoProvider>,
    authority: Fingerprint,
    cluster: String,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = intermediates.iter().find(|shown| Fingerprint::of(shown) == self.authority);
        let Some(authority) = shown else {
            let found = intermediates.iter().map(|shown| Fingerprint::of(shown).to_string());
            let found = found.collect::<Vec<_>>().join(", ");
            let found = if found.is_empty() { "none".to_owned() } else { found };
            return Err(Error::General(format!(
                "the other end is not of the cluster that is meant: expected the authority {}, found {found}",
                self.authority
            )));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let expect = Expect::role(PeerRole::Head);
        expect.check(&self.cluster, &identity_of(end_entity)?).map_err(Error::General)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
