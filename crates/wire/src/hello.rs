//! The first words on a connection, in a form that every version of this crate can read.

use crate::{PeerIdentity, Result, WireError};

/// Version of the hello, the frames and the bulk headers. Peers of another version are refused.
pub const PROTOCOL_VERSION: u16 = 2;

/// How archives are laid out in memory here; peers with another layout are refused.
pub const RKYV_FORMAT: u64 = fnv1a(b"rkyv 0.8, little endian, aligned, 32-bit pointers");

const MAGIC: [u8; 4] = *b"LYCM";
/// magic 4, version 2, purpose 1, zero 1, rkyv format 8, number of roles 2.
const FIXED: usize = 18;
pub(crate) const MAX_HELLO: usize = 64 * 1024;
const MAX_ROLES: usize = 1024;

/// What a connection is for; told by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Frames, and whatever must not wait behind bulk.
    Lane,
    /// Bulk streams.
    Bulk,
}

/// A role that a process hosts, and the fingerprint of the messages it knows for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFingerprint {
    /// The role's name, at most 255 bytes.
    pub role: String,
    /// Changes whenever a message of the role changes.
    pub fingerprint: u64,
}

/// What a peer said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for. A callee repeats what the caller said.
    pub purpose: Purpose,
    /// What the process hosts.
    pub roles: Vec<RoleFingerprint>,
}

impl Hello {
    /// The fingerprint of `role`, if the process hosts it.
    pub fn fingerprint(&self, role: &str) -> Option<u64> {
        self.roles.iter().find(|hosted| hosted.role == role).map(|hosted| hosted.fingerprint)
    }

    /// The bytes on the wire, without their length.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let refuse = |reason: String| WireError::Option { option: "roles", reason };
        if self.roles.len() > MAX_ROLES {
            return Err(refuse(format!("{} roles, at most {MAX_ROLES} fit in a hello", self.roles.len())));
        }
        let mut bytes = Vec::with_capacity(FIXED + 32 * self.roles.len());
        bytes.extend(MAGIC);
        bytes.extend(PROTOCOL_VERSION.to_le_bytes());
        bytes.extend([self.purpose as u8, 0]);
        bytes.extend(RKYV_FORMAT.to_le_bytes());
        bytes.extend((self.roles.len() as u16).to_le_bytes());
        for RoleFingerprint { role, fingerprint } in &self.roles {
            let len = u8::try_from(role.len()).map_err(|_| refuse(format!("`{role}` is above 255 bytes")))?;
            bytes.push(len);
            bytes.extend(role.as_bytes());
            bytes.extend(fingerprint.to_le_bytes());
        }
        if bytes.len() > MAX_HELLO {
            return Err(refuse(format!("a hello of {} bytes, above {MAX_HELLO}", bytes.len())));
        }
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let bad = HelloError::Malformed;
        let mut rest = bytes;
        if take::<4>(&mut rest) != Some(MAGIC) {
            return Err(bad("it does not begin as lyceum's does".into()));
        }
        let short = || bad(format!("it ends after {} bytes", bytes.len()));
        let version = u16::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        if version != PROTOCOL_VERSION {
            return Err(HelloError::Version(version));
        }
        let purpose = match take(&mut rest).ok_or_else(short)? {
            [0, 0] => Purpose::Lane,
            [1, 0] => Purpose::Bulk,
            [other, _] => return Err(bad(format!("unknown purpose {other}"))),
        };
        let format = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        if format != RKYV_FORMAT {
            return Err(HelloError::Format(format));
        }
        let count = usize::from(u16::from_le_bytes(take(&mut rest).ok_or_else(short)?));
        if count > MAX_ROLES {
            return Err(bad(format!("{count} roles, at most {MAX_ROLES} are read")));
        }
        let mut roles = Vec::with_capacity(count);
        for _ in 0..count {
            let [len] = take(&mut rest).ok_or_else(short)?;
            let (name, tail) = rest.split_at_checked(usize::from(len)).ok_or_else(short)?;
            rest = tail;
            let role = std::str::from_utf8(name).map_err(|_| bad("a role's name is not UTF-8".into()))?;
            let fingerprint = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
            roles.push(RoleFingerprint { role: role.to_owned(), fingerprint });
        }
        if rest.is_empty() {
            Ok(Self { purpose, roles })
        } else {
            Err(bad(format!("{} bytes too many", rest.len())))
        }
    }
}

/// Why bytes are no hello of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HelloError {
    /// Of another protocol version.
    Version(u16),
    /// With another layout of archives.
    Format(u64),
    /// Not a hello, or not a whole one.
    Malformed(String),
}

impl HelloError {
    /// In words for both ends, when `peer` said it to `own`.
    pub(crate) fn between(self, peer: &PeerIdentity, own: &PeerIdentity) -> WireError {
        let name = |who: &PeerIdentity| format!("{} {} ({})", who.role(), who.node(), who.incarnation());
        let differ = |what: &str, theirs: String, ours: String| {
            let (peer, own) = (name(peer), name(own));
            format!("{peer} has {what} {theirs}, {own} has {ours}: let both be programs of the same version")
        };
        WireError::Hello(match self {
            Self::Version(theirs) => {
                differ("protocol version", theirs.to_string(), PROTOCOL_VERSION.to_string())
            }
            Self::Format(theirs) => {
                differ("archive format", format!("{theirs:016x}"), format!("{RKYV_FORMAT:016x}"))
            }
            Self::Malformed(reason) => reason,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// FNV-1a, 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(roles: Vec<(String, u64)>, bulk: bool) -> Hello {
        let roles =
            roles.into_iter().map(|(role, fingerprint)| RoleFingerprint { role, fingerprint }).collect();
        Hello { purpose: if bulk { Purpose::Bulk } else { Purpose::Lane }, roles }
    }

    proptest! {
        #[test]
        fn a_hello_reads_back_as_it_was_written(
            roles in prop::collection::vec(("[a-z ä]{0,20}", any::<u64>()), 0..20), bulk: bool,
        ) {
            let hello = hello(roles, bulk);
            prop_assert_eq!(Hello::decode(&hello.encode().unwrap()).unwrap(), hello);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100), at: prop::sample::Index, cut: prop::sample::Index,
        ) {
            let _ = Hello::decode(&bytes);
            let mut sound = hello(vec![("a role".into(), 1), ("b".into(), 2)], false).encode().unwrap();
            let at = at.index(sound.len());
            sound[at] ^= bytes.first().copied().unwrap_or(1);
            let _ = Hello::decode(&sound[..cut.index(sound.len())]);
            let _ = Hello::decode(&sound);
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = hello(vec![], false).encode().unwrap();
        bytes[4] = 9;
        let peer = PeerIdentity::new("school", crate::PeerRole::Agent, "n1", 7).unwrap();
        let own = PeerIdentity::new("school", crate::PeerRole::Head, "n0", 1).unwrap();
        let error = Hello::decode(&bytes).unwrap_err().between(&peer, &own).to_string();
        let expected =
            format!("agent n1 (7) has protocol version 9, head n0 (1) has {PROTOCOL_VERSION}: let both");
        assert!(error.contains(&expected), "{error}");
    }
}
