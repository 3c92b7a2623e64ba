//! Getting an object from another node: from the decrypted stream straight into its place in the segment (L4).

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lyceum_wire::{BulkReceiver, BulkSender, Connection};
use tokio::sync::oneshot;

use super::core::Core;
use super::peers::{ACKNOWLEDGED, HERE, LONGEST_REASON, NOT_HERE, Wish};
use crate::memory::OwnedBytes;
use crate::object::ObjectId;
use crate::pool::Place;
use crate::table::Event;

/// A fetch under way. However it ends, even with its runtime, the table hears of it, and only when nothing writes to the
/// place any more.
#[derive(Debug)]
pub(super) struct Fetch {
    core: Arc<Core>,
    number: u64,
    id: ObjectId,
    place: Place,
    node: String,
    ticket: u64,
    told: bool,
}

/// How one try failed.
enum Failure {
    /// The connection: another may do.
    Broken(String),
    /// The peer said no, or nonsense.
    Final(String),
}

impl Fetch {
    pub fn new(core: Arc<Core>, number: u64, id: ObjectId, place: Place, node: String, ticket: u64) -> Fetch {
        Fetch { core, number, id, place, node, ticket, told: false }
    }

    /// Fetches, tells the table, acknowledges. `stop` ends it early.
    pub async fn run(mut self, stop: oneshot::Receiver<()>) {
        let result = tokio::select! {
            biased;
            _ = stop => Err("nobody waits for it any more".to_owned()),
            result = self.transfer() => result,
        };
        match result {
            Ok((mut sender, mut receiver)) => {
                self.tell(Event::FetchLanded { fetch: self.number, id: self.id });
                let stall = self.core.options.stall;
                let acknowledged = within(stall, async {
                    sender.write(&[ACKNOWLEDGED]).await?;
                    sender.finish()?;
                    // Until the peer has heard it: the stream must outlive this task.
                    receiver.read(&mut [0]).await
                });
                if let Err(reason) = acknowledged.await {
                    tracing::debug!(object = %self.id, node = %self.node, %reason, "a lease in transit is left to expire");
                }
            }
            Err(reason) => {
                tracing::debug!(object = %self.id, node = %self.node, %reason, "a fetch failed");
                self.tell(Event::FetchFailed { fetch: self.number, id: self.id, reason });
            }
        }
    }

    async fn transfer(&self) -> Result<(BulkSender, BulkReceiver), String> {
        let Some(remote) = self.core.remote() else { return Err("the store has no peers".into()) };
        let Ok(_permit) = remote.fetches.acquire().await else { return Err("the store has ended".into()) };
        let mut last = String::new();
        for _ in 0..2 {
            let connection = match connect(&self.core, &self.node).await {
                Ok(connection) => connection,
                Err(reason) => return Err(reason),
            };
            match self.try_over(&connection).await {
                Ok(streams) => return Ok(streams),
                Err(Failure::Final(reason)) => return Err(reason),
                Err(Failure::Broken(reason)) => last = reason,
            }
        }
        Err(format!("the fetch broke off twice: {last}"))
    }

    async fn try_over(&self, connection: &Connection) -> Result<(BulkSender, BulkReceiver), Failure> {
        let stall = self.core.options.stall;
        let wish = Wish::Fetch { id: self.id, ticket: self.ticket, len: self.place.len }.encode();
        let (sender, mut receiver) =
            within(stall, connection.open_bulk(&wish)).await.map_err(Failure::Broken)?;
        let mut answer = [0];
        within(stall, receiver.read_exact(&mut answer)).await.map_err(Failure::Broken)?;
        match answer {
            [HERE] => {}
            [NOT_HERE] => {
                let reason =
                    within(stall, receiver.read_to_end(LONGEST_REASON)).await.map_err(Failure::Broken)?;
                return Err(Failure::Final(String::from_utf8_lossy(&reason).into_owned()));
            }
            [other] => {
                return Err(Failure::Final(format!("its agent answered {other}, which means nothing")));
            }
        }
        let mapping = self
            .core
            .segments
            .get(self.place.segment as usize)
            .map(|segment| segment.mapping.clone())
            .ok_or_else(|| Failure::Final(format!("there is no segment {}", self.place.segment)))?;
        let mut bytes = OwnedBytes::new(mapping, self.place).map_err(|e| Failure::Final(e.to_string()))?;
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            match within(stall, receiver.read(rest)).await.map_err(Failure::Broken)? {
                Some(read) => rest = &mut rest[read..],
                None => return Err(Failure::Broken(format!("{} bytes are missing at the end", rest.len()))),
            }
        }
        Ok((sender, receiver))
    }

    fn tell(&mut self, event: Event) {
        self.told = true;
        self.core.apply(event);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !self.told {
            let reason = "the runtime that fetched it has ended".to_owned();
            self.tell(Event::FetchFailed { fetch: self.number, id: self.id, reason });
        }
    }
}

/// Tells the node that holds a lease in transit that it may end.
pub(super) async fn acknowledge(core: Arc<Core>, node: &str, id: ObjectId, ticket: u64) {
    let wish = Wish::Acknowledge { id, ticket }.encode();
    let attempt = async {
        let connection = connect(&core, node).await?;
        let stall = core.options.stall;
        let (mut sender, mut receiver) = within(stall, connection.open_bulk(&wish)).await?;
        sender.finish().map_err(|e| e.to_string())?;
        within(stall, receiver.read_exact(&mut [0])).await
    };
    if let Err(reason) = attempt.await {
        tracing::debug!(object = %id, %node, %reason, "a lease in transit is left to expire");
    }
}

async fn connect(core: &Core, node: &str) -> Result<Connection, String> {
    let Some(remote) = core.remote() else { return Err("the store has no peers".into()) };
    within(core.options.stall, remote.peers.connect(node))
        .await
        .map_err(|reason| format!("its agent cannot be reached: {reason}"))
}

/// The result in time, or that there was none (L3).
pub(super) async fn within<T, E: Display>(
    stall: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(stall, future).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no progress for {stall:?}")),
    }
}
