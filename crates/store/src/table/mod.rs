//! Who holds which object: the store's decisions as a pure state machine.
//!
//! [`Table::apply`] takes one event and the time and returns effects; it does no I/O, reads no clock and draws no random
//! number. The agent's threads feed it and carry its effects out. Holders are processes of this node, named by their
//! incarnation. An object is *writing* (its creator alone has it), *arriving* (fetched from another node) or *sealed*.
//! A sealed one that nobody has open may go to disk when room is wanted, and is *restored* when somebody opens it.
//!
//! Invariants, held by the property tests in `tests`:
//! - **T1** a sealed object's references are its holders' leases, its leases in transit and the peers it is being
//!   served to or that wait for that, and nothing else;
//! - **T2** bytes in use are those of the objects in the table that have a place in memory, and of regions;
//! - **T3** a sealed object without references does not exist: it was freed in the same event, or, where its bytes are
//!   on their way between memory and disk, with the end of that;
//! - **T4** when every holder is gone, every fetch, serving, spill and restoring has ended and the transit rules' times
//!   have passed, nothing is in use, in memory and on disk;
//! - **T5** each ask is answered exactly once, unless its holder has gone;
//! - **T6** nobody waits for room while the first in the queue would fit, or while something may go to disk and nothing
//!   does; and nobody overtakes the first (fair), except that who waits to read an object back from disk goes before who
//!   makes or fetches one: what is read back is on its way to be used and freed;
//! - **T7** a place is given to nobody else while a process has the object there open or writes it, a peer is sent it,
//!   a fetch or a restoring writes to it, or it is being written to disk; nor while it is a region in anybody's hand;
//! - **T8** no more bytes are on disk than may be, the agent has a file for each of them, and no file outlives its
//!   object;
//! - **T9** an object of `SHARED_FROM` bytes or more is sent to `MAX_UPLOADS` peers at a time at most.

mod disk;
mod events;
mod fetches;
mod gone;
mod regions;
mod requests;
mod room;
mod serves;
#[cfg(test)]
mod tests;
mod transit;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) use self::events::{Effect, Event, Served, TableOptions};
use self::gone::{Ending, Gone};
pub(crate) use self::regions::Looked;
#[cfg(test)]
use self::serves::{MAX_UPLOADS, SHARED_FROM};
use crate::error::Loss;
use crate::moment::Moment;
use crate::node::Usage;
use crate::object::ObjectId;
use crate::pool::{Place, Pool};
use crate::protocol::Reply;
#[cfg(test)]
use crate::protocol::{Ask, Tell};

/// Leases that one process may have (L2).
pub(crate) const MAX_LEASES: u64 = 65_536;
/// Leases in transit that one process may have under way (L2).
pub(crate) const MAX_TRANSIT: u64 = 16_384;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Table {
    options: TableOptions,
    now: Duration,
    pool: Pool,
    objects: BTreeMap<ObjectId, Entry>,
    holders: BTreeMap<u64, HolderState>,
    serves: serves::Serves,
    transit: transit::TransitLeases,
    regions: regions::Regions,
    room: room::Room,
    disk: disk::Disk,
    gone: Gone,
    last_sequence: u64,
    last_fetch: u64,
}

#[derive(Debug)]
struct Entry {
    len: u64,
    /// Absent while the object waits for room, and while it is on disk.
    place: Option<Place>,
    state: State,
    /// Leases of holders, leases in transit, servings under way or waiting (T1).
    references: u64,
    /// Those of them that have the bytes open: leases of holders, and servings under way.
    open: u64,
    /// Its place in the order in which objects go to disk; absent where it must not.
    idle: Option<room::Idle>,
}

#[derive(Debug)]
enum State {
    Writing {
        creator: u64,
    },
    Arriving(fetches::Arriving),
    Sealed,
    /// Sealed, and being written to disk.
    Spilling {
        spill: u64,
    },
    /// Sealed, and in a file alone.
    OnDisk {
        spill: u64,
    },
    /// Sealed, in a file, and somebody wants to open it.
    Restoring(disk::Restoring),
}

#[derive(Debug, Default)]
struct HolderState {
    /// object -> count
    leases: BTreeMap<ObjectId, u64>,
    lease_count: u64,
    writing: BTreeSet<ObjectId>,
    /// Asks not answered yet: number -> what they wait for.
    waiting: BTreeMap<u64, WaitsFor>,
}

#[derive(Debug, Clone, Copy)]
enum WaitsFor {
    Room,
    Arrival(ObjectId),
}

impl Entry {
    fn new(len: u64, place: Option<Place>, state: State) -> Entry {
        Entry { len, place, state, references: 0, open: 0, idle: None }
    }
}

impl Table {
    pub fn new(options: TableOptions, pool: Pool) -> Table {
        Table {
            disk: disk::Disk::new(options.spill_bytes, pool.capacity()),
            options,
            now: Duration::ZERO,
            pool,
            objects: BTreeMap::new(),
            holders: BTreeMap::new(),
            serves: serves::Serves::default(),
            transit: transit::TransitLeases::default(),
            regions: regions::Regions::default(),
            room: room::Room::default(),
            gone: Gone::default(),
            last_sequence: 0,
            last_fetch: 0,
        }
    }

    /// Takes one event at `now` (time since the store began, never going back) and says what is to be done.
    pub fn apply(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        self.now = now;
        let mut effects = Vec::new();
        // Others may be about to be free: nothing goes to disk before time has passed too.
        let settling = matches!(event, Event::RegionFree { .. });
        self.expire(&mut effects);
        self.look_at_regions(&mut effects);
        match event {
            Event::Attached { holder } => {
                self.holders.entry(holder).or_default();
            }
            Event::Asked { holder, number, ask, fresh } => {
                self.asked(holder, number, ask, fresh, &mut effects);
            }
            Event::Told { holder, tell } => self.told(holder, tell, &mut effects),
            Event::HolderGone { holder } => self.holder_gone(holder, &mut effects),
            Event::ReceiverGone { receiver } => {
                self.transit_to_gone(&receiver);
                self.regions_to_gone(&receiver, &mut effects);
            }
            Event::FetchLanded { fetch, id } => self.fetch_landed(fetch, id, &mut effects),
            Event::FetchFailed { fetch, id, loss } => self.fetch_failed(fetch, id, &loss, &mut effects),
            Event::Serve { serve, id, peer, insists } => self.serve(serve, id, peer, insists, &mut effects),
            Event::ServeEnded { serve, ticket, acknowledged } => {
                self.serve_ended(serve, ticket, acknowledged, &mut effects);
            }
            Event::Acknowledged { id, ticket, peer } => {
                self.peer_has_it(id, &peer);
                self.end_transit(id, ticket, Ending::Released);
                self.serve_those_who_wait(&mut effects);
            }
            Event::Spilled { spill, id } => self.spilled(spill, id),
            Event::SpillFailed { spill, id, reason } => self.spill_failed(spill, id, reason),
            Event::Restored { spill, id } => self.restored(spill, id, &mut effects),
            Event::RestoreFailed { spill, id, reason } => {
                self.restore_failed(spill, id, &reason, &mut effects)
            }
            Event::RegionFree { slot } => self.region_free(slot),
            Event::RegionIdle { slot } => self.region_idle(slot, &mut effects),
            Event::Tick => {}
        }
        if settling {
            self.admit_what_fits(&mut effects);
        } else {
            self.admit(&mut effects);
        }
        effects.extend(self.disk.dropped.drain(..).map(|spill| Effect::DropSpill { spill }));
        effects
    }

    /// When [`apply`](Self::apply) has something to do if nothing else happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let next = [
            self.transit.next_expiry(),
            self.regions.next_look(),
            self.room.next_deadline(),
            self.next_spill(),
        ];
        next.into_iter().flatten().min()
    }

    /// Slots and places of the regions that processes keep.
    pub fn regions(&self) -> impl Iterator<Item = (u32, Place)> {
        self.regions.all()
    }

    /// As far as the table knows: in whose hand a region is stands on the board.
    pub fn usage(&self) -> Usage {
        Usage {
            capacity_bytes: self.pool.capacity(),
            bytes_in_use: self.pool.used(),
            bytes_kept: 0,
            bytes_on_disk: self.disk.used,
            objects: self.objects.len() as u64,
            leases: self.holders.values().map(|h| h.lease_count).sum(),
            in_transit: self.transit.len(),
            waiting: self.room.len(),
        }
    }

    fn moment(&self) -> Moment {
        self.options.began.after(self.now)
    }

    fn lost_now(&self, reason: impl Into<String>) -> Loss {
        Loss { when: self.moment(), reason: reason.into() }
    }

    /// Answers an ask that waited; an ask whose holder has gone needs no answer (T5).
    fn answer(&mut self, holder: u64, number: u64, reply: Reply, effects: &mut Vec<Effect>) {
        if let Some(state) = self.holders.get_mut(&holder)
            && state.waiting.remove(&number).is_some()
        {
            effects.push(Effect::Reply { holder, number, reply });
        }
    }

    /// One lease more for a holder; `false` where the holder has gone.
    fn grant_lease(&mut self, holder: u64, id: ObjectId) -> bool {
        let (Some(state), Some(entry)) = (self.holders.get_mut(&holder), self.objects.get_mut(&id)) else {
            return false;
        };
        *state.leases.entry(id).or_default() += 1;
        state.lease_count += 1;
        entry.references += 1;
        entry.open += 1;
        self.note_use(id);
        true
    }

    /// Takes `count` references that have the bytes open off a sealed object.
    fn close(&mut self, id: ObjectId, count: u64, ending: Ending) {
        if let Some(entry) = self.objects.get_mut(&id) {
            entry.open = entry.open.saturating_sub(count);
            self.note_use(id);
        }
        self.drop_references(id, count, ending);
    }

    /// Takes `count` references off a sealed object and frees it with the last one (T3).
    fn drop_references(&mut self, id: ObjectId, count: u64, ending: Ending) {
        let Some(entry) = self.objects.get_mut(&id) else { return };
        entry.references = entry.references.saturating_sub(count);
        self.free_if_unused(id, ending);
    }

    fn free_if_unused(&mut self, id: ObjectId, ending: Ending) {
        if let Some(Entry { references: 0, state: State::Sealed | State::OnDisk { .. }, .. }) =
            self.objects.get(&id)
        {
            self.free(id, ending);
        }
    }

    fn free(&mut self, id: ObjectId, ending: Ending) {
        let Some(entry) = self.objects.remove(&id) else { return };
        self.forget_idle(id, entry.idle);
        self.serves.forget(id);
        if let Some(place) = entry.place {
            self.pool.release(place);
        }
        match entry.state {
            State::OnDisk { spill } => self.drop_file(spill, entry.len),
            State::Restoring(restoring) => self.drop_file(restoring.spill, entry.len),
            State::Writing { .. } | State::Arriving(_) | State::Sealed | State::Spilling { .. } => {}
        }
        self.gone.note(id, ending, self.now);
    }
}
