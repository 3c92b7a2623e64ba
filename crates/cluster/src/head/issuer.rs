//! What the head signs, and what it remembers of that.
//!
//! Certificates of agents are written down before they are handed out. Those of workers, which live no longer than their
//! processes, and of clients are remembered by this head alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lyceum_wire::{Authority, Credentials, Membership, PeerIdentity, PeerRole};

use crate::control::papers::{CertificateState, CertificateStatus, Certificates};
use crate::control::vocabulary::CLIENT_NODE;
use crate::control::{Head, MAX_SHOWN};
use crate::error::ClusterError;

/// Certificates of workers and clients that are remembered.
const MAX_KNOWN: usize = 16_384;

pub(super) struct Issuer {
    authority: Arc<Authority>,
    lifetime: Duration,
    /// Of workers and clients, by incarnation.
    known: BTreeMap<u64, CertificateStatus>,
    /// That of command lines.
    desk: Option<CertificateStatus>,
}

impl Issuer {
    pub(super) fn new(authority: Arc<Authority>, lifetime: Duration) -> Issuer {
        Issuer { authority, lifetime, known: BTreeMap::new(), desk: None }
    }

    /// Credentials with a key that is made here.
    pub(super) fn issue(
        &mut self,
        role: PeerRole,
        node: &str,
        number: u64,
    ) -> Result<(Credentials, CertificateState), ClusterError> {
        let identity = PeerIdentity::new(self.authority.cluster(), role, node, number)?;
        let credentials = self.authority.issue(&identity, self.lifetime)?;
        let state = state_of(&credentials);
        self.note(role, &state);
        Ok((credentials, state))
    }

    /// A certificate, with the authority's, for a key that its holder has made.
    pub(super) fn certify(
        &mut self,
        role: PeerRole,
        node: &str,
        number: u64,
        public_key: &[u8],
    ) -> Result<(Vec<u8>, CertificateState), ClusterError> {
        let identity = PeerIdentity::new(self.authority.cluster(), role, node, number)?;
        let signed = self.authority.certify(&identity, public_key, self.lifetime)?;
        let state = CertificateState {
            node: node.to_owned(),
            incarnation: number,
            fingerprint: signed.fingerprint.0,
            from: seconds(signed.validity.0),
            until: seconds(signed.validity.1),
        };
        self.note(role, &state);
        Ok((signed.chain, state))
    }

    /// New credentials of the head itself, which it shows from now on, and of command lines.
    pub(super) fn renew_own(&mut self, membership: &Membership) -> Result<Credentials, ClusterError> {
        let term = membership.identity().incarnation();
        let own = self.authority.issue(membership.identity(), self.lifetime)?;
        let client = PeerIdentity::new(self.authority.cluster(), PeerRole::Client, CLIENT_NODE, term)?;
        let client = self.authority.issue(&client, self.lifetime)?;
        membership.renew(own)?;
        self.desk = Some(status_of(PeerRole::Client, state_of(&client)));
        Ok(client)
    }

    fn note(&mut self, role: PeerRole, state: &CertificateState) {
        if matches!(role, PeerRole::Worker | PeerRole::Client) {
            self.known.insert(state.incarnation, status_of(role, state.clone()));
            if self.known.len() > MAX_KNOWN {
                self.known.pop_first();
            }
        }
    }

    /// What the head has written down of certificates, with what else is known of them.
    pub(super) fn complete(
        &mut self,
        found: Certificates,
        membership: &Membership,
        head: &Head,
    ) -> Certificates {
        self.known.retain(|number, _| head.alive(*number));
        let own = status_of(PeerRole::Head, state_of(&membership.credentials()));
        let others = self.desk.clone().into_iter().chain(self.known.values().cloned());
        let marked = others.map(|status| CertificateStatus {
            revoked: head.is_barred(&status.node, status.incarnation),
            ..status
        });
        let mut issued: Vec<CertificateStatus> =
            std::iter::once(own).chain(found.issued).chain(marked).collect();
        let omitted = found.omitted + issued.len().saturating_sub(MAX_SHOWN) as u64;
        issued.truncate(MAX_SHOWN);
        Certificates { authority: self.authority.certificate().to_owned(), issued, omitted, ..found }
    }
}

fn state_of(credentials: &Credentials) -> CertificateState {
    let (from, until) = credentials.validity();
    CertificateState {
        node: credentials.identity().node().to_owned(),
        incarnation: credentials.identity().incarnation(),
        fingerprint: credentials.fingerprint().0,
        from: seconds(from),
        until: seconds(until),
    }
}

fn status_of(role: PeerRole, state: CertificateState) -> CertificateStatus {
    let CertificateState { node, incarnation, fingerprint, from, until } = state;
    CertificateStatus { role: role.to_string(), node, incarnation, fingerprint, from, until, revoked: false }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
