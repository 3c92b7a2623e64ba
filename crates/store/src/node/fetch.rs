//! Getting an object from another node: from the decrypted stream straight into its place in the segment (L4).

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use lyceum_wire::{BulkReceiver, BulkSender, Connection};
use tokio::sync::oneshot;

use super::LONGEST_NODE_NAME;
use super::core::Core;
use super::peers::{ACKNOWLEDGED, ELSEWHERE, HERE, LONGEST_REASON, NOT_HERE, WAIT, Wish};
use super::spill::BLOCK;
use crate::error::Loss;
use crate::memory::OwnedBytes;
use crate::moment::Moment;
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

/// From this many bytes on, each connection takes a part of an object.
const PART: usize = 16 << 20;

/// Connections over which one object comes, at most.
pub(super) const MAX_LINES: usize = 4;

/// What came of asking one node.
enum Outcome {
    /// All bytes are in place; the streams on which to say so.
    Landed(BulkSender, BulkReceiver),
    /// That node has it too.
    Elsewhere(String),
}

/// How one try failed.
enum Failure {
    /// The connection: another may do.
    Broken(String),
    /// The peer said no, or nonsense.
    Final(Loss),
}

impl Fetch {
    pub fn new(core: Arc<Core>, number: u64, id: ObjectId, place: Place, node: String, ticket: u64) -> Fetch {
        Fetch { core, number, id, place, node, ticket, told: false }
    }

    /// Fetches, tells the table, acknowledges. `stop` ends it early.
    pub async fn run(mut self, stop: oneshot::Receiver<()>) {
        let result = tokio::select! {
            biased;
            _ = stop => Err(Loss::now("nobody waits for it any more")),
            result = self.transfer() => result,
        };
        match result {
            Ok((from, mut sender, mut receiver)) => {
                self.tell(Event::FetchLanded { fetch: self.number, id: self.id });
                let stall = self.core.options.stall;
                let acknowledged = within(stall, async {
                    sender.write(&[ACKNOWLEDGED]).await?;
                    sender.finish()?;
                    // Until the peer has heard it: the stream must outlive this task.
                    receiver.read(&mut [0]).await
                });
                if let Err(reason) = acknowledged.await {
                    tracing::debug!(object = %self.id, node = %from, %reason, "a lease in transit is left to expire");
                }
                if from != self.node {
                    acknowledge(self.core.clone(), &self.node, self.id, self.ticket).await;
                }
            }
            Err(loss) => {
                tracing::debug!(object = %self.id, node = %self.node, reason = loss.reason, "a fetch failed");
                self.tell(Event::FetchFailed { fetch: self.number, id: self.id, loss });
            }
        }
    }

    /// Asks the node that the reference names, and another one if that is what it says. Returns where the bytes are from.
    async fn transfer(&self) -> Result<(String, BulkSender, BulkReceiver), Loss> {
        let Some(remote) = self.core.remote() else { return Err(Loss::now("the store has no peers")) };
        let Ok(_permit) = remote.fetches.acquire().await else {
            return Err(Loss::now("the store has ended"));
        };
        let copy = match self.ask(&self.node, false).await? {
            Outcome::Landed(sender, receiver) => return Ok((self.node.clone(), sender, receiver)),
            Outcome::Elsewhere(copy) => copy,
        };
        match self.ask(&copy, true).await {
            Ok(Outcome::Landed(sender, receiver)) => return Ok((copy, sender, receiver)),
            Ok(Outcome::Elsewhere(_)) => {}
            Err(Loss { reason, .. }) => {
                tracing::debug!(object = %self.id, copy, reason, "a copy is of no use");
            }
        }
        match self.ask(&self.node, true).await? {
            Outcome::Landed(sender, receiver) => Ok((self.node.clone(), sender, receiver)),
            Outcome::Elsewhere(_) => Err(Loss::now("its agent sends on one who insists")),
        }
    }

    /// Asks `node`, twice where its connection breaks; then over one connection alone.
    async fn ask(&self, node: &str, insists: bool) -> Result<Outcome, Loss> {
        let most = self.core.remote().map_or(1, |remote| remote.lines);
        let mut last = String::new();
        for lines in [(self.place.len as usize / PART).clamp(1, most), 1] {
            match self.try_over(node, insists, lines).await {
                Ok(outcome) => return Ok(outcome),
                Err(Failure::Final(loss)) => return Err(loss),
                Err(Failure::Broken(reason)) => last = reason,
            }
        }
        Err(Loss::now(format!("the fetch broke off twice: {last}")))
    }

    async fn try_over(&self, node: &str, insists: bool, lines: usize) -> Result<Outcome, Failure> {
        let (stall, len) = (self.core.options.stall, self.place.len as usize);
        let finally = |reason: String| Failure::Final(Loss::now(reason));
        // Whole blocks, so that what is on disk is read once.
        let part = len.div_ceil(lines).max(1).next_multiple_of(BLOCK);
        let connection = connect(&self.core, node, 0).await.map_err(finally)?;
        let (id, ticket, first) = (self.id, self.ticket, part.min(len) as u64);
        let wish = Wish::Fetch { id, ticket, len: len as u64, first, insists }.encode();
        let (sender, mut receiver) =
            within(stall, connection.open_bulk(&wish)).await.map_err(Failure::Broken)?;
        let upload = match answer(stall, &mut receiver).await? {
            Answer::Elsewhere(node) => return Ok(Outcome::Elsewhere(node)),
            Answer::Here => {
                let mut upload = [0; 8];
                within(stall, receiver.read_exact(&mut upload)).await.map_err(Failure::Broken)?;
                u64::from_le_bytes(upload)
            }
        };
        let mapping = self.core.mapping(self.place).map_err(finally)?;
        let mut bytes = OwnedBytes::new(mapping, self.place).map_err(|e| finally(e.to_string()))?;
        let mut parts = bytes.as_mut_slice().chunks_mut(part);
        let first = fill(stall, &mut receiver, parts.next().unwrap_or_default());
        let others = parts.enumerate().map(|(index, bytes)| {
            let (line, offset) = (index + 1, (index + 1) * part);
            self.take_part(node, line, upload, offset as u64, bytes)
        });
        try_join(first, try_join_all(others)).await?;
        Ok(Outcome::Landed(sender, receiver))
    }

    /// Fills `bytes` with those at `offset` over a connection of their own.
    async fn take_part(
        &self,
        node: &str,
        line: usize,
        upload: u64,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), Failure> {
        let stall = self.core.options.stall;
        let connection = connect(&self.core, node, line).await.map_err(Failure::Broken)?;
        let wish = Wish::Part { id: self.id, upload, offset, len: bytes.len() as u64 }.encode();
        let (_sender, mut receiver) =
            within(stall, connection.open_bulk(&wish)).await.map_err(Failure::Broken)?;
        match answer(stall, &mut receiver).await {
            Ok(Answer::Here) => fill(stall, &mut receiver, bytes).await,
            Ok(Answer::Elsewhere(_)) => Err(Failure::Broken("a part is said to be elsewhere".into())),
            // The upload may have ended with its stream: another try tells.
            Err(Failure::Final(loss)) => Err(Failure::Broken(loss.reason)),
            Err(broken) => Err(broken),
        }
    }

    fn tell(&mut self, event: Event) {
        self.told = true;
        self.core.apply(event);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !self.told {
            let loss = Loss::now("the runtime that fetched it has ended");
            self.tell(Event::FetchFailed { fetch: self.number, id: self.id, loss });
        }
    }
}

/// A server's first words that are not a refusal.
enum Answer {
    Here,
    Elsewhere(String),
}

async fn answer(stall: Duration, receiver: &mut BulkReceiver) -> Result<Answer, Failure> {
    let mut answer = [WAIT];
    while answer == [WAIT] {
        within(stall, receiver.read_exact(&mut answer)).await.map_err(Failure::Broken)?;
    }
    match answer {
        [HERE] => Ok(Answer::Here),
        [ELSEWHERE] => {
            let node =
                within(stall, receiver.read_to_end(LONGEST_NODE_NAME)).await.map_err(Failure::Broken)?;
            Ok(Answer::Elsewhere(String::from_utf8_lossy(&node).into_owned()))
        }
        [NOT_HERE] => {
            let said =
                within(stall, receiver.read_to_end(8 + LONGEST_REASON)).await.map_err(Failure::Broken)?;
            let loss = said.split_first_chunk().map(|(when, reason)| Loss {
                when: Moment(u64::from_le_bytes(*when)),
                reason: String::from_utf8_lossy(reason).into_owned(),
            });
            Err(Failure::Final(loss.unwrap_or_else(|| Loss::now("its agent refused without a word"))))
        }
        [other] => Err(Failure::Final(Loss::now(format!("its agent answered {other}, which means nothing")))),
    }
}

/// Fills `bytes` from the stream.
async fn fill(stall: Duration, receiver: &mut BulkReceiver, bytes: &mut [u8]) -> Result<(), Failure> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match within(stall, receiver.read(rest)).await.map_err(Failure::Broken)? {
            Some(read) => rest = &mut rest[read..],
            None => return Err(Failure::Broken(format!("{} bytes are missing at the end", rest.len()))),
        }
    }
    Ok(())
}

/// Tells the node that holds a lease in transit that it may end.
pub(super) async fn acknowledge(core: Arc<Core>, node: &str, id: ObjectId, ticket: u64) {
    let wish = Wish::Acknowledge { id, ticket }.encode();
    let attempt = async {
        let connection = connect(&core, node, 0).await?;
        let stall = core.options.stall;
        let (mut sender, mut receiver) = within(stall, connection.open_bulk(&wish)).await?;
        sender.finish().map_err(|e| e.to_string())?;
        within(stall, receiver.read_exact(&mut [0])).await
    };
    if let Err(reason) = attempt.await {
        tracing::debug!(object = %id, %node, %reason, "a lease in transit is left to expire");
    }
}

async fn connect(core: &Core, node: &str, line: usize) -> Result<Connection, String> {
    let Some(remote) = core.remote() else { return Err("the store has no peers".into()) };
    within(core.options.stall, remote.peers.connect(node, line))
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
