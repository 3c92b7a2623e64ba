//! The join token: all that a host needs to become a node, in one word that a person can copy.
//!
//! It names the cluster, where its head is, and the cluster's authority by its SHA-256, so that a host speaks to nobody
//! else; and a number with a secret, which lets one node in, once. The head keeps a hash of the secret.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lyceum_wire::Fingerprint;

use crate::manifest::{check_name, is_name};

const PREFIX: &str = "lyceum1.";
/// Places of the head that a token may name.
const MAX_HEADS: usize = 16;
/// Far above that of any token, in characters.
const MAX_TEXT: usize = 2048;

/// Lets one node in, once. Written as one word; whoever reads that may use it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: String,
    /// The node that it lets in.
    pub node: String,
    /// Where the head is, or may be.
    pub heads: Vec<SocketAddr>,
    /// SHA-256 of the authority's certificate.
    pub authority: Fingerprint,
    /// Its number.
    pub id: u64,
    pub(crate) secret: [u8; 32],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({:016x}, for node {} of cluster {})", self.id, self.node, self.cluster)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        for name in [&self.cluster, &self.node] {
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
        }
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.secret);
        bytes.extend(self.authority.0);
        bytes.push(self.heads.len() as u8);
        for head in &self.heads {
            match head.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(head.port().to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<JoinToken, String> {
        let damaged = || "this is no whole token of `lyceum token create`: copy all of it".to_owned();
        let body = text.trim().strip_prefix(PREFIX).filter(|body| body.len() <= MAX_TEXT).ok_or_else(|| {
            format!("expected a token, which begins with `{PREFIX}`: `lyceum token create --node NAME` makes one")
        })?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| damaged())?;
        let (mut rest, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if crc32fast::hash(rest).to_le_bytes() != *sum {
            return Err(damaged());
        }
        let rest = &mut rest;
        let (cluster, node) = (name(rest).ok_or_else(damaged)?, name(rest).ok_or_else(damaged)?);
        check_name("cluster name", &cluster)?;
        check_name("node name", &node)?;
        let id = u64::from_le_bytes(take(rest).ok_or_else(damaged)?);
        let secret = take(rest).ok_or_else(damaged)?;
        let authority = Fingerprint(take(rest).ok_or_else(damaged)?);
        let [count] = take(rest).ok_or_else(damaged)?;
        let count = usize::from(count);
        if !(1..=MAX_HEADS).contains(&count) {
            return Err(damaged());
        }
        let heads: Option<Vec<SocketAddr>> = (0..count).map(|_| address(rest)).collect();
        let heads = heads.filter(|_| rest.is_empty()).ok_or_else(damaged)?;
        Ok(JoinToken { cluster, node, heads, authority, id, secret })
    }
}

fn name(rest: &mut &[u8]) -> Option<String> {
    let [length] = take(rest)?;
    let (name, tail) = rest.split_at_checked(usize::from(length))?;
    *rest = tail;
    String::from_utf8(name.to_vec()).ok().filter(|name| is_name(name))
}

fn address(rest: &mut &[u8]) -> Option<SocketAddr> {
    let ip = match take(rest)? {
        [4] => IpAddr::from(take::<4>(rest)?),
        [6] => IpAddr::from(take::<16>(rest)?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_le_bytes(take(rest)?)))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn token() -> JoinToken {
        JoinToken {
            cluster: "school".into(),
            node: "b".into(),
            heads: vec!["10.1.2.3:7400".parse().unwrap(), "[2001:db8::1]:7401".parse().unwrap()],
            authority: Fingerprint([7; 32]),
            id: 0x1234,
            secret: [9; 32],
        }
    }

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        let text = token().to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{text}");
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token());
    }

    #[test]
    fn a_token_that_is_cut_or_changed_is_refused_and_its_secret_is_in_no_log() {
        let text = token().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<JoinToken>().is_err(), "cut at {at}");
            let mut other = text.clone().into_bytes();
            other[at] ^= 1;
            assert!(String::from_utf8(other).unwrap().parse::<JoinToken>().is_err(), "changed at {at}");
        }
        let error = "secret".parse::<JoinToken>().unwrap_err();
        assert!(error.contains("which begins with `lyceum1.`"), "{error}");
        assert_eq!(format!("{:?}", token()), "JoinToken(0000000000001234, for node b of cluster school)");
    }

    #[test]
    fn tokens_are_read_or_refused() {
        let body = |data: &[u8]| {
            let mut bytes = data.to_vec();
            bytes.extend(crc32fast::hash(data).to_le_bytes());
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
            if let Ok(token) = text.parse::<JoinToken>() {
                assert_eq!(token.to_string(), text, "a token has one form");
            }
        };
        let whole = URL_SAFE_NO_PAD.decode(&token().to_string()[PREFIX.len()..]).unwrap();
        lyceum_fuzz::Fuzz::new("cluster token").seeds([&whole[..whole.len() - 4]]).runs(20_000).run(body);
    }
}
