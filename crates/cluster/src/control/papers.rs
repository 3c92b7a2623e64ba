//! Who was let in and who may be: join tokens, certificates and revocations, as they are told and written down.

use rkyv::{Archive, Deserialize, Serialize};

/// All certificates of a node, of its agent and its workers, with an incarnation below `before` are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Revoked {
    /// The node.
    pub node: String,
    /// Incarnations below this one are meant.
    pub before: u64,
    /// The last of the certificates expires then, in seconds since 1970.
    pub until: u64,
}

impl From<Revoked> for lyceum_wire::Revocation {
    fn from(revoked: Revoked) -> Self {
        let Revoked { node, before, until } = revoked;
        Self { node, before, until }
    }
}

impl From<lyceum_wire::Revocation> for Revoked {
    fn from(revocation: lyceum_wire::Revocation) -> Self {
        let lyceum_wire::Revocation { node, before, until } = revocation;
        Self { node, before, until }
    }
}

/// As written down: a token that lets one node in, once.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TokenState {
    /// The node that it lets in.
    pub node: String,
    /// SHA-256 of its secret, which nobody but its holder has.
    pub hash: [u8; 32],
    /// When it expires, in milliseconds since 1970.
    pub expires: u64,
    /// How often it was shown with another secret.
    pub failures: u32,
    /// Who has used it.
    pub used: Option<TokenUse>,
}

/// A token was used. The same key may come for its certificate again: the answer may have been lost, or the head may have
/// ended before it gave it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TokenUse {
    /// SHA-256 of the key that the certificate is for.
    pub key: [u8; 32],
    /// The incarnation that it was given.
    pub incarnation: u64,
}

/// As written down: a certificate that was issued to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CertificateState {
    /// Its node.
    pub node: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    /// Valid from then, in seconds since 1970.
    pub from: u64,
    /// Valid until then, in seconds since 1970.
    pub until: u64,
}

/// A token, for people. Its secret is nowhere but in the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its number.
    pub id: u64,
    /// The node that it lets in.
    pub node: String,
    /// When it expires, in milliseconds since 1970.
    pub expires: u64,
    /// `open`, or why it lets nobody in any more.
    pub state: String,
}

/// A certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// What its holder may do: `head`, `agent`, `client` or `worker`.
    pub role: String,
    /// Its node.
    pub node: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    /// Valid from then, in seconds since 1970.
    pub from: u64,
    /// Valid until then, in seconds since 1970.
    pub until: u64,
    /// Is it refused?
    pub revoked: bool,
}

/// The certificates of a cluster, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct Certificates {
    /// The authority's own certificate, as PEM text.
    pub authority: String,
    /// Those that were issued: to agents, and as far as this head has issued them, to all others that are connected.
    pub issued: Vec<CertificateStatus>,
    /// So many more are left out.
    pub omitted: u64,
    /// The revocations in force.
    pub revoked: Vec<Revoked>,
}
