//! Giving an object to another node: QUIC sends it from the segment as it lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lyceum_wire::{BulkReceiver, BulkSender};

use super::core::Core;
use super::fetch::within;
use super::peers::{ACKNOWLEDGED, HERE, LONGEST_REASON, NOT_HERE, Wish};
use crate::memory::SealedBytes;
use crate::object::ObjectId;
use crate::table::Event;

/// Bytes handed to QUIC at a time: small enough that a slow but living path makes progress within the stall time.
const CHUNK: usize = 1 << 20;

/// Bytes that QUIC takes ahead of the link, at most: its send window.
const MOST_BUFFERED: u64 = 64 << 20;

/// Bytes a second of the slowest link on which a large object is still awaited.
const SLOWEST_LINK: u64 = 1 << 20;

/// Keeps the object while this store or QUIC still reads its bytes.
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

/// Answers one bulk stream of a peer's store.
pub(super) async fn serve(
    core: Arc<Core>,
    header: &[u8],
    mut sender: BulkSender,
    receiver: BulkReceiver,
) -> Result<(), String> {
    match Wish::decode(header)? {
        Wish::Acknowledge { id, ticket } => {
            core.apply(Event::Acknowledged { id, ticket });
            within(core.options.stall, async {
                sender.write(&[ACKNOWLEDGED]).await?;
                sender.finish()
            })
            .await
        }
        Wish::Fetch { id, ticket, len } => {
            let Ok(_permit) = core.servings.acquire().await else { return Err("the store has ended".into()) };
            send(&core, id, ticket, len, sender, receiver).await
        }
    }
}

async fn send(
    core: &Arc<Core>,
    id: ObjectId,
    ticket: u64,
    len: u64,
    mut sender: BulkSender,
    mut receiver: BulkReceiver,
) -> Result<(), String> {
    let stall = core.options.stall;
    let number = core.next_serve();
    let granted = match core.apply(Event::Serve { serve: number, id }) {
        Some(Ok(place)) => {
            // From here on the serving ends with its last owner.
            let acknowledged = AtomicBool::new(false);
            let serving = Arc::new(Serving { core: core.clone(), number, ticket, acknowledged });
            match core.segments.get(place.segment as usize) {
                Some(segment) if place.len == len => {
                    let bytes =
                        SealedBytes::new(segment.mapping.clone(), place).map_err(|e| e.to_string())?;
                    Ok((Bytes::from_owner(Served { bytes, _serving: serving.clone() }), serving))
                }
                _ => Err(format!("the reference says {len} bytes, the object has {}", place.len)),
            }
        }
        Some(Err(reason)) => Err(reason),
        None => Err("the store has ended".to_owned()),
    };
    let (bytes, serving) = match granted {
        Ok(granted) => granted,
        Err(mut reason) => {
            reason.truncate(LONGEST_REASON);
            return within(stall, async {
                sender.write(&[NOT_HERE]).await?;
                sender.write(reason.as_bytes()).await?;
                sender.finish()
            })
            .await;
        }
    };
    within(stall, sender.write(&[HERE])).await?;
    for start in (0..bytes.len()).step_by(CHUNK) {
        let chunk = bytes.slice(start..bytes.len().min(start + CHUNK));
        within(stall, sender.write_bytes(chunk)).await?;
    }
    drop(bytes);
    let mut answer = [0];
    // What QUIC still holds of the object travels before the peer can answer.
    let draining = Duration::from_secs(len.min(MOST_BUFFERED) / SLOWEST_LINK);
    within(stall + draining, receiver.read_exact(&mut answer)).await?;
    if answer != [ACKNOWLEDGED] {
        return Err(format!("the peer answered {}, which means nothing", answer[0]));
    }
    serving.acknowledged.store(true, Ordering::Release);
    // The peer keeps stream and connection until it sees this end: finished earlier, its word could be lost with them.
    sender.finish().map_err(|e| e.to_string())
}
