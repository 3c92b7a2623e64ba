//! Datagrams that belong to no connection of ours and begin none. quinn drops them unseen; here they are said.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use quinn_proto::HashedConnectionIdGenerator;

/// The one version of QUIC that members speak: RFC 9000.
const VERSION: [u8; 4] = [0, 0, 0, 1];
/// The longest connection id of that version.
const MAX_CONNECTION_ID: u8 = 20;
/// At most one line of the log in this time, whoever sends however much.
const QUIET: Duration = Duration::from_secs(10);

/// Peers that are remembered.
const PEERS: usize = 256;
/// The shortest stateless reset: RFC 9000, 10.3.
const SHORTEST_RESET: usize = 21;

/// Tells strays by their form and by the connection ids that this endpoint gave out.
pub(crate) struct Strays {
    /// Of addresses from which datagrams of connections have come, each in its place; a later one may take it.
    peers: [AtomicU64; PEERS],
    hasher: RandomState,
    /// Of the ids that this endpoint gives out.
    key: u64,
    ids: HashedConnectionIdGenerator,
    count: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    last: Option<Instant>,
    count: u64,
}

impl Strays {
    pub(crate) fn new() -> Strays {
        let key = RandomState::new().hash_one(0);
        Strays {
            key,
            ids: HashedConnectionIdGenerator::from_key(key),
            peers: [const { AtomicU64::new(0) }; PEERS],
            hasher: RandomState::new(),
            count: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// Lets an endpoint give out connection ids that are known here.
    pub(crate) fn mark_ids(&self, endpoint: &mut EndpointConfig) {
        let key = self.key;
        endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
    }

    /// How many came.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Counts `datagram` if it is a stray, and says so in the log. What has the form of a handshake is none: of that the
    /// handshake speaks.
    pub(crate) fn look(&self, datagram: &[u8], from: SocketAddr) {
        let hash = self.hasher.hash_one(from);
        let place = &self.peers[hash as usize % PEERS];
        if !self.is_stray(datagram) {
            // Whoever begins a connection may be anybody; whoever goes on with one is a peer.
            let goes_on = datagram[0] & 0x80 == 0;
            if goes_on && place.load(Relaxed) != hash {
                place.store(hash, Relaxed);
            }
        } else if place.load(Relaxed) == hash && may_be_reset(datagram) {
            // A peer that knows no more of a connection says so, in a form that only quinn can tell from a stray.
        } else {
            let count = self.count.fetch_add(1, Relaxed) + 1;
            self.tell(count, datagram.len(), from);
        }
    }

    /// First bytes as in RFC 9000, 17.2 and 17.3.
    fn is_stray(&self, datagram: &[u8]) -> bool {
        match datagram {
            [first, rest @ ..] if first & 0x80 != 0 => {
                !(rest.starts_with(&VERSION) && rest.get(4).is_some_and(|len| *len <= MAX_CONNECTION_ID))
            }
            [_, rest @ ..] => rest
                .get(..self.ids.cid_len())
                .is_none_or(|id| self.ids.validate(&ConnectionId::new(id)).is_err()),
            [] => true,
        }
    }

    #[cold]
    fn tell(&self, count: u64, bytes: usize, peer: SocketAddr) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.last.is_some_and(|last| now < last + QUIET) {
            return;
        }
        let since = count - told.count;
        *told = Told { last: Some(now), count };
        tracing::warn!(%peer, bytes, "datagram refused: it is of no connection; {since} such since the last of these lines");
    }
}

fn may_be_reset(datagram: &[u8]) -> bool {
    datagram.len() >= SHORTEST_RESET && datagram[0] & 0xc0 == 0x40
}

impl fmt::Debug for Strays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Strays({})", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_known_by_its_form_and_by_the_ids_that_were_given_out() {
        let strays = Strays::new();
        let id = |key| HashedConnectionIdGenerator::from_key(key).generate_cid().to_vec();
        let short = |id: &[u8]| [&[0x41], id, &[7; 30]].concat();
        assert!(!strays.is_stray(&short(&id(strays.key))));
        assert!(strays.is_stray(&short(&id(strays.key ^ 1))));
        assert!(strays.is_stray(&short(&[])[..8]), "too short for an id");
        assert!(strays.is_stray(&[]));
        let long = |version: u8, len: u8| [&[0xc3, 0, 0, 0, version, len][..], &[7; 30]].concat();
        assert!(!strays.is_stray(&long(1, 8)));
        assert!(strays.is_stray(&long(2, 8)), "another version");
        assert!(strays.is_stray(&long(1, 21)), "an id longer than any");
        assert!(strays.is_stray(b"GET / HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn a_reset_by_somebody_who_was_a_peer_is_none() {
        let strays = Strays::new();
        let (peer, stranger) = ("10.0.0.1:7400".parse().unwrap(), "10.0.0.2:7400".parse().unwrap());
        let own = HashedConnectionIdGenerator::from_key(strays.key).generate_cid().to_vec();
        let of_a_connection = [&[0x41][..], &own, &[7; 30]].concat();
        let reset = [&[0x41][..], &[9; 40]].concat();
        let counted = |datagram: &[u8], from| {
            let before = strays.count();
            strays.look(datagram, from);
            strays.count() - before
        };
        assert_eq!(counted(&reset, peer), 1, "before it was one");
        assert_eq!(counted(&of_a_connection, peer), 0);
        assert_eq!(counted(&reset, peer), 0);
        assert_eq!(counted(&reset[..20], peer), 1, "too short for a reset");
        assert_eq!(counted(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", stranger), 1);
        assert_eq!(counted(&reset, stranger), 1);
    }
}
