//! Connections to the head: each is served by a task that only hands events in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lyceum_wire::{CloseCode, Connection, Endpoint, LaneReceiver, LaneSender, PeerRole, WireError};
use tokio::sync::mpsc::Sender;

use super::core::{Input, Joining};
use crate::control::HeadEvent;
use crate::control::vocabulary::{Origin, StoreUse};
use crate::message::{
    self, AgentToHead, ClientToHead, HeadToAgent, HeadToClient, Join, Message, Unknown, Unread,
};

/// Numbers sessions and clients of this term.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Heartbeats that have come since they were last taken in, the newest of each node. They wait for the next tick: a head with
/// hundreds of agents is woken a few times a second for all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beats(Arc<Mutex<BTreeMap<String, Beat>>>);

/// What an agent said last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat {
    pub(super) incarnation: u64,
    pub(super) store: StoreUse,
}

impl Beats {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, node: &str, beat: Beat) {
        let mut waiting = self.lock();
        match waiting.get_mut(node) {
            // An older incarnation's is not for the newest.
            Some(other) if other.incarnation > beat.incarnation => {}
            Some(other) => *other = beat,
            None => drop(waiting.insert(node.to_owned(), beat)),
        }
    }

    pub(super) fn take(&self) -> BTreeMap<String, Beat> {
        std::mem::take(&mut *self.lock())
    }
}

pub(crate) async fn accept(endpoint: Endpoint, beats: Beats, events: Sender<Input>) {
    while let Some(connection) = endpoint.accept().await {
        let (beats, events) = (beats.clone(), events.clone());
        tokio::spawn(async move {
            let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
            let served = match connection.peer().role() {
                PeerRole::Agent => serve_agent(session, &connection, &beats, &events).await,
                _ => serve_client(session, &connection, &events).await,
            };
            if let Err(error) = served {
                tracing::info!(peer = %connection.peer(), %error, "a connection to the head ended");
            }
            connection.close(CloseCode::Done, "the session is over");
        });
    }
}

async fn serve_agent(
    session: u64,
    connection: &Connection,
    beats: &Beats,
    events: &Sender<Input>,
) -> Result<(), WireError> {
    let (lane, mut frames) = connection.lane()?;
    let (node, incarnation) = (connection.peer().node().to_owned(), connection.peer().incarnation());
    let Some(first) = frames.recv().await? else { return Ok(()) };
    let Some(AgentToHead::Join(join)) = Message::from_frame(&first)? else {
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
        reached: false,
    };
    let _ = events.send(Input::AgentJoined(Box::new(joining))).await;
    let served = tokio::select! {
        served = read_agent(&mut frames, &answers, &node, incarnation, events) => served,
        served = answer_beats(connection, &node, incarnation, beats) => served,
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
            AgentToHead::Join(_) => {
                return Err(WireError::Archive("an agent joins once per connection".into()));
            }
        };
        if events.send(input).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Each heartbeat is answered by one: the head lives, without which the agents of an owned cluster end.
async fn answer_beats(
    connection: &Connection,
    node: &str,
    incarnation: u64,
    beats: &Beats,
) -> Result<(), WireError> {
    loop {
        let datagram = connection.read_datagram().await?;
        let Some(store) = message::decode_beat(&datagram) else { continue };
        beats.put(node, Beat { incarnation, store });
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
