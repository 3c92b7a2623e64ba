//! A table and a model of the agent around it, which checks T1, T2, T3 and T5 to T9 after every event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::super::*;
use super::{PAGE, RULES, table};
use crate::memory::Words;
use crate::object::{ObjectRef, Receiver};
use crate::region::{BOARD_BYTES, Board, Hand, Use};

/// A table and what an agent and its processes would know of it.
pub(super) struct World {
    pub(super) table: Table,
    pub(super) now: Duration,
    pub(super) last_number: u64,
    /// Asks without an answer: (holder, number).
    pub(super) open_asks: BTreeSet<(u64, u64)>,
    /// What is to be opened.
    wanted: BTreeMap<u64, ObjectId>,
    pub(super) holders: BTreeSet<u64>,
    pub(super) writing: Vec<(u64, ObjectId)>,
    pub(super) leases: Vec<(u64, ObjectId)>,
    /// Where a holder was told that an object is.
    told: BTreeMap<(u64, ObjectId), Place>,
    pub(super) references: Vec<ObjectRef>,
    pub(super) fetches: BTreeMap<u64, (ObjectId, Place)>,
    pub(super) stopped: BTreeSet<u64>,
    /// Serve, ticket.
    pub(super) servings: Vec<(u64, u64)>,
    /// What peers are sent from memory.
    sent: BTreeMap<u64, (ObjectId, Place)>,
    pub(super) serves: u64,
    /// Files that are being written, those that are, and those that are being read.
    pub(super) spilling: BTreeMap<u64, (ObjectId, Place)>,
    pub(super) files: BTreeSet<u64>,
    pub(super) restoring: BTreeMap<u64, (ObjectId, Place)>,
    /// In whose hand each region is, and who keeps which, as they were told.
    pub(super) board: Board,
    pub(super) kept: Vec<(u64, u32, Use)>,
    pub(super) written: Vec<(u64, u32, Use)>,
    /// Slot, receiver and ticket.
    pub(super) mailed: Vec<(u32, u64, u64)>,
    pub(super) read: Vec<(u64, u32, Use)>,
    /// What each region in somebody's hand is the place of.
    pub(super) regions: BTreeMap<u32, Place>,
    pub(super) replies: Vec<(u64, u64, Reply)>,
    pub(super) effects: Vec<Effect>,
}

/// One of those less.
fn give_up(all: &mut Vec<(u64, ObjectId)>, one: (u64, ObjectId)) {
    if let Some(index) = all.iter().position(|other| *other == one) {
        all.swap_remove(index);
    }
}

/// A process of this node as the one that a reference is for.
pub(super) fn here(process: u64) -> Receiver {
    Receiver { node: "here".into(), process }
}

impl World {
    /// Two segments of so many pages, and a disk for twelve.
    pub(super) fn new(pages: u64) -> World {
        World::with_disk(pages, 12)
    }

    pub(super) fn with_disk(pages: u64, disk: u64) -> World {
        World {
            table: table("here", &[pages * PAGE, pages * PAGE], disk * PAGE),
            now: Duration::ZERO,
            last_number: 0,
            open_asks: BTreeSet::new(),
            wanted: BTreeMap::new(),
            holders: BTreeSet::new(),
            writing: Vec::new(),
            leases: Vec::new(),
            told: BTreeMap::new(),
            references: Vec::new(),
            fetches: BTreeMap::new(),
            stopped: BTreeSet::new(),
            servings: Vec::new(),
            sent: BTreeMap::new(),
            serves: 0,
            spilling: BTreeMap::new(),
            files: BTreeSet::new(),
            restoring: BTreeMap::new(),
            board: Board::new(Words::create("test-board", BOARD_BYTES).unwrap().0).unwrap(),
            kept: Vec::new(),
            written: Vec::new(),
            mailed: Vec::new(),
            read: Vec::new(),
            regions: BTreeMap::new(),
            replies: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// As the agent does: an event, and those that come of its effects.
    pub(super) fn apply(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if matches!(event, Event::RegionFree { .. }) && events.is_empty() {
                events.push_back(Event::Tick);
            }
            self.apply_one(event, &mut events);
        }
        self.check();
    }

    fn apply_one(&mut self, event: Event, events: &mut VecDeque<Event>) {
        match &event {
            Event::RegionFree { slot } => drop(self.regions.remove(slot)),
            Event::Spilled { spill, .. } => {
                self.spilling.remove(spill);
                self.files.insert(*spill);
            }
            Event::SpillFailed { spill, .. } => drop(self.spilling.remove(spill)),
            Event::Restored { spill, .. } | Event::RestoreFailed { spill, .. } => {
                self.restoring.remove(spill);
            }
            Event::FetchLanded { fetch, .. } | Event::FetchFailed { fetch, .. } => {
                self.fetches.remove(fetch);
            }
            Event::ServeEnded { serve, .. } => drop(self.sent.remove(serve)),
            Event::Told { holder, tell: Tell::Release { id } } => give_up(&mut self.leases, (*holder, *id)),
            Event::Told { holder, tell: Tell::Abandon { id } } => give_up(&mut self.writing, (*holder, *id)),
            Event::Asked { holder, ask: Ask::Send { id, .. }, .. } => {
                give_up(&mut self.writing, (*holder, *id));
            }
            Event::Asked { holder, ask: Ask::Seal { id }, .. } => {
                give_up(&mut self.writing, (*holder, *id));
                self.leases.push((*holder, *id));
            }
            _ => {}
        }
        for effect in self.table.apply(event, self.now) {
            self.effects.push(effect.clone());
            self.carry_out(effect, events);
        }
    }

    fn carry_out(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Reply { holder, number, reply } => {
                assert!(
                    self.open_asks.remove(&(holder, number)),
                    "T5: an answer too many to {holder}/{number}"
                );
                match &reply {
                    Reply::Created { id, place } => {
                        self.writing.push((holder, *id));
                        self.told.insert((holder, *id), *place);
                    }
                    Reply::Opened { place } => {
                        let id = self.wanted[&number];
                        self.leases.push((holder, id));
                        self.told.insert((holder, id), *place);
                    }
                    Reply::Failed(error) => {
                        let in_words = error.to_string();
                        assert!(!in_words.is_empty());
                    }
                    Reply::Kept { slot, place } => {
                        assert_eq!(self.regions.get(slot), Some(place), "it was given before");
                        self.kept.retain(|(_, known, _)| known != slot);
                        self.kept.push((holder, *slot, self.board.state(*slot).of()));
                    }
                    Reply::Sealed | Reply::Shared { .. } | Reply::Segment { .. } => {}
                }
                self.replies.push((holder, number, reply));
            }
            Effect::StartFetch { fetch, id, place, .. } => {
                assert!(self.fetches.insert(fetch, (id, place)).is_none());
            }
            Effect::GiveRegion { slot, place } => {
                assert!(self.regions.insert(slot, place).is_none(), "T7: region {slot} is in use");
                self.board.give(slot, place);
            }
            Effect::WantRegion { slot, keeper_has_ended } => {
                if self.board.want(slot, keeper_has_ended) {
                    events.push_front(Event::RegionFree { slot });
                } else if events.is_empty() {
                    events.push_back(Event::Tick);
                }
            }
            Effect::RegionReceiverGone { receiver, slots } => {
                let free = |&slot: &u32| self.board.receiver_has_ended(slot, receiver);
                events.extend(slots.into_iter().filter(free).map(|slot| Event::RegionFree { slot }));
            }
            Effect::LookAtRegions(regions) => {
                // As if each had been as it is for long enough.
                for Looked { slot, orphaned } in regions {
                    let state = self.board.state(slot);
                    if orphaned.is_some_and(|at| self.now >= at + RULES.orphaned) {
                        let free = self.board.expire(slot, state);
                        events.extend(free.then_some(Event::RegionFree { slot }));
                    } else if state.is_agents() {
                        events.push_back(Event::RegionFree { slot });
                    } else if state.hand() == Some(Hand::Free) {
                        events.push_back(Event::RegionIdle { slot });
                    }
                }
            }
            Effect::StopFetch { fetch } => {
                assert!(self.fetches.contains_key(&fetch));
                self.stopped.insert(fetch);
            }
            Effect::Condemn { reason, .. } => panic!("a well-behaved process was condemned: {reason}"),
            Effect::Acknowledge { .. } => {}
            Effect::Served { serve, served } => match served {
                Served::Memory(place) => {
                    let id = self.table.objects.iter().find(|(_, entry)| entry.place == Some(place));
                    let (&id, _) = id.expect("T7: a place that is an object's");
                    self.sent.insert(serve, (id, place));
                }
                Served::Disk { spill, .. } => {
                    assert!(self.files.contains(&spill), "T8: a file that is there")
                }
                Served::Elsewhere(_) | Served::Refused(_) => self.servings.retain(|(s, _)| *s != serve),
            },
            Effect::Spill { spill, id, place } => {
                assert!(self.spilling.insert(spill, (id, place)).is_none());
            }
            Effect::Restore { spill, id, place } => {
                assert!(self.files.contains(&spill), "T8: what is read was written");
                assert!(self.restoring.insert(spill, (id, place)).is_none());
            }
            Effect::DropSpill { spill } => {
                assert!(self.files.remove(&spill), "T8: a file is deleted once, when it is written");
                assert!(!self.restoring.contains_key(&spill), "T8: and not while it is read back");
            }
        }
    }

    pub(super) fn ask(&mut self, holder: u64, ask: Ask) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        if let Ask::Open { reference, .. } = &ask {
            self.wanted.insert(number, reference.id);
        }
        if self.holders.contains(&holder) {
            self.open_asks.insert((holder, number));
        }
        self.apply(Event::Asked { holder, number, ask, fresh: 1_000_000 + number });
        number
    }

    pub(super) fn reply(&self, number: u64) -> Option<Reply> {
        self.replies.iter().find(|(_, n, _)| *n == number).map(|(_, _, reply)| reply.clone())
    }

    pub(super) fn attach(&mut self, holder: u64) {
        self.holders.insert(holder);
        self.apply(Event::Attached { holder });
    }

    pub(super) fn gone(&mut self, holder: u64) {
        self.holders.remove(&holder);
        self.open_asks.retain(|(h, _)| *h != holder);
        self.writing.retain(|(h, _)| *h != holder);
        self.leases.retain(|(h, _)| *h != holder);
        self.kept.retain(|(h, ..)| *h != holder);
        self.written.retain(|(h, ..)| *h != holder);
        self.read.retain(|(h, ..)| *h != holder);
        self.apply(Event::HolderGone { holder });
    }

    /// What a process says when it has freed a region.
    pub(super) fn freed(&mut self, holder: u64, slot: u32, tell: crate::region::Tell) {
        if tell.0 {
            self.apply(Event::Told { holder, tell: Tell::Freed { slot } });
        }
    }

    /// A peer wants the object of a reference.
    pub(super) fn serve(&mut self, reference: &ObjectRef, peer: &str, insists: bool) -> u64 {
        self.serves += 1;
        let serve = self.serves;
        self.servings.push((serve, reference.ticket));
        self.apply(Event::Serve { serve, id: reference.id, peer: peer.into(), insists });
        serve
    }

    /// What a peer was told.
    pub(super) fn served(&self, serve: u64) -> Option<Served> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Served { serve: of, served } if *of == serve => Some(served.clone()),
            _ => None,
        })
    }

    /// Lets all that is on its way to disk get there.
    pub(super) fn spill_all(&mut self) {
        while let Some((&spill, &(id, _))) = self.spilling.first_key_value() {
            self.apply(Event::Spilled { spill, id });
        }
    }

    /// Creates and seals, for the examples.
    pub(super) fn object(&mut self, holder: u64, len: u64) -> ObjectId {
        let number = self.ask(holder, Ask::Create { len, wait_ms: 0 });
        let Some(Reply::Created { id, .. }) = self.reply(number) else {
            panic!("no room: {:?}", self.replies)
        };
        let sealed = self.ask(holder, Ask::Seal { id });
        assert_eq!(self.reply(sealed), Some(Reply::Sealed));
        id
    }

    pub(super) fn share(&mut self, holder: u64, id: ObjectId, receiver: Option<u64>) -> ObjectRef {
        let receiver = receiver.map(here);
        self.shared(holder, id, Ask::Share { id, receiver })
    }

    /// The reference that `ask` brings.
    pub(super) fn shared(&mut self, holder: u64, id: ObjectId, ask: Ask) -> ObjectRef {
        let number = self.ask(holder, ask);
        let Some(Reply::Shared { ticket }) = self.reply(number) else { panic!("{:?}", self.reply(number)) };
        ObjectRef { id, node: "here".into(), len: self.table.objects[&id].len, ticket }
    }

    pub(super) fn open(&mut self, holder: u64, reference: &ObjectRef) -> Option<Reply> {
        let number = self.ask(holder, Ask::Open { reference: reference.clone(), wait_ms: 1000 });
        self.reply(number)
    }

    pub(super) fn in_use(&self) -> u64 {
        self.table.usage().bytes_in_use
    }

    fn check(&self) {
        self.check_references();
        self.check_places();
        self.check_disk();
        let (table, room) = (&self.table, &self.table.room);
        if let Some(first) = room.queue.front() {
            assert!(!table.pool.fits(first.len), "T6: the first in the queue would fit");
            let may_go = |(idle, id): &(room::Idle, ObjectId)| {
                table.may_go(*idle, *id).is_some_and(|at| at <= self.now)
            };
            let moving = table.disk.coming > 0 || !room.idle.iter().any(may_go);
            assert!(moving, "T6: something may go to disk and nothing does");
        }
        let restores = |queued: &room::Queued| matches!(queued.demand, room::Demand::Restore { .. });
        assert!(room.queue.iter().is_sorted_by_key(|queued| !restores(queued)), "T6: restores go first");
        let waiting: usize = table.holders.values().map(|state| state.waiting.len()).sum();
        assert_eq!(waiting, self.open_asks.len(), "T5: each ask is answered or waits");
    }

    fn check_references(&self) {
        let table = &self.table;
        let mut expected: BTreeMap<ObjectId, u64> = table.transit.per_object();
        let mut open = BTreeMap::<ObjectId, u64>::new();
        for state in table.holders.values() {
            assert_eq!(state.leases.values().sum::<u64>(), state.lease_count);
            for (&id, &count) in &state.leases {
                *expected.entry(id).or_default() += count;
                *open.entry(id).or_default() += count;
            }
        }
        for (id, (asked, served)) in table.serves.per_object() {
            *expected.entry(id).or_default() += asked;
            *open.entry(id).or_default() += served;
            let shared = table.objects[&id].len >= SHARED_FROM;
            assert!(!shared || served as usize <= MAX_UPLOADS, "T9: {id} goes to {served}");
        }
        for (id, entry) in &table.objects {
            let references = expected.remove(id).unwrap_or(0);
            assert_eq!(entry.references, references, "T1: {id}");
            assert_eq!(entry.open, open.remove(id).unwrap_or(0), "T1: {id}");
            let sealed = !matches!(entry.state, State::Writing { .. } | State::Arriving(_));
            let moving = matches!(entry.state, State::Spilling { .. } | State::Restoring(_));
            assert!(!sealed || moving || references > 0, "T3: {id}");
            assert!(sealed || references == 0, "T1: a reference to {id}, which is not sealed");
            let idle = matches!(entry.state, State::Sealed) && entry.open == 0;
            assert_eq!(entry.idle.is_some(), idle, "{id}");
            assert!(entry.idle.is_none_or(|idle| table.room.idle.contains(&(idle, *id))), "{id}");
        }
        assert!(expected.is_empty(), "T1: references to what is not there: {expected:?}");
        assert_eq!(table.room.idle.len(), table.objects.values().filter(|e| e.idle.is_some()).count());
    }

    fn check_places(&self) {
        let table = &self.table;
        let placed = table.objects.values().filter_map(|entry| entry.place);
        let regions = self.regions.values().copied();
        let used: u64 = placed.chain(regions).map(|place| table.pool.footprint(place.len)).sum();
        assert_eq!(used, table.pool.used(), "T2");
        let known: BTreeMap<_, _> = table.regions().collect();
        assert_eq!(known, self.regions, "T7: nobody else has the place of a region");
        for (_, slot, of) in self.written.iter().chain(&self.read) {
            assert!(self.regions.contains_key(slot), "T7: region {slot} is in a hand");
            assert_eq!(self.board.state(*slot).of(), *of, "R1: region {slot}");
        }
        let by_processes = self.writing.iter().chain(&self.leases).map(|at| (at.1, self.told[at]));
        let moved = [&self.fetches, &self.sent, &self.spilling, &self.restoring];
        for (id, place) in by_processes.chain(moved.into_iter().flat_map(|map| map.values().copied())) {
            let at = table.objects.get(&id).and_then(|entry| entry.place);
            assert_eq!(at, Some(place), "T7: {id} is in use where it was");
        }
    }

    fn check_disk(&self) {
        let table = &self.table;
        let (mut used, mut coming, mut files) = (0, 0, BTreeSet::new());
        for entry in table.objects.values() {
            let footprint = table.pool.footprint(entry.len);
            match &entry.state {
                State::Spilling { .. } => (used, coming) = (used + footprint, coming + footprint),
                State::OnDisk { spill } | State::Restoring(disk::Restoring { spill, .. }) => {
                    used += footprint;
                    files.insert(*spill);
                }
                _ => {}
            }
        }
        assert_eq!((table.disk.used, table.disk.coming), (used, coming), "T8");
        assert!(table.disk.has_room(0, true), "T8: no more than may be");
        assert_eq!(self.files, files, "T8");
    }
}
