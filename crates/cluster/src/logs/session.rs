//! A client's line to one agent.

use lyceum_wire::{CloseCode, Connection, Endpoint, Expect, LaneReceiver, LaneSender, PeerRole, WireError};

use super::words::{AgentToClient, ClientToAgent, WINDOW};
use crate::control::vocabulary::NodeStatus;
use crate::message::{Message, Unknown};

/// A connection to a node's agent on which logs are read.
pub(super) struct Session {
    connection: Connection,
    lane: LaneSender,
    frames: LaneReceiver,
    /// Bytes that were taken since the agent was told.
    taken: u64,
    unknown: Unknown,
}

impl Session {
    pub(super) async fn open(endpoint: &Endpoint, node: &NodeStatus) -> Result<Session, WireError> {
        let nowhere = || WireError::Bulk(format!("node `{}` is {}", node.name, node.state));
        let address = node.address.filter(|_| is_there(node)).ok_or_else(nowhere)?;
        let (name, incarnation) = (Some(node.name.clone()), Some(node.incarnation));
        let expect = Expect { role: PeerRole::Agent, node: name, incarnation };
        let connection = endpoint.connect(address, &expect).await?;
        let (lane, frames) = connection.lane()?;
        let session = Session { connection, lane, frames, taken: 0, unknown: Unknown::default() };
        session.ask(ClientToAgent::More { bytes: WINDOW }).await?;
        Ok(session)
    }

    pub(super) async fn ask(&self, ask: ClientToAgent) -> Result<(), WireError> {
        Ok(self.lane.send(ask.into_frame()?).await?)
    }

    /// The next word. What was given before counts as taken: the agent may send as much more. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<AgentToClient, WireError> {
        loop {
            if self.taken >= WINDOW / 2 {
                self.ask(ClientToAgent::More { bytes: self.taken }).await?;
                self.taken = 0;
            }
            let closed = || WireError::Bulk("the agent says no more".into());
            let frame = self.frames.recv().await?.ok_or_else(closed)?;
            self.taken += frame.wire_len() as u64;
            match AgentToClient::from_frame(&frame)? {
                Some(AgentToClient::Refused { why }) => return Err(WireError::Bulk(why)),
                Some(word) => return Ok(word),
                None => _ = self.unknown.pass_by(&frame, &"an agent"),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(CloseCode::Done, "the reader of logs has gone");
    }
}

/// May the node's agent be asked? One that the head does not hear may be there for others.
pub(super) fn is_there(node: &NodeStatus) -> bool {
    node.state.starts_with("joined") || node.state == "unreachable"
}
