//! A process's membership of its cluster: what it shows to prove who it is, and whose certificates it takes no more.
//!
//! All endpoints of a process share one. A [renewed](Membership::renew) certificate is shown from the next handshake on;
//! connections that stand go on, whatever becomes of the certificates that they began with. A
//! [revoked](Membership::revoke) one ends them, and is refused from then on, whoever of the two calls.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::authority::CLOCK_SKEW;
use crate::guest::GUEST_ALPN;
use crate::{CloseCode, Credentials, PeerIdentity, PeerRole, Result, WireError, congestion};

/// Nodes of which certificates are revoked at a time, at most: more than a cluster may have nodes.
pub const MAX_REVOCATIONS: usize = 16_384;

/// Processes that follow each other renew at so many different times.
const SPREAD: u64 = 64;

/// Certificates of one node, of its agent and its workers, that are taken no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The node.
    pub node: String,
    /// Certificates with a lower incarnation are meant.
    pub before: u64,
    /// The last of them expires then, in seconds since 1970: after that there is nothing to refuse.
    pub until: u64,
}

/// What a process shows, and whom it refuses. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Membership(Arc<Inner>);

struct Inner {
    identity: PeerIdentity,
    shown: RwLock<Shown>,
    trust: Mutex<Trust>,
}

struct Shown {
    credentials: Credentials,
    /// For members, which have the authority's certificate themselves.
    alone: Arc<CertifiedKey>,
    /// For guests, which know the authority by its fingerprint only.
    with_authority: Arc<CertifiedKey>,
}

#[derive(Default)]
struct Trust {
    revoked: BTreeMap<String, Revocation>,
    connections: HashMap<u64, Weak<Registered>>,
    registered: u64,
}

impl From<Credentials> for Membership {
    fn from(credentials: Credentials) -> Self {
        let identity = credentials.identity().clone();
        let (shown, trust) = (RwLock::new(Shown::of(credentials)), Mutex::default());
        Self(Arc::new(Inner { identity, shown, trust }))
    }
}

impl Membership {
    /// Who the process is, whatever certificate it shows.
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.identity
    }

    /// What it shows now.
    pub fn credentials(&self) -> Credentials {
        self.shown().credentials.clone()
    }

    /// How long from now the certificate is to be renewed: when about half of its time has passed, so that the head may be away
    /// for the other half. Processes that were started together do not come all at once.
    pub fn renewal_due(&self) -> Duration {
        let (from, to) = self.shown().credentials.validity();
        let issued = from + CLOCK_SKEW;
        let life = to.duration_since(issued).unwrap_or_default();
        let earlier = life / 16 * (self.identity().incarnation() % SPREAD) as u32 / SPREAD as u32;
        let due = issued + life / 2 - earlier;
        due.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// Shows this from now on. Connections that stand go on.
    ///
    /// # Errors
    /// [`WireError::Certificate`] when it says somebody else, or is of another authority.
    pub fn renew(&self, credentials: Credentials) -> Result<()> {
        let own = self.identity();
        if credentials.identity() != own {
            let found = credentials.identity();
            return Err(WireError::Certificate(format!("it is for {found}, and this process is {own}")));
        }
        let mut shown = self.0.shown.write().unwrap_or_else(PoisonError::into_inner);
        if credentials.authority() != shown.credentials.authority() {
            return Err(WireError::Certificate(format!("it is for {own}, of another authority")));
        }
        *shown = Shown::of(credentials);
        Ok(())
    }

    /// Takes certificates no more: connections of their holders are closed with that reason, and later ones refused.
    ///
    /// # Errors
    /// [`WireError::Option`] when [`MAX_REVOCATIONS`] nodes have such certificates already.
    pub fn revoke(&self, revocation: Revocation) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut trust = self.trust();
        trust.revoked.retain(|_, known| known.until >= now);
        let known = trust.revoked.get(&revocation.node);
        if known.is_none() && trust.revoked.len() >= MAX_REVOCATIONS {
            let reason = format!("certificates of {MAX_REVOCATIONS} nodes are revoked already");
            return Err(WireError::Option { option: "revocations", reason });
        }
        if known.is_none_or(|known| known.before < revocation.before) {
            trust.revoked.insert(revocation.node.clone(), revocation);
        }
        // Closing may run others' code, and what goes then is taken off the list.
        let open: Vec<_> = trust.connections.values().filter_map(Weak::upgrade).collect();
        let refused: Vec<_> =
            open.iter().filter_map(|open| Some((open, trust.refusal(&open.peer)?))).collect();
        drop(trust);
        for (registered, why) in refused {
            congestion::close(&registered.quinn, CloseCode::NotAdmitted, &why);
        }
        Ok(())
    }

    /// Whose certificates are taken no more.
    pub fn revocations(&self) -> Vec<Revocation> {
        self.trust().revoked.values().cloned().collect()
    }

    /// Notes a connection whose peer has proven who it is; the error is why that peer is taken no more.
    pub(crate) fn register(
        &self,
        quinn: &quinn::Connection,
        peer: &PeerIdentity,
    ) -> Result<Arc<Registered>, String> {
        let mut trust = self.trust();
        if let Some(why) = trust.refusal(peer) {
            return Err(why);
        }
        trust.registered += 1;
        let number = trust.registered;
        let (quinn, peer, membership) = (quinn.clone(), peer.clone(), Arc::downgrade(&self.0));
        let registered = Arc::new(Registered { quinn, peer, number, membership });
        trust.connections.insert(number, Arc::downgrade(&registered));
        Ok(registered)
    }

    fn shown(&self) -> std::sync::RwLockReadGuard<'_, Shown> {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.0.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn of(credentials: Credentials) -> Shown {
        let key = credentials.key();
        let alone = CertifiedKey::new(vec![credentials.certificate()], Arc::clone(&key));
        let chain = vec![credentials.certificate(), credentials.authority()];
        let with_authority = Arc::new(CertifiedKey::new(chain, key));
        Shown { credentials, alone: Arc::new(alone), with_authority }
    }
}

impl Trust {
    fn refusal(&self, peer: &PeerIdentity) -> Option<String> {
        let revocation = self.revoked.get(peer.node())?;
        let (node, number) = (peer.node(), peer.incarnation());
        (number < revocation.before).then(|| match peer.role() {
            PeerRole::Agent => format!("the certificate of node `{node}`, incarnation {number}, was revoked"),
            role => format!("the certificate of node `{node}`, {role} {number}, was revoked"),
        })
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Membership({})", self.0.identity)
    }
}

impl ResolvesServerCert for Membership {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_guest = hello.alpn().is_some_and(|mut protocols| protocols.any(|name| name == GUEST_ALPN));
        let shown = self.shown();
        Some(if is_guest { shown.with_authority.clone() } else { shown.alone.clone() })
    }
}

impl ResolvesClientCert for Membership {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown().alone.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A connection that ends when its peer's certificate is revoked: held by all that keeps the connection open.
pub(crate) struct Registered {
    quinn: quinn::Connection,
    peer: PeerIdentity,
    number: u64,
    membership: Weak<Inner>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(membership) = self.membership.upgrade() {
            let mut trust = membership.trust.lock().unwrap_or_else(PoisonError::into_inner);
            trust.connections.remove(&self.number);
        }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registered({})", self.peer)
    }
}
