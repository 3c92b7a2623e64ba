//! Who may come in, and whom a caller means to reach.

use std::fmt;
use std::sync::Arc;

use crate::{PeerIdentity, PeerRole};

type Rule = dyn Fn(&PeerIdentity) -> Result<(), String> + Send + Sync;

/// Decides which peers of the cluster may open a connection to this endpoint.
///
/// It is asked after TLS has shown that the peer holds a certificate of this cluster. A refused peer is told why.
#[derive(Clone)]
pub struct Admission(Arc<Rule>);

impl Admission {
    /// Refuses everybody: for an endpoint that only calls.
    pub fn nobody() -> Self {
        Self::by(|_| Err("this process takes no connections".into()))
    }

    /// Lets in these roles.
    pub fn roles(roles: impl Into<Vec<PeerRole>>) -> Self {
        let roles = roles.into();
        Self::by(move |peer| {
            if roles.contains(&peer.role()) {
                return Ok(());
            }
            let admitted: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            let (article, role) = (peer.role().article(), peer.role());
            Err(format!("{article} {role} is not admitted here, only {}", admitted.join(", ")))
        })
    }

    /// Lets in whom `rule` accepts; its error is what the peer is told.
    pub fn by(rule: impl Fn(&PeerIdentity) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }

    pub(crate) fn check(&self, peer: &PeerIdentity) -> Result<(), String> {
        (self.0)(peer)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

/// Whom a caller means to reach. The cluster is always the caller's own; what is `None` may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The peer's role.
    pub role: PeerRole,
    /// The peer's node.
    pub node: Option<String>,
    /// The peer's incarnation: set it wherever it is known, so that a successor on the same port is not taken for it.
    pub incarnation: Option<u64>,
}

impl Expect {
    /// Any peer of this role.
    pub fn role(role: PeerRole) -> Self {
        Self { role, node: None, incarnation: None }
    }

    /// Exactly this peer.
    pub fn exactly(peer: &PeerIdentity) -> Self {
        Self { role: peer.role(), node: Some(peer.node().to_owned()), incarnation: Some(peer.incarnation()) }
    }

    pub(crate) fn check(&self, cluster: &str, peer: &PeerIdentity) -> Result<(), String> {
        let mismatch = |what: &str, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
            Err(format!("the peer is {peer}: expected {what} {expected}, found {found}"))
        };
        if peer.cluster() != cluster {
            return mismatch("cluster", &cluster, &peer.cluster());
        }
        if peer.role() != self.role {
            return mismatch("role", &self.role, &peer.role());
        }
        match &self.node {
            Some(node) if node != peer.node() => return mismatch("node", node, &peer.node()),
            _ => {}
        }
        match self.incarnation {
            Some(number) if number != peer.incarnation() => {
                mismatch("incarnation", &number, &peer.incarnation())
            }
            _ => Ok(()),
        }
    }
}
