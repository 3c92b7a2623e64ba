//! Who a process is: the one URI that its certificate carries.

use std::fmt;
use std::str::FromStr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Result, WireError};

const SCHEME: &str = "lyceum://";
const MAX_NAME: usize = 63;

/// What a process may do in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerRole {
    /// The control plane; holds the authority's key.
    Head,
    /// One per node: starts workers, owns the node's store.
    Agent,
    /// Runs actors.
    Worker,
    /// A person's command line.
    Client,
}

impl PeerRole {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Head, Self::Agent, Self::Worker, Self::Client];

    /// The name in certificates and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Agent => "agent",
            Self::Worker => "worker",
            Self::Client => "client",
        }
    }

    /// What stands before the role in a sentence.
    pub(crate) fn article(self) -> &'static str {
        if self == Self::Agent { "an" } else { "a" }
    }
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PeerRole {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| WireError::Identity {
            what: "role",
            value: text.into(),
            expected: "one of head, agent, worker, client",
        })
    }
}

/// Who a process is. Written `lyceum://cluster/role/node/incarnation`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIdentity {
    cluster: String,
    role: PeerRole,
    node: String,
    incarnation: u64,
}

impl PeerIdentity {
    /// An identity; `incarnation` is unique per process start in the cluster.
    ///
    /// # Errors
    /// [`WireError::Identity`] when a name is not 1 to 63 letters, digits, `.`, `_` or `-`, beginning with a letter or
    /// digit.
    pub fn new(
        cluster: impl Into<String>,
        role: PeerRole,
        node: impl Into<String>,
        incarnation: u64,
    ) -> Result<Self> {
        Ok(Self {
            cluster: checked_name("cluster", cluster.into())?,
            role,
            node: checked_name("node", node.into())?,
            incarnation,
        })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// What the process may do.
    pub fn role(&self) -> PeerRole {
        self.role
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its number among all process starts of the cluster.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Reads the identity that a certificate carries. Says nothing about who signed it.
    pub(crate) fn from_certificate(der: &[u8]) -> Result<Self> {
        let bad = |reason: &str| WireError::Certificate(reason.to_owned());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| bad("not an X.509 certificate"))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| bad("its alternative names cannot be read"))?
            .ok_or_else(|| bad("it carries no lyceum identity"))?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => uri.parse(),
            (None, _) => Err(bad("it carries no lyceum identity")),
            (Some(_), Some(_)) => Err(bad("it carries more than one lyceum identity")),
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}/{}", self.cluster, self.role, self.node, self.incarnation)
    }
}

impl FromStr for PeerIdentity {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || WireError::Identity {
            what: "identity",
            value: text.chars().take(200).collect(),
            expected: "lyceum://cluster/role/node/incarnation",
        };
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(bad)?.split('/');
        let (Some(cluster), Some(role), Some(node), Some(incarnation), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let number = incarnation.parse().map_err(|_| bad())?;
        let identity = Self::new(cluster, role.parse()?, node, number)?;
        // One spelling only: no leading zeros, no plus sign.
        if identity.to_string() == text { Ok(identity) } else { Err(bad()) }
    }
}

pub(crate) fn checked_name(what: &'static str, name: String) -> Result<String> {
    let usable = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if usable {
        return Ok(name);
    }
    let value = name.chars().take(2 * MAX_NAME).collect();
    Err(WireError::Identity {
        what,
        value,
        expected: "1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_identity_reads_back_as_it_was_written(
            cluster in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}", node in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}",
            role in 0usize..4, incarnation: u64,
        ) {
            let identity = PeerIdentity::new(cluster, PeerRole::ALL[role], node, incarnation).unwrap();
            prop_assert_eq!(identity.to_string().parse::<PeerIdentity>().unwrap(), identity);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = text.parse::<PeerIdentity>();
            let _ = format!("{SCHEME}{text}").parse::<PeerIdentity>();
        }
    }

    #[test]
    fn names_that_would_change_the_uri_are_refused() {
        for name in ["", "a/b", "-a", "a b", "ä", "a%20", &"x".repeat(64)] {
            assert!(PeerIdentity::new(name, PeerRole::Head, "n", 1).is_err(), "cluster {name:?}");
            assert!(PeerIdentity::new("c", PeerRole::Head, name, 1).is_err(), "node {name:?}");
        }
    }

    #[test]
    fn an_identity_has_one_spelling() {
        for text in
            ["lyceum://c/head/n/01", "lyceum://c/head/n/+1", "lyceum://c/Head/n/1", "lyceum://c/head/n/1/"]
        {
            assert!(text.parse::<PeerIdentity>().is_err(), "{text}");
        }
    }
}
