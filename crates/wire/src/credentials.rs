//! What a process shows to prove who it is: its certificate, its key, and the authority it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{KeyPair, PublicKeyData};
use rustls::crypto::ring;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Fingerprint, PeerIdentity, Result, WireError, private_file};

const FILE: &str = "credentials.pem";

/// A certificate, its key and the certificate of the authority that signed it. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Parts>);

struct Parts {
    pem: Vec<u8>,
    identity: PeerIdentity,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    key: Arc<dyn SigningKey>,
    validity: (SystemTime, SystemTime),
}

impl Credentials {
    /// Who these credentials say their holder is.
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.identity
    }

    /// Writes them to one file in `dir` (directory 0700, file 0600).
    ///
    /// # Errors
    /// [`WireError::KeyFile`] when it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        private_file::make_dir(dir)?;
        private_file::write(dir, FILE, &self.0.pem)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`WireError::KeyFile`] when the file is missing or open to others, [`WireError::Certificate`] when damaged.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::from_bytes(&private_file::read(dir, FILE)?)
    }

    /// All of it as PEM text, **with the private key**: only for inside TLS or an inherited socket.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.pem.clone()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) gave: certificate, authority's certificate, key, in this order.
    ///
    /// # Errors
    /// [`WireError::Certificate`] when the bytes are something else.
    pub fn from_bytes(pem: &[u8]) -> Result<Self> {
        let bad = |reason: &str| WireError::Certificate(format!("credentials: {reason}"));
        let sections: Vec<(SectionKind, Vec<u8>)> =
            PemObject::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| bad("not PEM"))?;
        let [(SectionKind::Certificate, own), (SectionKind::Certificate, ca), (SectionKind::PrivateKey, key)] =
            <[_; 3]>::try_from(sections).map_err(|_| bad("expected two certificates and a key"))?
        else {
            return Err(bad("expected a certificate, the authority's and a key, in this order"));
        };
        let (identity, validity) = (PeerIdentity::from_certificate(&own)?, validity_of(&own)?);
        let (certificate, authority) = (CertificateDer::from(own), CertificateDer::from(ca));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key = CertifiedKey::from_der(vec![certificate.clone()], key, &ring::default_provider())
            .map_err(|error| bad(&error.to_string()))?
            .key;
        Ok(Self(Arc::new(Parts { pem: pem.to_vec(), identity, certificate, authority, key, validity })))
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.certificate.clone()
    }

    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        self.0.authority.clone()
    }

    pub(crate) fn key(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.0.key)
    }

    /// From when to when the certificate is valid. It begins before it was issued, for nodes whose clocks are behind.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        self.0.validity
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.certificate)
    }

    /// SHA-256 of the authority's certificate.
    pub fn authority_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.authority)
    }

    /// The same holder's, with a key of the holder's own making for which the authority signed `chain`.
    ///
    /// # Errors
    /// [`WireError::Certificate`] when `chain` is something else, or for another key.
    pub fn with_key(chain: &[u8], key: FreshKey) -> Result<Self> {
        Self::from_bytes(&[chain, key.0.serialize_pem().as_bytes()].concat())
    }
}

/// A key that was made here and has no certificate yet: [`Authority::certify`](crate::Authority::certify) signs one for its
/// public half, which alone travels.
pub struct FreshKey(KeyPair);

impl FreshKey {
    /// Makes one.
    ///
    /// # Errors
    /// [`WireError::Certificate`] when the system has no randomness.
    pub fn generate() -> Result<Self> {
        KeyPair::generate().map(Self).map_err(|error| WireError::Certificate(error.to_string()))
    }

    /// Its public half, as X.509 writes it (DER).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

impl fmt::Debug for FreshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreshKey")
    }
}

pub(crate) fn validity_of(certificate: &[u8]) -> Result<(SystemTime, SystemTime)> {
    let bad = || WireError::Certificate("not an X.509 certificate".into());
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).map_err(|_| bad())?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(bad)
    };
    let validity = certificate.validity();
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.0.identity)
    }
}

/// So many bytes that nobody can guess.
///
/// # Errors
/// [`WireError::Certificate`] when the system has no randomness.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = ring::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| WireError::Certificate("the system has no randomness".into()))?;
    Ok(bytes)
}
