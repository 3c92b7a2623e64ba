//! From a QUIC connection to a [`Connection`]: identity, admission, hello. Runs before anything of the upper layers.
//!
//! The caller opens the first bidirectional stream and writes its hello; the callee answers with its own on the same
//! stream, which is the lane from then on.

use std::net::SocketAddr;

use quinn::{RecvStream, SendStream};

use crate::congestion;
use crate::hello::MAX_HELLO;
use crate::{
    Admission, CloseCode, CloseReason, Connection, Hello, LaneOptions, Membership, PeerIdentity, Purpose,
    Result, WireError, tls,
};

/// What is said to a caller without a certificate where guests are awaited, who may come another way.
const NO_MEMBER: &str = "the peer showed no certificate: it may ask to join, and nothing else";

/// What this end says and demands.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) membership: Membership,
    pub(crate) admission: Admission,
    pub(crate) roles: Vec<crate::RoleFingerprint>,
    pub(crate) lane: LaneOptions,
}

impl Local {
    fn hello(&self, purpose: Purpose) -> Hello {
        Hello { purpose, roles: self.roles.clone() }
    }
}

/// The caller's side, after TLS.
pub(crate) async fn call(quinn: quinn::Connection, purpose: Purpose, local: &Local) -> Result<Connection> {
    let addr = quinn.remote_address();
    let greet = async {
        let peer = tls::proven_identity(&quinn)?;
        let registered = local.membership.register(&quinn, &peer);
        let registered = registered.map_err(|reason| WireError::Refused { addr, reason })?;
        let (mut sender, mut receiver) = quinn.open_bi().await.map_err(CloseReason::from)?;
        write_hello(&mut sender, &local.hello(purpose)).await?;
        let hello = read_hello(&mut receiver, &peer, local.membership.identity()).await?;
        if hello.purpose != purpose {
            return Err(WireError::Hello("it names another purpose than was asked for".into()));
        }
        Ok(Connection::new(quinn.clone(), registered, peer, hello, (sender, receiver), local.lane.clone()))
    };
    greet.await.map_err(|error| match (error, quinn.close_reason().map(CloseReason::from)) {
        (_, Some(CloseReason::ByPeer { reason, .. })) => WireError::Refused { addr, reason },
        // A certificate that TLS on the other side refuses shows only now: the caller's handshake ends first.
        (_, Some(CloseReason::Transport(reason))) => WireError::Connect { addr, reason },
        (error, _) => {
            close(&quinn, &error);
            error
        }
    })
}

/// The callee's side, after TLS.
pub(crate) async fn answer(quinn: quinn::Connection, local: &Local) -> Result<Connection> {
    let greet = async {
        let addr = quinn.remote_address();
        let no_member = |_| WireError::Refused { addr, reason: NO_MEMBER.into() };
        let peer = tls::proven_identity(&quinn).map_err(no_member)?;
        let registered = local.membership.register(&quinn, &peer);
        let registered = registered.map_err(|reason| WireError::Refused { addr, reason })?;
        local.admission.check(&peer).map_err(|reason| WireError::Refused { addr, reason })?;
        let (mut sender, mut receiver) = quinn.accept_bi().await.map_err(CloseReason::from)?;
        let hello = read_hello(&mut receiver, &peer, local.membership.identity()).await?;
        write_hello(&mut sender, &local.hello(hello.purpose)).await?;
        Ok(Connection::new(quinn.clone(), registered, peer, hello, (sender, receiver), local.lane.clone()))
    };
    greet.await.inspect_err(|error| close(&quinn, error))
}

/// What a refused or useless peer is told.
fn close(quinn: &quinn::Connection, error: &WireError) {
    let (code, reason) = match error {
        WireError::Refused { reason, .. } => (CloseCode::NotAdmitted, reason.clone()),
        other => (CloseCode::BadHello, other.to_string()),
    };
    congestion::close(quinn, code, &reason);
}

/// What the log says of a failed attempt, in one line.
pub(crate) fn timed_out(addr: SocketAddr, limit: std::time::Duration) -> WireError {
    WireError::Connect { addr, reason: format!("no handshake within {limit:?}") }
}

async fn write_hello(stream: &mut SendStream, hello: &Hello) -> Result<()> {
    let body = hello.encode()?;
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    stream.write_all(&bytes).await.map_err(|error| WireError::Hello(error.to_string()))
}

async fn read_hello(stream: &mut RecvStream, peer: &PeerIdentity, own: &PeerIdentity) -> Result<Hello> {
    let mut len = [0; 4];
    let unread = |error: quinn::ReadExactError| WireError::Hello(error.to_string());
    stream.read_exact(&mut len).await.map_err(unread)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HELLO {
        return Err(WireError::Hello(format!("{len} bytes, at most {MAX_HELLO} are read")));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.map_err(unread)?;
    Hello::decode(&body).map_err(|error| error.between(peer, own))
}
