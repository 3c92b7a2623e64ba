//! Nodes that reach each other over QUIC, in this process or in one that can be killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lyceum_store::{NodeStore, PeerFuture, StoreClient, StoreOptions, StorePeers, socket_pair};
use lyceum_wire::{
    Admission, Authority, Connection, Credentials, Endpoint, EndpointOptions, Expect, PeerIdentity, PeerRole,
    Purpose,
};

use crate::process::{Process, say};
use crate::{MIB, options};

pub const CAPACITY: usize = 96 * MIB;

/// A cluster's certificates and addresses.
pub struct Cluster {
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster { authority: Authority::create("school").unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn credentials(&self, node: &str, incarnation: u64) -> Credentials {
        let identity = PeerIdentity::new("school", PeerRole::Agent, node, incarnation).unwrap();
        self.authority.issue(&identity, Duration::from_secs(3600)).unwrap()
    }

    /// A node in this process. Within a runtime.
    pub fn node(&self, name: &str, incarnation: u64) -> Node {
        self.node_with(options(name, incarnation, CAPACITY))
    }

    /// As [`node`](Self::node), with a store of those options.
    pub fn node_with(&self, options: StoreOptions) -> Node {
        let credentials = self.credentials(&options.node, options.incarnation);
        Node::start(options, credentials)
    }

    /// Nodes `n1`, `n2` and so on, that know each other.
    pub fn nodes<const N: usize>(&self) -> [Node; N] {
        let nodes = std::array::from_fn(|i| self.node(&format!("n{}", i + 1), i as u64 + 1));
        for node in &nodes {
            nodes.iter().for_each(|other: &Node| node.knows(&other.name, other.address()));
        }
        nodes
    }

    /// A stranger's connection to `node`, with a node's certificate.
    pub async fn stranger(&self, name: &str, node: &Node) -> (Endpoint, Connection) {
        let endpoint_options = EndpointOptions::new("127.0.0.1:0".parse().unwrap());
        let endpoint = Endpoint::bind(self.credentials(name, 99), endpoint_options).unwrap();
        let expect = Expect::role(PeerRole::Agent);
        let connection = endpoint.connect_for(node.address(), &expect, Purpose::Bulk).await.unwrap();
        (endpoint, connection)
    }

    /// A node in a process of its own that knows `peer` and performs `script` with a client of its own store. It and
    /// `peer` know each other when this returns.
    pub fn process(&self, name: &str, incarnation: u64, peer: &Node, script: &[&str]) -> Process {
        let (_unused, socket) = socket_pair().unwrap();
        self.process_with(name, incarnation, peer, script, socket)
    }

    /// As [`process`](Self::process), serving the agent's end `socket` of a pair too.
    pub fn process_with(
        &self,
        name: &str,
        incarnation: u64,
        peer: &Node,
        script: &[&str],
        socket: OwnedFd,
    ) -> Process {
        let dir = self.dir.path().join(format!("{name}-{incarnation}"));
        self.credentials(name, incarnation).save(&dir).unwrap();
        let agent = format!("{name}\n{incarnation}\n{}\n{}\n{}", dir.display(), peer.name, peer.address());
        let mut process = Process::agent(socket, script, &agent);
        peer.knows(name, process.says().parse().unwrap());
        process
    }
}

/// A node: its store, its endpoint, and what it serves.
pub struct Node {
    pub name: String,
    pub store: NodeStore,
    endpoint: Endpoint,
    peers: Arc<Peers>,
    serving: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start(options: StoreOptions, credentials: Credentials) -> Node {
        let mut endpoint_options = EndpointOptions::new("127.0.0.1:0".parse().unwrap());
        endpoint_options.admission = Admission::roles([PeerRole::Agent]);
        endpoint_options.transport.idle_timeout = Duration::from_secs(2);
        endpoint_options.transport.keep_alive = Duration::from_millis(500);
        let endpoint = Endpoint::bind(credentials, endpoint_options).unwrap();
        let name = options.node.clone();
        let store = NodeStore::new(options).unwrap();
        let peers = Arc::new(Peers { endpoint: endpoint.clone(), known: Mutex::default() });
        store.set_peers(peers.clone()).unwrap();
        let serving = tokio::spawn(serve(endpoint.clone(), store.clone()));
        Node { name, store, endpoint, peers, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    pub fn knows(&self, node: &str, address: SocketAddr) {
        self.peers.known.lock().unwrap().insert(node.into(), (address, BTreeMap::new()));
    }

    /// How many connections lead from here to `node`.
    pub fn lines_to(&self, node: &str) -> usize {
        self.peers.known.lock().unwrap().get(node).map_or(0, |(_, lines)| lines.len())
    }

    /// A client of this node's store in this process.
    pub fn client(&self, holder: u64) -> StoreClient {
        crate::client(&self.store, holder)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(endpoint: Endpoint, store: NodeStore) {
    while let Some(connection) = endpoint.accept().await {
        let store = store.clone();
        tokio::spawn(async move {
            while let Ok((header, sender, receiver)) = connection.accept_bulk().await {
                assert!(NodeStore::is_store_stream(&header));
                let (store, peer) = (store.clone(), connection.peer().node().to_owned());
                tokio::spawn(async move { store.serve_bulk(&peer, header, sender, receiver).await });
            }
        });
    }
}

struct Peers {
    endpoint: Endpoint,
    known: Mutex<BTreeMap<String, (SocketAddr, Lines)>>,
}

/// The connections to one node.
type Lines = BTreeMap<usize, Connection>;

impl StorePeers for Peers {
    fn connect(&self, node: &str, line: usize) -> PeerFuture<'_> {
        let node = node.to_owned();
        Box::pin(async move {
            let known = self.known.lock().unwrap().get(&node).cloned();
            let (address, kept) = known.ok_or_else(|| format!("there is no node {node}"))?;
            if let Some(connection) = kept.get(&line).filter(|kept| kept.close_reason().is_none()) {
                return Ok(connection.clone());
            }
            let connection =
                self.endpoint.connect_for(address, &Expect::role(PeerRole::Agent), Purpose::Bulk).await?;
            if let Some((_, lines)) = self.known.lock().unwrap().get_mut(&node) {
                lines.insert(line, connection.clone());
            }
            Ok(connection)
        })
    }
}

/// The agent's part of a script's process: says its address, returns a client of its store. `socket` is attached too,
/// as process 99.
pub fn perform(agent: &str, socket: OwnedFd) -> (StoreClient, Node) {
    let [name, incarnation, dir, peer, address] = agent.lines().collect::<Vec<_>>()[..] else {
        panic!("{agent}")
    };
    let options = options(name, incarnation.parse().unwrap(), CAPACITY);
    let node = Node::start(options, Credentials::load(Path::new(dir)).unwrap());
    node.knows(peer, address.parse().unwrap());
    node.store.attach(99, socket).unwrap();
    say(&node.address().to_string());
    (node.client(98), node)
}
