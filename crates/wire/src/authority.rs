//! The cluster's own certificate authority. Its key stays in the head's directory.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::credentials::validity_of;
use crate::identity::checked_name;
use crate::{Credentials, Fingerprint, PeerIdentity, Result, WireError, private_file};

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
const CLUSTER_PREFIX: &str = "lyceum cluster ";

/// The authority's own certificate: ten years. A cluster that lives longer makes a new one.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates begin to be valid this long before they are issued, for nodes whose clocks are behind.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// A certificate that the authority signed for a key that it does not know.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate and the authority's, as PEM text. Nothing in it is secret.
    pub chain: Vec<u8>,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// From when to when it is valid.
    pub validity: (SystemTime, SystemTime),
}

/// Far above that of any key of ours, in bytes.
const MAX_PUBLIC_KEY: usize = 256;

/// Signs the certificates of one cluster.
pub struct Authority {
    cluster: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with a new key. Whatever another authority signed, also one for a cluster of the same
    /// name, is not trusted by the holders of its certificates.
    ///
    /// # Errors
    /// [`WireError::Identity`] for an unusable name, [`WireError::Certificate`] when the key cannot be made.
    pub fn create(cluster: impl Into<String>) -> Result<Self> {
        let cluster = checked_name("cluster", cluster.into())?;
        let mut params = params(format!("{CLUSTER_PREFIX}{cluster}"), AUTHORITY_VALIDITY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(certificate_error)?;
        let certificate = params.self_signed(&key).map_err(certificate_error)?.pem();
        Ok(Self { cluster, certificate, issuer: Issuer::new(params, key) })
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`WireError::KeyFile`] when a file is missing or open to others, [`WireError::Certificate`] when it is damaged.
    pub fn load(dir: &Path) -> Result<Self> {
        let text = |name| {
            String::from_utf8(private_file::read(dir, name)?)
                .map_err(|_| WireError::KeyFile { path: dir.join(name), reason: "is not PEM text".into() })
        };
        Self::from_pem(text(CERTIFICATE_FILE)?, &text(KEY_FILE)?)
    }

    pub(crate) fn from_pem(certificate: String, key: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key).map_err(certificate_error)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(certificate_error)?;
        let cluster = cluster_of(&certificate)?;
        Ok(Self { cluster, certificate, issuer })
    }

    /// Writes key and certificate into `dir` (directory 0700, files 0600).
    ///
    /// # Errors
    /// [`WireError::KeyFile`] when they cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        private_file::make_dir(dir)?;
        private_file::write(dir, KEY_FILE, self.issuer.key().serialize_pem().as_bytes())?;
        private_file::write(dir, CERTIFICATE_FILE, self.certificate.as_bytes())
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// A short mark of its key, in hexadecimal digits: another authority, also for a cluster of the same name, has another.
    pub fn mark(&self) -> String {
        let key = self.issuer.key().public_key_raw();
        key.iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes a key and signs a certificate for it that says `identity`, valid for `validity` from now.
    ///
    /// # Errors
    /// [`WireError::Identity`] when the identity is of another cluster, [`WireError::Certificate`] when signing fails.
    pub fn issue(&self, identity: &PeerIdentity, validity: Duration) -> Result<Credentials> {
        let key = KeyPair::generate().map_err(certificate_error)?;
        let chain = self.sign(identity, &key, validity)?;
        Credentials::from_bytes(format!("{chain}{}", key.serialize_pem()).as_bytes())
    }

    /// Signs a certificate for a key that its holder has made ([`FreshKey`](crate::FreshKey)), as [`issue`](Self::issue) does.
    ///
    /// # Errors
    /// As [`issue`](Self::issue), and [`WireError::Certificate`] when `public_key` is none that can be used.
    pub fn certify(
        &self,
        identity: &PeerIdentity,
        public_key: &[u8],
        validity: Duration,
    ) -> Result<Certified> {
        let key = usable_key(public_key)?;
        let chain = self.sign(identity, &key, validity)?.into_bytes();
        let own = CertificateDer::from_pem_slice(&chain)
            .map_err(|error| WireError::Certificate(error.to_string()))?;
        Ok(Certified { fingerprint: Fingerprint::of(&own), validity: validity_of(&own)?, chain })
    }

    /// SHA-256 of its own certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        // It was parsed when this was made.
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        Fingerprint::of(&der.unwrap_or_else(|_| Vec::new().into()))
    }

    /// Its own certificate, as PEM text: what others trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    fn sign(&self, identity: &PeerIdentity, key: &impl PublicKeyData, validity: Duration) -> Result<String> {
        if identity.cluster() != self.cluster {
            return Err(WireError::Identity {
                what: "cluster",
                value: identity.cluster().into(),
                expected: "the cluster of this authority",
            });
        }
        let uri = identity.to_string().try_into().map_err(certificate_error)?;
        let mut params = params(format!("lyceum {}", identity.role()), validity)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every process calls and is called: which roles may do so is the callee's `Admission`.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(certificate_error)?;
        Ok(format!("{}{}", certificate.pem(), self.certificate))
    }
}

/// Is this the public half of a key that an authority signs a certificate for?
///
/// # Errors
/// [`WireError::Certificate`] when it is not.
pub fn check_public_key(public_key: &[u8]) -> Result<()> {
    usable_key(public_key).map(drop)
}

fn usable_key(public_key: &[u8]) -> Result<SubjectPublicKeyInfo> {
    if public_key.len() > MAX_PUBLIC_KEY {
        let found = public_key.len();
        let text = format!("a public key of {found} bytes, expected at most {MAX_PUBLIC_KEY}");
        return Err(WireError::Certificate(text));
    }
    let key = SubjectPublicKeyInfo::from_der(public_key).map_err(certificate_error)?;
    if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(WireError::Certificate("a public key of another kind, expected ECDSA over P-256".into()));
    }
    Ok(key)
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn params(common_name: String, validity: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    let end = now.checked_add(validity).filter(|_| validity <= AUTHORITY_VALIDITY);
    let end =
        end.ok_or_else(|| WireError::Certificate(format!("a validity of {validity:?} is above ten years")))?;
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = end.into();
    Ok(params)
}

fn cluster_of(pem: &str) -> Result<String> {
    let bad = |what: &str| WireError::Certificate(format!("the authority's certificate {what}"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| bad("is not PEM"))?;
    let certificate = pem.parse_x509().map_err(|_| bad("is damaged"))?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let cluster =
        name.and_then(|name| name.strip_prefix(CLUSTER_PREFIX)).ok_or_else(|| bad("is not lyceum's"))?;
    checked_name("cluster", cluster.to_owned())
}

fn certificate_error(error: rcgen::Error) -> WireError {
    WireError::Certificate(error.to_string())
}
