//! Connections to the head: each is served by a task that only hands events in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lyceum_wire::{CloseCode, Connection, Endpoint, LaneReceiver, LaneSender, PeerRole, WireError};
use tokio::sync::mpsc::Sender;

use super::core::{Input, Joining};
use crate::control::HeadEvent;
use crate::control::vocabulary::{Origin, StoreUse};
use crate::message::{
    self, AgentToHead, ClientToHead, HeadToAgent, HeadToClient, Join, Message, Unknown, Unread,
};

/// Heartbeats are this far apart, in both directions.
const BEAT: Duration = Duration::from_millis(500);

/// Numbers sessions and clients of this term.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

pub(crate) async fn accept(endpoint: Endpoint, events: Sender<Input>) {
    while let Some(connection) = endpoint.accept().await {
        let events = events.clone();
        tokio::spawn(async move {
            let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
            let served = match connection.peer().role() {
                PeerRole::Agent => serve_agent(session, &connection, &events).await,
                _ => serve_client(session, &connection, &events).await,
            };
            if let Err(error) = served {
                tracing::info!(peer = %connection.peer(), %error, "a connection to the head ended");
            }
            connection.close(CloseCode::Done, "the session is over");
        });
    }
}

async fn serve_agent(session: u64, connection: &Connection, events: &Sender<Input>) -> Result<(), WireError> {
    let (lane, mut frames) = connection.lane()?;
    let (node, incarnation) = (connection.peer().node().to_owned(), connection.peer().incarnation());
    let Some(first) = frames.recv().await? else { return Ok(()) };
    let Some(AgentToHead::Join { join, offer }) = Message::from_frame(&first)? else {
        return Err(WireError::Archive("an agent's first message must be its joining".into()));
    };
    let Join { address, pid, host, running, ended } = join;
    let answers = lane.clone();
    let joining = Joining {
        session,
        node: node.clone(),
        incarnation,
        lane,
        connection: connection.clone(),
        address,
        pid,
        host,
        running,
        ended,
        offer,
        reached: false,
    };
    let _ = events.send(Input::AgentJoined(Box::new(joining))).await;
    let served = tokio::select! {
        served = read_agent(&mut frames, &answers, &node, incarnation, events) => served,
        served = read_beats(connection, &node, incarnation, events) => served,
        served = send_beats(connection) => served,
    };
    let _ = events.send(Input::AgentLeft { node, incarnation, session }).await;
    served
}

async fn read_agent(
    frames: &mut LaneReceiver,
    answers: &LaneSender,
    node: &str,
    incarnation: u64,
    events: &Sender<Input>,
) -> Result<(), WireError> {
    let mut unknown = Unknown::default();
    while let Some(frame) = frames.recv().await? {
        let Some(message) = AgentToHead::from_frame(&frame)? else {
            if let Some(Unread { process, request, answer }) = unknown.pass_by(&frame, &node) {
                answers.send(HeadToAgent::Answer { process, request, answer }.into_frame()?).await?;
            }
            continue;
        };
        let node = node.to_owned();
        let input = match message {
            AgentToHead::Report(report) => Input::Machine(HeadEvent::Reported { node, incarnation, report }),
            AgentToHead::Ask { process, request, ask } => Input::WorkerAsked { node, process, request, ask },
            AgentToHead::Join { .. } => {
                return Err(WireError::Archive("an agent joins once per connection".into()));
            }
        };
        if events.send(input).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn read_beats(
    connection: &Connection,
    node: &str,
    incarnation: u64,
    events: &Sender<Input>,
) -> Result<(), WireError> {
    loop {
        let datagram = connection.read_datagram().await?;
        let Some(store) = message::decode_beat(&datagram) else { continue };
        let node = node.to_owned();
        let _ = events.send(Input::Machine(HeadEvent::Heartbeat { node, incarnation, store })).await;
    }
}

/// The head lives: agents of an owned cluster end without it.
async fn send_beats(connection: &Connection) -> Result<(), WireError> {
    let mut interval = tokio::time::interval(BEAT);
    loop {
        interval.tick().await;
        connection.send_datagram(message::encode_beat(StoreUse::default()))?;
    }
}

async fn serve_client(client: u64, connection: &Connection, events: &Sender<Input>) -> Result<(), WireError> {
    let (lane, mut frames) = connection.lane()?;
    let answers = lane.clone();
    let _ = events.send(Input::ClientJoined { client, lane }).await;
    let served = read_client(client, &mut frames, &answers, events).await;
    let _ = events.send(Input::ClientLeft { client }).await;
    served
}

async fn read_client(
    client: u64,
    frames: &mut LaneReceiver,
    answers: &LaneSender,
    events: &Sender<Input>,
) -> Result<(), WireError> {
    let mut unknown = Unknown::default();
    while let Some(frame) = frames.recv().await? {
        let Some(ClientToHead::Ask { request, ask }) = Message::from_frame(&frame)? else {
            if let Some(Unread { request, answer, .. }) = unknown.pass_by(&frame, &format!("client {client}"))
            {
                let refusal = HeadToClient::Answer { request, answer, credentials: Vec::new() };
                answers.send(refusal.into_frame()?).await?;
            }
            continue;
        };
        let event = HeadEvent::Asked { origin: Origin::Client(client), request, ask };
        if events.send(Input::Machine(event)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
