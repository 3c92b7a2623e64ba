//! What a process shows to prove who it is: its certificate, its key, and the authority it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{PeerIdentity, Result, WireError, private_file};

const FILE: &str = "credentials.pem";

/// A certificate, its key and the certificate of the authority that signed it. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Parts>);

struct Parts {
    pem: Vec<u8>,
    identity: PeerIdentity,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
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
        Ok(Self(Arc::new(Parts {
            pem: pem.to_vec(),
            identity: PeerIdentity::from_certificate(&own)?,
            certificate: own.into(),
            authority: ca.into(),
            key: key.into(),
        })))
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.certificate.clone()
    }

    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        self.0.authority.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.key.clone_key())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.0.identity)
    }
}
