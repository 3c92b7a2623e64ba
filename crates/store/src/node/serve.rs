//! Giving an object to another node: QUIC sends it from the segment as it lies, or as it is read from disk.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lyceum_wire::{BulkReceiver, BulkSender};

use super::core::Core;
use super::fetch::within;
use super::peers::{ACKNOWLEDGED, ELSEWHERE, HERE, LONGEST_REASON, NOT_HERE, WAIT, Wish};
use super::spill::{BLOCK, SpillFile};
use crate::error::{Loss, cut};
use crate::memory::SealedBytes;
use crate::object::ObjectId;
use crate::pool::Place;
use crate::table::Event;

/// Bytes handed to QUIC at a time: small enough that a slow but living path makes progress within the stall time.
const CHUNK: usize = 1 << 20;

/// Bytes a second of the slowest link on which a large object is still awaited.
const SLOWEST_LINK: u64 = 1 << 20;

/// What the table says to a peer's wish.
#[derive(Debug)]
pub(super) enum Given {
    Memory(Place),
    Disk(std::io::Result<File>),
    Elsewhere(String),
    Refused(Loss),
}

/// Keeps the object while this store or QUIC still reads its bytes, and the wish while it waits.
#[derive(Debug)]
struct Serving {
    core: Arc<Core>,
    number: u64,
    ticket: u64,
    acknowledged: AtomicBool,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        self.core.apply(Event::ServeEnded { serve: self.number, ticket: self.ticket, acknowledged });
    }
}

/// The object's bytes as an owner that QUIC can hold.
struct Served {
    bytes: SealedBytes,
    _serving: Arc<Serving>,
}

impl AsRef<[u8]> for Served {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

/// Where the bytes of an upload come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Memory(Bytes),
    Disk(Arc<SpillFile>),
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Memory(bytes) => bytes.len(),
            Source::Disk(file) => file.len(),
        }
    }

    /// Sends `len` bytes from `offset` on, which the object has.
    async fn send(
        &self,
        stall: Duration,
        sender: &mut BulkSender,
        offset: usize,
        len: usize,
    ) -> Result<(), String> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let chunk = match self {
                Source::Memory(bytes) => bytes.slice(at..end.min(at + CHUNK)),
                Source::Disk(file) => {
                    let (file, index) = (file.clone(), at / BLOCK);
                    let (from, to) = (index * BLOCK, file.len().min((index + 1) * BLOCK));
                    let read = tokio::task::spawn_blocking(move || {
                        let mut block = vec![0; to - from];
                        file.read_block(index, &mut block).map(|()| Bytes::from(block))
                    });
                    let block = read.await.map_err(|e| e.to_string())??;
                    block.slice(at - from..end.min(to) - from)
                }
            };
            at += chunk.len();
            within(stall, sender.write_bytes(chunk)).await?;
        }
        Ok(())
    }
}

/// Answers one bulk stream of the store of node `peer`.
pub(super) async fn serve(
    core: Arc<Core>,
    peer: &str,
    header: &[u8],
    mut sender: BulkSender,
    receiver: BulkReceiver,
) -> Result<(), String> {
    let stall = core.options.stall;
    match Wish::decode(header)? {
        Wish::Acknowledge { id, ticket } => {
            core.apply(Event::Acknowledged { id, ticket, peer: peer.to_owned() });
            within(stall, async {
                sender.write(&[ACKNOWLEDGED]).await?;
                sender.finish()
            })
            .await
        }
        Wish::Fetch { id, ticket, len, first, insists } => {
            let number = core.next_serve();
            // From here on the wish ends with its last owner.
            let acknowledged = AtomicBool::new(false);
            let serving = Arc::new(Serving { core: core.clone(), number, ticket, acknowledged });
            let mut given = core.wished(number, id, peer, insists);
            let given = loop {
                tokio::select! {
                    biased;
                    given = &mut given => break given.map_err(|_| "the store has ended".to_owned())?,
                    () = tokio::time::sleep(stall / 4) => within(stall, sender.write(&[WAIT])).await?,
                }
            };
            let source = match given {
                Given::Memory(place) => source_in_memory(&core, place, len, &serving),
                Given::Disk(file) => source_on_disk(file, id, len).await,
                Given::Refused(loss) => Err(loss),
                Given::Elsewhere(node) => {
                    return within(stall, async {
                        sender.write(&[ELSEWHERE]).await?;
                        sender.write(node.as_bytes()).await?;
                        sender.finish()
                    })
                    .await;
                }
            };
            match source {
                Ok(source) => send(&core, id, source, first, serving, sender, receiver).await,
                Err(loss) => refuse(stall, loss, sender).await,
            }
        }
        Wish::Part { id, upload, offset, len } => {
            let end = offset.checked_add(len);
            let source = core.uploads.get(upload, id);
            let fits = |source: &Source| end.is_some_and(|end| end <= source.len() as u64);
            let Some(source) = source.filter(fits) else {
                let loss = Loss::now(format!("upload {upload} has no bytes {offset}+{len}"));
                return refuse(stall, loss, sender).await;
            };
            within(stall, sender.write(&[HERE])).await?;
            source.send(stall, &mut sender, offset as usize, len as usize).await?;
            sender.finish().map_err(|e| e.to_string())
        }
    }
}

fn source_in_memory(core: &Core, place: Place, len: u64, serving: &Arc<Serving>) -> Result<Source, Loss> {
    check_len(len, place.len)?;
    let bytes = core.mapping(place).and_then(|m| SealedBytes::new(m, place).map_err(|e| e.to_string()));
    let served = Served { bytes: bytes.map_err(Loss::now)?, _serving: serving.clone() };
    Ok(Source::Memory(Bytes::from_owner(served)))
}

async fn source_on_disk(file: std::io::Result<File>, id: ObjectId, len: u64) -> Result<Source, Loss> {
    let file = file.map_err(|e| Loss::now(format!("its file cannot be opened: {e}")))?;
    let read = tokio::task::spawn_blocking(move || SpillFile::read(file, id, len));
    let file = read.await.map_err(|e| Loss::now(e.to_string()))?.map_err(Loss::now)?;
    Ok(Source::Disk(Arc::new(file)))
}

fn check_len(said: u64, has: u64) -> Result<(), Loss> {
    if said == has {
        return Ok(());
    }
    Err(Loss::now(format!("the reference says {said} bytes, the object has {has}")))
}

async fn refuse(stall: Duration, loss: Loss, mut sender: BulkSender) -> Result<(), String> {
    within(stall, async {
        sender.write(&[NOT_HERE]).await?;
        sender.write(&loss.when.0.to_le_bytes()).await?;
        sender.write(cut(&loss.reason, LONGEST_REASON).as_bytes()).await?;
        sender.finish()
    })
    .await
}

/// Sends the `first` bytes, lets others be taken as parts, and waits for the peer's word.
async fn send(
    core: &Arc<Core>,
    id: ObjectId,
    source: Source,
    first: u64,
    serving: Arc<Serving>,
    mut sender: BulkSender,
    mut receiver: BulkReceiver,
) -> Result<(), String> {
    let (stall, len) = (core.options.stall, source.len());
    let first = usize::try_from(first).unwrap_or(len).min(len);
    let upload = core.uploads.add(core, serving.number, id, source.clone());
    within(stall, sender.write(&[HERE])).await?;
    within(stall, sender.write(&serving.number.to_le_bytes())).await?;
    source.send(stall, &mut sender, 0, first).await?;
    drop(source);
    let mut answer = [0];
    // The parts, and what QUIC still holds of the object, travel before the peer can answer.
    let draining = Duration::from_secs(len as u64 / SLOWEST_LINK);
    within(stall + draining, receiver.read_exact(&mut answer)).await?;
    drop(upload);
    if answer != [ACKNOWLEDGED] {
        return Err(format!("the peer answered {}, which means nothing", answer[0]));
    }
    core.uploads.acknowledged();
    serving.acknowledged.store(true, Ordering::Release);
    // The peer keeps stream and connection until it sees this end: finished earlier, its word could be lost with them.
    sender.finish().map_err(|e| e.to_string())
}
