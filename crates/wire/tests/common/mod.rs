//! What the wire's tests share: a small cluster, over a clean or a bad network.

#![allow(dead_code, reason = "each test program uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lyceum_wire::testing::{Faults, LossySocket};
use lyceum_wire::*;

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn identity(role: PeerRole, node: &str, incarnation: u64) -> PeerIdentity {
    PeerIdentity::new("school", role, node, incarnation).unwrap()
}

/// An endpoint that lets in agents and workers.
pub fn endpoint(authority: &Authority, role: PeerRole, node: &str, incarnation: u64) -> Endpoint {
    Endpoint::bind(credentials(authority, role, node, incarnation), admitting()).unwrap()
}

pub fn credentials(authority: &Authority, role: PeerRole, node: &str, incarnation: u64) -> Credentials {
    authority.issue(&identity(role, node, incarnation), HOUR).unwrap()
}

pub fn admitting() -> EndpointOptions {
    let mut options = EndpointOptions::new(loopback());
    options.admission = Admission::roles([PeerRole::Agent, PeerRole::Worker]);
    options
}

/// Two connected peers. The endpoints live as long as this.
pub struct Pair {
    pub server: Endpoint,
    pub client: Endpoint,
    pub called: Connection,
    pub calling: Connection,
}

/// A head and an agent on a clean network.
pub async fn pair() -> Pair {
    pair_with(admitting(), None).await.0
}

/// A head and an agent; with faults, both of their sockets have them.
pub async fn pair_with(options: EndpointOptions, faults: Option<Faults>) -> (Pair, Vec<Arc<LossySocket>>) {
    let authority = Authority::create("school").unwrap();
    let mut sockets = vec![];
    let mut bind = |role, number, shift| {
        let credentials = credentials(&authority, role, "n0", number);
        let Some(faults) = faults else { return Endpoint::bind(credentials, options.clone()).unwrap() };
        let faults = Faults { seed: faults.seed ^ shift, ..faults };
        let socket = LossySocket::bind(loopback(), faults).unwrap();
        sockets.push(Arc::clone(&socket));
        Endpoint::bind_with_socket(credentials, options.clone(), socket).unwrap()
    };
    let (server, client) = (bind(PeerRole::Head, 1, 0), bind(PeerRole::Agent, 2, 0x5eed));
    let expect = Expect::exactly(server.identity());
    let (called, calling) = tokio::join!(server.accept(), client.connect(server.local_addr(), &expect));
    (Pair { called: called.unwrap(), calling: calling.unwrap(), server, client }, sockets)
}

pub fn frame(number: u64, payload: &[u8]) -> Frame {
    let header = FrameHeader { kind: 1, job: 2, trace: number, incarnation: 3 };
    Frame {
        header,
        extension: number.to_le_bytes().to_vec().into(),
        payload: AlignedBytes::copy_from(payload),
    }
}
