//! One connection between two neighbours of the chain.

use std::time::{Duration, Instant};

use lyceum_wire::{
    BulkReceiver, BulkSender, CloseCode, Connection, Expect, PeerIdentity, PeerRole, Purpose, WireError,
};

use crate::{Gang, Seat};

/// Between two attempts to reach a leader that is not there yet.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a neighbour may take from its connection to its greeting.
const GREETING: Duration = Duration::from_secs(5);

const MAGIC: &[u8] = b"lyceum-collective";
/// What the called says when it takes the caller for its neighbour.
const WELCOME: [u8; 1] = [1];

/// A connection with the leader of the host before or after.
pub(crate) struct Link {
    /// That leader's rank.
    pub(crate) rank: usize,
    pub(crate) connection: Connection,
    pub(crate) sender: BulkSender,
    pub(crate) receiver: BulkReceiver,
}

/// A leader that did not come, and the last that was heard.
pub(crate) struct Absent {
    pub(crate) rank: usize,
    pub(crate) reason: String,
}

impl Link {
    /// Sees what was sent to its end.
    pub(crate) async fn finish(mut self) -> Result<(), WireError> {
        self.sender.finish()?;
        let delivered = self.sender.delivered().await;
        self.connection.close(CloseCode::Done, "left the epoch");
        delivered
    }
}

fn greeting(gang: &Gang, rank: usize) -> Vec<u8> {
    let (epoch, rank) = (gang.epoch.to_le_bytes(), (rank as u64).to_le_bytes());
    [MAGIC, &gang.token.secret(), &epoch, &rank].concat()
}

/// Calls the leader `next` until it answers.
pub(crate) async fn call(
    gang: &Gang,
    seat: &Seat,
    own: usize,
    next: usize,
    deadline: Instant,
) -> Result<Link, Absent> {
    let member = &gang.members[next];
    let expect = Expect {
        role: PeerRole::Worker,
        node: Some(member.node.clone()),
        incarnation: Some(member.incarnation),
    };
    let mut last = String::from("it has no address");
    while let (Some(addr), true) = (member.addr, Instant::now() < deadline) {
        let attempt = async {
            let connection = seat.endpoint().connect_for(addr, &expect, Purpose::Bulk).await?;
            let (sender, mut receiver) = connection.open_bulk(&greeting(gang, own)).await?;
            receiver.read_exact(&mut [0; WELCOME.len()]).await?;
            Ok::<_, WireError>(Link { rank: next, connection, sender, receiver })
        };
        match tokio::time::timeout_at(deadline.into(), attempt).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = "it did not answer".into(),
        }
        tokio::time::sleep(AGAIN).await;
    }
    Err(Absent { rank: next, reason: last })
}

/// Waits for the call of the leader `previous`; whoever else calls is sent away.
pub(crate) async fn answer(
    gang: &Gang,
    seat: &Seat,
    previous: usize,
    deadline: Instant,
) -> Result<Link, Absent> {
    let absent = |reason: &str| Absent { rank: previous, reason: reason.into() };
    loop {
        let accepted = tokio::time::timeout_at(deadline.into(), seat.endpoint().accept()).await;
        let connection = accepted.map_err(|_| absent("it did not call"))?;
        let connection = connection.ok_or_else(|| absent("this seat is closed"))?;
        let greet = tokio::time::timeout(GREETING, welcome(gang, &connection, previous));
        match greet.await {
            Ok(Ok((sender, receiver))) => return Ok(Link { rank: previous, connection, sender, receiver }),
            Ok(Err(reason)) => {
                tracing::warn!(peer = %connection.peer(), %reason, "not the neighbour that was expected");
                connection.close(CloseCode::NotAdmitted, &reason);
            }
            Err(_) => connection.close(CloseCode::BadHello, "no greeting"),
        }
    }
}

async fn welcome(
    gang: &Gang,
    connection: &Connection,
    previous: usize,
) -> Result<(BulkSender, BulkReceiver), String> {
    let member = &gang.members[previous];
    let peer: &PeerIdentity = connection.peer();
    if (peer.node(), peer.incarnation()) != (&member.node, member.incarnation) {
        return Err(format!("{peer} is not rank {previous} of epoch {}", gang.epoch));
    }
    let (header, mut sender, receiver) = connection.accept_bulk().await.map_err(|error| error.to_string())?;
    if header != greeting(gang, previous) {
        return Err(format!("its greeting is not that of rank {previous} of epoch {}", gang.epoch));
    }
    sender.write(&WELCOME).await.map_err(|error| error.to_string())?;
    Ok((sender, receiver))
}
