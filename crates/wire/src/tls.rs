//! TLS 1.3, both ends with certificates of the cluster's own authority.
//!
//! The certificates name identities, not hosts: a verifier asks who the peer is, never under which address it was
//! found. Sessions are not resumed, so that each connection shows its certificate again.

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};

use crate::guest::{Door, GUEST_ALPN};
use crate::{Expect, Membership, PeerIdentity, Result, WireError};

pub(crate) const ALPN: &[u8] = b"lyceum";

/// TLS asks for a name; ours are in the certificates' URIs.
pub(crate) const SERVER_NAME: &str = "lyceum.invalid";

/// The part of a verifier that is about signatures, the same on both sides: TLS 1.3 only, by `self.provider`.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("only TLS 1.3 is spoken here".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}
pub(crate) use signatures;

/// What both directions share.
#[derive(Debug)]
pub(crate) struct Tls {
    membership: Membership,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
}

impl Tls {
    pub(crate) fn new(membership: Membership) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(membership.credentials().authority()).map_err(tls_error)?;
        Ok(Self { membership, provider: Arc::new(ring::default_provider()), roots: Arc::new(roots) })
    }

    /// Members come in; with a door, and while that is open, guests do too.
    pub(crate) fn server(&self, door: Option<&Door>) -> Result<QuicServerConfig> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| WireError::Certificate(error.to_string()))?;
        let cluster = self.membership.identity().cluster().to_owned();
        let verifier = Members { chain, provider: Arc::clone(&self.provider), cluster, door: door.cloned() };
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(self.membership.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.alpn_protocols.extend(door.map(|_| GUEST_ALPN.to_vec()));
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|error| WireError::Certificate(error.to_string()))
    }

    pub(crate) fn client(&self, expect: &Expect) -> Result<QuicClientConfig> {
        let verifier = Expected {
            provider: Arc::clone(&self.provider),
            roots: Arc::clone(&self.roots),
            cluster: self.membership.identity().cluster().to_owned(),
            expect: expect.clone(),
        };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(self.membership.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        QuicClientConfig::try_from(config).map_err(|error| WireError::Certificate(error.to_string()))
    }
}

/// Did the caller ask for the protocol of guests?
pub(crate) fn is_guest(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(GUEST_ALPN))
}

/// The identity that the peer proved in the handshake of `connection`.
pub(crate) fn proven_identity(connection: &quinn::Connection) -> Result<PeerIdentity> {
    let missing = || WireError::Certificate("the peer showed no certificate".into());
    let shown = connection.peer_identity().ok_or_else(missing)?;
    let chain = shown.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| missing())?;
    PeerIdentity::from_certificate(chain.first().ok_or_else(missing)?)
}

/// Server side: anyone whose certificate this cluster's authority signed. Which of them is for `Admission`, after the
/// handshake, so that a refused member can be told why.
#[derive(Debug)]
struct Members {
    chain: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    cluster: String,
    door: Option<Door>,
}

impl ClientCertVerifier for Members {
    /// Where guests are awaited, whoever shows none is told from a guest after the handshake, before it is heard.
    fn client_auth_mandatory(&self) -> bool {
        !self.door.as_ref().is_some_and(Door::is_open)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let identity = identity_of(end_entity)?;
        if identity.cluster() != self.cluster {
            return Err(Error::General(format!("{identity} is not of cluster {}", self.cluster)));
        }
        Ok(verified)
    }

    signatures!();
}

/// Client side: the peer that the caller means, signed by this cluster's authority.
#[derive(Debug)]
struct Expected {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    cluster: String,
    expect: Expect,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        self.expect.check(&self.cluster, &identity_of(end_entity)?).map_err(Error::General)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, Error> {
    PeerIdentity::from_certificate(certificate)
        .map_err(|_| CertificateError::ApplicationVerificationFailure.into())
}

pub(crate) fn tls_error(error: Error) -> WireError {
    WireError::Certificate(error.to_string())
}
