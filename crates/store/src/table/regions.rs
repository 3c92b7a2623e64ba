//! Which places processes keep as [regions](crate::region), and when they are wanted back.
//!
//! In whose hand a region is stands on the board, which the table does not see: it says what is to be done there, and
//! hears that a region is free. Whoever carries its effects out tells it that within the same lock, and then that time has
//! passed, so that it goes on where a region that was wanted is not free yet.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Effect, Table};
use crate::error::StoreError;
use crate::object::Receiver;
use crate::pool::Place;
use crate::protocol::Reply;
use crate::region::{MAX_KEPT, SLOTS, size_for};

/// Of the store's capacity, what one process may keep: one in so many bytes.
const SHARE: u64 = 8;
/// How often somebody looks for regions that are not used, or whose message nobody opens, at least.
const LOOK: Duration = Duration::from_secs(5);

/// All regions, by slot.
#[derive(Debug, Default)]
pub(super) struct Regions {
    kept: BTreeMap<u32, Region>,
    next_look: Option<Duration>,
}

#[derive(Debug)]
struct Region {
    keeper: u64,
    place: Place,
    wanted: bool,
    /// When its keeper ended.
    orphaned: Option<Duration>,
}

/// A region that is to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Looked {
    pub slot: u32,
    /// When its keeper ended, if it did.
    pub orphaned: Option<Duration>,
}

impl Regions {
    pub fn next_look(&self) -> Option<Duration> {
        self.next_look
    }

    /// Slots and places of all.
    pub fn all(&self) -> impl Iterator<Item = (u32, Place)> {
        self.kept.iter().map(|(&slot, region)| (slot, region.place))
    }

    fn free_slot(&self) -> Option<u32> {
        (0..SLOTS).find(|slot| !self.kept.contains_key(slot))
    }
}

impl Table {
    /// Gives `holder` a region for messages of `len` bytes, if there is room now and nobody waits for any.
    pub(super) fn keep(&mut self, holder: u64, len: u64, effects: &mut Vec<Effect>) -> Reply {
        let limit = |what: &str, limit| Reply::Failed(StoreError::Limit { holder, what: what.into(), limit });
        let Some(size) = size_for(len) else {
            return Reply::Failed(StoreError::Invalid(format!("{len} bytes are too many for a region")));
        };
        let its = self.regions.kept.values().filter(|region| region.keeper == holder);
        let (count, bytes) = its.fold((0, 0), |(count, bytes), region| (count + 1, bytes + region.place.len));
        let share = self.pool.capacity() / SHARE;
        if count >= MAX_KEPT {
            return limit("regions", MAX_KEPT as u64);
        }
        if bytes + self.pool.footprint(size) > share {
            return limit("bytes of regions", share);
        }
        let Some(slot) = self.regions.free_slot() else { return limit("regions", u64::from(SLOTS)) };
        let place = if self.room.len() == 0 { self.pool.allocate(size) } else { None };
        let Some(place) = place else { return Reply::Failed(self.full(size, Duration::ZERO)) };
        let region = Region { keeper: holder, place, wanted: false, orphaned: None };
        self.regions.kept.insert(slot, region);
        self.regions.next_look.get_or_insert(self.now + LOOK.min(self.options.rules.orphaned));
        effects.push(Effect::GiveRegion { slot, place });
        Reply::Kept { slot, place }
    }

    /// Somebody waits for room: wants all regions back. Returns whether it has just begun to.
    pub(super) fn want_regions(&mut self, effects: &mut Vec<Effect>) -> bool {
        let before = effects.len();
        for (&slot, region) in self.regions.kept.iter_mut().filter(|(_, region)| !region.wanted) {
            region.wanted = true;
            effects.push(Effect::WantRegion { slot, keeper_has_ended: false });
        }
        effects.len() > before
    }

    /// Nobody has used the region for a while.
    pub(super) fn region_idle(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        if let Some(region) = self.regions.kept.get_mut(&slot).filter(|region| !region.wanted) {
            region.wanted = true;
            effects.push(Effect::WantRegion { slot, keeper_has_ended: false });
        }
    }

    /// A process says that a region is free. The board tells whether that is so.
    pub(super) fn region_told_free(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        if let Some(region) = self.regions.kept.get(&slot).filter(|region| region.wanted) {
            effects.push(Effect::WantRegion { slot, keeper_has_ended: region.orphaned.is_some() });
        }
    }

    /// The agent has it.
    pub(super) fn region_free(&mut self, slot: u32) {
        if let Some(region) = self.regions.kept.remove(&slot) {
            self.pool.release(region.place);
        }
        if self.regions.kept.is_empty() {
            self.regions.next_look = None;
        }
    }

    /// A process of this node has ended, or was never attached here: those that it was sent are free.
    pub(super) fn regions_to_gone(&mut self, receiver: &Receiver, effects: &mut Vec<Effect>) {
        let lives = self.holders.contains_key(&receiver.process);
        if receiver.node == self.options.node && !lives && !self.regions.kept.is_empty() {
            let slots = self.regions.kept.keys().copied().collect();
            effects.push(Effect::RegionReceiverGone { receiver: receiver.process, slots });
        }
    }

    /// Those that it kept are wanted, and those that it was sent are free.
    pub(super) fn regions_of_gone(&mut self, holder: u64, effects: &mut Vec<Effect>) {
        if self.regions.kept.is_empty() {
            return;
        }
        let slots = self.regions.kept.keys().copied().collect();
        effects.push(Effect::RegionReceiverGone { receiver: holder, slots });
        for (&slot, region) in self.regions.kept.iter_mut().filter(|(_, region)| region.keeper == holder) {
            region.wanted = true;
            region.orphaned = Some(self.now);
            effects.push(Effect::WantRegion { slot, keeper_has_ended: true });
        }
    }

    pub(super) fn look_at_regions(&mut self, effects: &mut Vec<Effect>) {
        if self.regions.next_look.is_none_or(|at| at > self.now) {
            return;
        }
        self.regions.next_look = Some(self.now + LOOK.min(self.options.rules.orphaned));
        let looked = |(&slot, region): (&u32, &Region)| Looked { slot, orphaned: region.orphaned };
        effects.push(Effect::LookAtRegions(self.regions.kept.iter().map(looked).collect()));
    }
}
