//! Two nodes of a cluster, as far as their stores are concerned: each fetches from the other over QUIC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lyceum_store::{NodeStore, PeerFuture, StoreOptions, StorePeers};
use lyceum_wire::{Admission, Authority, Endpoint, EndpointOptions, Expect, PeerIdentity, PeerRole, Purpose};
use tokio::runtime::{Builder, Runtime};

/// Bytes of each store.
const CAPACITY: u64 = 64 << 20;

/// A node on its own.
pub fn one() -> NodeStore {
    NodeStore::new(StoreOptions::new("n1", 1, CAPACITY)).unwrap()
}

/// Two nodes, and the runtime that their network lives on.
pub fn two() -> (Runtime, NodeStore, NodeStore) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = runtime.enter();
    let authority = Authority::create("school").unwrap();
    let [(first, n1), (second, n2)] = [("n1", 1), ("n2", 2)].map(|(name, incarnation)| {
        let identity = PeerIdentity::new("school", PeerRole::Agent, name, incarnation).unwrap();
        let credentials = authority.issue(&identity, Duration::from_secs(3600)).unwrap();
        let mut options = EndpointOptions::new("127.0.0.1:0".parse().unwrap());
        options.admission = Admission::roles([PeerRole::Agent]);
        let endpoint = Endpoint::bind(credentials, options).unwrap();
        (endpoint, NodeStore::new(StoreOptions::new(name, incarnation, CAPACITY)).unwrap())
    });
    for (endpoint, store, other) in [(&first, &n1, &second), (&second, &n2, &first)] {
        store.set_peers(Arc::new(Other { endpoint: endpoint.clone(), address: other.local_addr() })).unwrap();
        tokio::spawn(serve(endpoint.clone(), store.clone()));
    }
    drop(guard);
    (runtime, n1, n2)
}

async fn serve(endpoint: Endpoint, store: NodeStore) {
    while let Some(connection) = endpoint.accept().await {
        let store = store.clone();
        tokio::spawn(async move {
            while let Ok((header, sender, receiver)) = connection.accept_bulk().await {
                let (store, peer) = (store.clone(), connection.peer().node().to_owned());
                tokio::spawn(async move { store.serve_bulk(&peer, header, sender, receiver).await });
            }
        });
    }
}

/// The way to the other node.
struct Other {
    endpoint: Endpoint,
    address: SocketAddr,
}

impl StorePeers for Other {
    fn connect(&self, _: &str, _: usize) -> PeerFuture<'_> {
        let expected = Expect::role(PeerRole::Agent);
        Box::pin(async move { Ok(self.endpoint.connect_for(self.address, &expected, Purpose::Bulk).await?) })
    }
}
