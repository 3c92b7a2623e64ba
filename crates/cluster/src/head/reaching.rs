//! Whether agents can be reached where they say that others can.

use std::net::SocketAddr;
use std::time::Duration;

use lyceum_wire::{CloseCode, Endpoint, Expect, PeerRole};
use tokio::sync::mpsc::Sender;

use super::core::{Input, Joining};
use crate::paths;

/// Longest wait for an agent that comes for the first time: its machine may be busy with starting.
const FIRST: Duration = Duration::from_secs(5);

/// Calls the agent of `node` at `address`; the error is the end of a sentence about that address.
pub(super) async fn reach(
    endpoint: &Endpoint,
    node: &str,
    incarnation: u64,
    address: SocketAddr,
    patience: Duration,
) -> Result<(), String> {
    let expect =
        Expect { role: PeerRole::Agent, node: Some(node.to_owned()), incarnation: Some(incarnation) };
    match tokio::time::timeout(patience, endpoint.connect(address, &expect)).await {
        Ok(Ok(connection)) => {
            connection.close(CloseCode::Done, "a probe");
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nobody answers within {} s", patience.as_secs())),
    }
}

/// Hands an agent in when it was reached at its address, and refuses it else.
pub(super) async fn try_agent(endpoint: Endpoint, mut joining: Box<Joining>, events: Sender<Input>) {
    let Joining { node, incarnation, address, .. } = &*joining;
    match reach(&endpoint, node, *incarnation, *address, FIRST).await {
        Ok(()) => {
            let (node, incarnation, address) = (node.clone(), *incarnation, *address);
            joining.reached = true;
            let expect =
                Expect { role: PeerRole::Agent, node: Some(node.clone()), incarnation: Some(incarnation) };
            let (endpoint, input) = (endpoint.clone(), events.clone());
            tokio::spawn(async move {
                let said = paths::look(&endpoint, &format!("node {node}"), address, &expect).await;
                let _ = input.send(Input::PathSeen { node, said }).await;
            });
            let _ = events.send(Input::AgentJoined(joining)).await;
        }
        Err(why) => {
            let reason = format!(
                "others are to reach it at {address}, and {why}: see `bind`, `advertise` and firewalls"
            );
            tracing::warn!(node, reason, "an agent may not join");
            joining.connection.close(CloseCode::NotAdmitted, &reason);
        }
    }
}
