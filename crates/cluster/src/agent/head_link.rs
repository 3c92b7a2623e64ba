//! The link to the head: a connection of its own that never carries bulk, made again whenever it is lost.

use std::net::SocketAddr;
use std::time::Duration;

use lyceum_wire::{CloseCode, CloseReason, Connection, Endpoint, Expect, LaneReceiver, PeerRole, WireError};
use tokio::sync::mpsc::Sender;

use super::driver::Happening;
use crate::control::AgentEvent;
use crate::message::{self, HeadToAgent, Message, Unknown, Unread};

/// Longest wait for one attempt: a head that comes up while an attempt is under way is found by the next one.
const ATTEMPT: Duration = Duration::from_secs(2);
/// First and longest wait between two attempts.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Keeps a link to the head, at one of `heads`, or where a head has said since, for as long as the agent lives. A head that is silent for `patience` is called
/// again: a successor at its address knows nothing of the old connection. Where there are several places they are tried in
/// turn, and a head of an earlier term than one that was met is none any more.
pub(crate) async fn keep(
    endpoint: Endpoint,
    mut heads: Vec<SocketAddr>,
    patience: Duration,
    events: Sender<Happening>,
) {
    let mut wait = WAITS.0;
    let (mut turn, mut term) = (0, 0);
    loop {
        let Some(head) = heads.get(turn % heads.len().max(1)).copied() else { return };
        let expect = Expect::role(PeerRole::Head);
        let attempt = tokio::time::timeout(ATTEMPT, endpoint.connect(head, &expect)).await;
        let attempt = attempt.unwrap_or_else(|_| {
            Err(WireError::Connect { addr: head, reason: format!("no answer in {} s", ATTEMPT.as_secs()) })
        });
        let refused = match attempt {
            Ok(connection) if connection.peer().incarnation() < term => {
                connection.close(CloseCode::NotAdmitted, "a later head leads");
                turn += 1;
                None
            }
            Ok(connection) => {
                wait = WAITS.0;
                term = connection.peer().incarnation();
                match use_link(&connection, patience, &events, &mut heads).await {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "the link to the head is lost"),
                }
                let _ = events.send(Happening::HeadDown).await;
                refusal(&connection)
            }
            Err(WireError::Refused { reason, .. }) => Some(reason),
            Err(error) => {
                tracing::debug!(%error, %head, "the head cannot be reached");
                turn += 1;
                None
            }
        };
        if let Some(reason) = refused {
            let by = format!("its agent, because the head refused it: {reason}");
            let _ = events.send(Happening::Machine(AgentEvent::End { by })).await;
            return;
        }
        if events.is_closed() {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

fn refusal(connection: &Connection) -> Option<String> {
    match connection.close_reason() {
        Some(CloseReason::ByPeer { code: Some(CloseCode::NotAdmitted), reason }) => Some(reason),
        _ => None,
    }
}

async fn use_link(
    connection: &Connection,
    patience: Duration,
    events: &Sender<Happening>,
    heads: &mut Vec<SocketAddr>,
) -> Result<(), WireError> {
    let (lane, mut frames) = connection.lane()?;
    let up = Happening::HeadUp { lane, connection: connection.clone() };
    if events.send(up).await.is_err() {
        return Ok(());
    }
    tokio::select! {
        read = read_frames(&mut frames, events, heads) => read,
        read = read_beats(connection, patience, events) => read,
    }
}

async fn read_frames(
    frames: &mut LaneReceiver,
    events: &Sender<Happening>,
    heads: &mut Vec<SocketAddr>,
) -> Result<(), WireError> {
    let mut unknown = Unknown::default();
    while let Some(frame) = frames.recv().await? {
        let message = match HeadToAgent::from_frame(&frame)? {
            Some(HeadToAgent::Heads(places)) => {
                // Without any it would find no head again.
                if !places.is_empty() && places != *heads {
                    tracing::info!(?places, "the head may be found at other places from now on");
                    *heads = places;
                }
                continue;
            }
            Some(message) => message,
            None => match unknown.pass_by(&frame, &"the head") {
                Some(Unread { process, request, answer }) => HeadToAgent::Answer { process, request, answer },
                None => continue,
            },
        };
        if events.send(Happening::FromHead(Box::new(message))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn read_beats(
    connection: &Connection,
    patience: Duration,
    events: &Sender<Happening>,
) -> Result<(), WireError> {
    loop {
        let before = connection.heard();
        let Ok(datagram) = tokio::time::timeout(patience, connection.read_datagram()).await else {
            // Heartbeats may be lost that QUIC knows to have arrived.
            if connection.heard() != before {
                let _ = events.send(Happening::Machine(AgentEvent::HeadHeard)).await;
                continue;
            }
            connection.close(CloseCode::Done, "the head is silent and is called again");
            return Err(WireError::Closed(CloseReason::TimedOut));
        };
        if message::decode_beat(&datagram?).is_some() {
            let _ = events.send(Happening::Machine(AgentEvent::HeadHeard)).await;
        }
    }
}
