//! Who takes part in an epoch, and where each rank runs.

use std::{fmt, fs::File, io::Read, net::SocketAddr, ops::Range};

use crate::CollectiveError;

/// What the members of one gang know and nobody else: made by whoever forms it, handed out inside TLS.
///
/// Half of it names the gang's rendezvous on a host, which every process there may see; the other half is shown only
/// to the rendezvous.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Token {
    name: [u8; 16],
    secret: [u8; 16],
}

impl Token {
    /// A token that nobody can guess.
    ///
    /// # Errors
    /// The system's, when it has no randomness to give.
    pub fn random() -> std::io::Result<Self> {
        let mut token = Self { name: [0; 16], secret: [0; 16] };
        let mut source = File::open("/dev/urandom")?;
        source.read_exact(&mut token.name)?;
        source.read_exact(&mut token.secret)?;
        Ok(token)
    }

    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: [u8; 32]) -> Self {
        let [mut name, mut secret] = [[0; 16]; 2];
        name.copy_from_slice(&bytes[..16]);
        secret.copy_from_slice(&bytes[16..]);
        Self { name, secret }
    }

    pub(crate) fn name(&self) -> u128 {
        u128::from_le_bytes(self.name)
    }

    pub(crate) fn secret(&self) -> [u8; 16] {
        self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:032x})", self.name())
    }
}

/// One rank's place.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Member {
    /// The node it runs on, as its certificate says.
    pub node: String,
    /// Its process's incarnation, as its certificate says.
    pub incarnation: u64,
    /// Where its [`Seat`](crate::Seat) listens. Only the first rank of each node needs one, and only when there are
    /// several nodes.
    pub addr: Option<SocketAddr>,
    /// The CUDA device it computes on, if it does: the ordinal within its process.
    pub device: Option<u32>,
    /// The interface of its node that is trusted with what NCCL does not encrypt, if the manifest names one.
    pub trusted_interface: Option<String>,
}

/// A fixed membership: what every member must know, and the same for all.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Gang {
    /// The membership's number; a later one has a higher number.
    pub epoch: u64,
    /// The members by rank. Those of one node follow one another.
    pub members: Vec<Member>,
    /// What lets them find and believe one another.
    pub token: Token,
}

/// The ranks of a gang, grouped by node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Each node's ranks, in rank order.
    pub(crate) groups: Vec<Range<usize>>,
}

impl Topology {
    /// # Errors
    /// [`CollectiveError::Unavailable`] when the gang cannot be formed as it is written.
    pub(crate) fn of(gang: &Gang, rank: usize) -> Result<Self, CollectiveError> {
        let refuse =
            |reason| Err(CollectiveError::Unavailable { rank, what: "form its gang".into(), reason });
        if rank >= gang.members.len() {
            return refuse(format!("the gang has ranks 0 to {}", gang.members.len().saturating_sub(1)));
        }
        let mut groups: Vec<Range<usize>> = Vec::new();
        for (rank, member) in gang.members.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if gang.members[group.start].node == member.node => group.end = rank + 1,
                _ => groups.push(rank..rank + 1),
            }
        }
        for (index, group) in groups.iter().enumerate() {
            let first = &gang.members[group.start];
            if groups[..index].iter().any(|earlier| gang.members[earlier.start].node == first.node) {
                let node = &first.node;
                return refuse(format!(
                    "the ranks of node {node} do not follow one another: order the gang by node"
                ));
            }
            if groups.len() > 1 && first.addr.is_none() {
                let (node, rank) = (&first.node, group.start);
                return refuse(format!(
                    "rank {rank}, the first of node {node}, has no address for the other nodes"
                ));
            }
        }
        Ok(Self { groups })
    }

    /// The group of `rank`.
    pub(crate) fn group_of(&self, rank: usize) -> usize {
        self.groups.iter().position(|group| group.contains(&rank)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gang(nodes: &[&str]) -> Gang {
        let members = nodes.iter().enumerate().map(|(rank, node)| Member {
            node: (*node).into(),
            incarnation: rank as u64,
            addr: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            device: None,
            trusted_interface: None,
        });
        Gang { epoch: 1, members: members.collect(), token: Token::random().unwrap() }
    }

    #[test]
    fn ranks_are_grouped_by_node() {
        let topology = Topology::of(&gang(&["a", "a", "b", "c", "c"]), 0).unwrap();
        assert_eq!(topology.groups, [0..2, 2..3, 3..5]);
        assert_eq!(topology.group_of(4), 2);
    }

    #[test]
    fn a_gang_that_cannot_be_is_refused_with_the_reason() {
        let reason = |gang: &Gang, rank| Topology::of(gang, rank).unwrap_err().to_string();
        assert!(reason(&gang(&["a", "b", "a"]), 0).contains("order the gang by node"));
        assert!(reason(&gang(&["a"]), 1).contains("ranks 0 to 0"));
        let mut homeless = gang(&["a", "b", "b"]);
        homeless.members[1].addr = None;
        assert!(reason(&homeless, 0).contains("rank 1, the first of node b, has no address"));
    }
}
