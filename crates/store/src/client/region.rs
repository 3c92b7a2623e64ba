//! The regions that this process keeps, and those that others sent to it: see [`crate::region`].

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::link::{Granted, Then};
use super::{Client, StoreClient};
use crate::error::{Loss, Result, StoreError};
use crate::memory::{Mapping, OwnedBytes, SealedBytes};
use crate::object::ObjectId;
use crate::pool::Place;
use crate::protocol::{Ask, Tell};
use crate::region::{Taken, Use, size_for};

/// After the agent has refused a region it is not asked for another one for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// A reference to a message in a region, to be sent to its receiver. Plain data: it archives with rkyv.
///
/// It is worth one [`open_region`](StoreClient::open_region), by the process that it was [sent](RegionWriter::send_to) to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct RegionRef {
    /// The incarnation of the node store whose region it is.
    pub origin: u64,
    /// Which region.
    pub slot: u32,
    /// A number that only the sender and the receiver know.
    pub ticket: u64,
}

/// Those that this process keeps.
#[derive(Debug, Default)]
pub(super) struct Kept {
    regions: Mutex<Regions>,
    last_ticket: AtomicU64,
    secret: RandomState,
}

#[derive(Debug, Default)]
struct Regions {
    /// By size: the smallest that holds a message serves for it, and of those the one that has served longest, whose pages
    /// are in use already. At most as many as the agent gives.
    all: Vec<Region>,
    /// When the agent refused one.
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Region {
    slot: u32,
    place: Place,
    mapping: Arc<Mapping>,
    last: Use,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Regions> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(&self) -> u64 {
        // SipHash under a key that only this process has: nobody guesses another's ticket.
        self.secret.hash_one(self.last_ticket.fetch_add(1, Ordering::Relaxed))
    }
}

impl Client {
    /// One more region, which the agent has just given.
    pub(super) fn add_region(&self, slot: u32, place: Place, mapping: Arc<Mapping>, last: Use) -> Result<()> {
        // They stay open for writing in this process: see `RegionWriter`.
        mapping.protect(place, true)?;
        let mut regions = self.kept.lock();
        // What this process knew by that slot is the agent's again.
        regions.all.retain(|region| region.slot != slot);
        let at = regions.all.partition_point(|region| region.place.len <= place.len);
        regions.all.insert(at, Region { slot, place, mapping, last });
        Ok(())
    }
}

impl StoreClient {
    /// A region for a message of `len` bytes, out of those that this process keeps; `None` where none is free.
    pub fn region(&self, len: usize) -> Option<RegionWriter> {
        let wanted = size_for(len as u64)?;
        let (link, kept) = (&self.client.link, &self.client.kept);
        if link.has_ended() {
            return None;
        }
        let (mut regions, mut taken) = (kept.lock(), None);
        let mut gone = Vec::new();
        for (index, region) in regions.all.iter_mut().enumerate() {
            match link.board.take(region.slot, region.last) {
                Taken::Gone => gone.push(index),
                Taken::Busy => {}
                Taken::Ours(of) if region.place.len >= wanted => {
                    region.last = of;
                    taken = Some((region.slot, region.place, region.mapping.clone(), of));
                    break;
                }
                // Too small: it is free again.
                Taken::Ours(of) => {
                    region.last = of;
                    let tell = link.board.abandon(region.slot, of);
                    link.tell_freed(region.slot, tell);
                }
            }
        }
        for index in gone.into_iter().rev() {
            let Region { place, mapping, .. } = regions.all.remove(index);
            // It was written to by nobody since; failing that, nobody here has a reference to it any more.
            let _ = mapping.protect(place, false);
        }
        drop(regions);
        let (slot, place, mapping, of) = taken?;
        let mut writer = RegionWriter { client: self.client.clone(), slot, of, bytes: None, sent: false };
        writer.bytes = Some(OwnedBytes::new(mapping, place).ok()?);
        Some(writer)
    }

    /// The same; where none is free, asks the agent for one more to keep. `None` where it gives none: then
    /// [`create`](Self::create) may wait for room.
    pub async fn keep_region(&self, len: usize) -> Option<RegionWriter> {
        if let Some(region) = self.region(len) {
            return Some(region);
        }
        let wanted = size_for(len as u64)?;
        if self.client.kept.lock().refused.is_some_and(|refused| refused.elapsed() < PAUSE) {
            return None;
        }
        let ask = Ask::Keep { len: wanted };
        match Client::ask(&self.client, ask, Then::Keep).await {
            Ok(Granted::Done) => self.region(len),
            _ => {
                self.client.kept.lock().refused = Some(Instant::now());
                None
            }
        }
    }

    /// The message that a reference names. The first time in a segment of the store it is mapped, which asks the agent;
    /// else nobody is asked.
    ///
    /// # Errors
    /// [`StoreError::ObjectLost`] when it was given up, or was not sent to this process.
    pub async fn open_region(&self, reference: &RegionRef) -> Result<RegionBytes> {
        let link = &self.client.link;
        let lost = |reason: &str| {
            let id = ObjectId { origin: reference.origin, sequence: u64::from(reference.slot) };
            StoreError::lost(id, &link.node, Loss::now(reason))
        };
        if reference.origin != link.origin {
            return Err(lost("it lies in a region of another node's store, or of an earlier one"));
        }
        let opened = link.board.open(reference.slot, link.holder, reference.ticket);
        let opened = opened.ok_or_else(|| lost("it lay in a region, and was given up"))?;
        // From here on the region is given back, however this ends.
        let mut bytes =
            RegionBytes { client: self.client.clone(), slot: reference.slot, of: opened.of, bytes: None };
        let mapping = match link.mapping(opened.segment, false) {
            Some(mapping) => mapping,
            None => {
                let ask = Ask::Segment { segment: opened.segment };
                Client::ask(&self.client, ask, Then::Map).await?;
                link.mapping(opened.segment, false).ok_or_else(|| lost("its segment cannot be mapped"))?
            }
        };
        let segment_bytes = mapping.bytes() as u64;
        let place = Place { segment: opened.segment, segment_bytes, offset: opened.offset, len: opened.len };
        bytes.bytes = Some(SealedBytes::new(mapping, place)?);
        Ok(bytes)
    }

    /// Gives up a message in a region: its sender will not deliver it, or its receiver will not open it. One that was
    /// opened is left alone.
    pub fn give_up_region(&self, reference: &RegionRef) {
        let link = &self.client.link;
        if reference.origin == link.origin {
            link.tell_freed(reference.slot, link.board.give_up(reference.slot, reference.ticket));
        }
    }
}

/// A message being made in a region: as many bytes as that has, of which the first ones are sent. Dropped, it was not.
///
/// Unlike an object's, its pages stay open for writing in this process, which writes the next message there: that it
/// does not before this one has been read is seen to by Rust's rules alone, not by the page tables too.
pub struct RegionWriter {
    client: Arc<Client>,
    slot: u32,
    of: Use,
    bytes: Option<OwnedBytes>,
    sent: bool,
}

impl RegionWriter {
    /// Sends the first `len` bytes to the process of that incarnation, on this node, and asks nobody.
    ///
    /// # Panics
    /// When the region has fewer.
    pub fn send_to(mut self, receiver: u64, len: usize) -> RegionRef {
        assert!(len <= self.len(), "{len} bytes of {}", self.len());
        self.bytes = None;
        let link = &self.client.link;
        let ticket = self.client.kept.ticket();
        // The agent steps in only when this process has ended.
        self.sent = link.board.send(self.slot, self.of, receiver, ticket, len as u64);
        RegionRef { origin: link.origin, slot: self.slot, ticket }
    }
}

impl Deref for RegionWriter {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], OwnedBytes::as_slice)
    }
}

impl DerefMut for RegionWriter {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut().map_or(&mut [], OwnedBytes::as_mut_slice)
    }
}

impl Drop for RegionWriter {
    fn drop(&mut self) {
        self.bytes = None;
        if !self.sent {
            let link = &self.client.link;
            link.tell_freed(self.slot, link.board.abandon(self.slot, self.of));
        }
    }
}

impl fmt::Debug for RegionWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionWriter(slot {}, {} bytes)", self.slot, self.len())
    }
}

/// A message in a region, open in this process: immutable bytes, mapped read-only. It derefs to them; dropped, it gives
/// the region back to who keeps it.
pub struct RegionBytes {
    client: Arc<Client>,
    slot: u32,
    of: Use,
    bytes: Option<SealedBytes>,
}

impl Deref for RegionBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], SealedBytes::as_slice)
    }
}

impl AsRef<[u8]> for RegionBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for RegionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionBytes(slot {}, {} bytes)", self.slot, self.len())
    }
}

impl Drop for RegionBytes {
    fn drop(&mut self) {
        // First the address, then the right to it.
        self.bytes = None;
        let link = &self.client.link;
        link.tell_freed(self.slot, link.board.release(self.slot, self.of));
    }
}

impl super::link::Link {
    /// Tells the agent that a region is free which it wants.
    fn tell_freed(&self, slot: u32, tell: crate::region::Tell) {
        if tell.0 {
            self.tell(Tell::Freed { slot });
        }
    }
}
