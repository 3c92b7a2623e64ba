//! What processes, and the stores of other nodes, say: given as anything at all, to the parsers and to the table that acts on
//! it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lyceum_fuzz::Fuzz;

use crate::error::{Loss, StoreError};
use crate::moment::Moment;
use crate::node::{TransitRules, Wish};
use crate::object::{ObjectId, ObjectRef, Receiver};
use crate::pool::{Place, Pool};
use crate::protocol::{
    Answer, Ask, MAX_OUTSTANDING, MAX_PACKET, Reply, Request, Tell, decode_answer, decode_request, encode,
};
use crate::table::{Effect, Event, Served, Table, TableOptions};

/// Large, so that there is room for a region.
const PAGE: u64 = 32 << 10;

fn object(sequence: u64) -> ObjectId {
    ObjectId { origin: 5, sequence }
}

fn receiver() -> Receiver {
    Receiver { node: "here".into(), process: 2 }
}

fn reference(sequence: u64, node: &str) -> ObjectRef {
    ObjectRef { id: object(sequence), node: node.into(), len: 3 * PAGE, ticket: 1_000_003 }
}

/// One of each request.
fn requests() -> Vec<Request> {
    let asks = [
        Ask::Create { len: 3 * PAGE, wait_ms: 100 },
        Ask::Create { len: 5, wait_ms: 0 },
        Ask::Seal { id: object(1) },
        Ask::Share { id: object(1), receiver: None },
        Ask::Share { id: object(1), receiver: Some(receiver()) },
        Ask::Send { id: object(2), receiver: receiver() },
        Ask::Open { reference: reference(1, "here"), wait_ms: 10 },
        Ask::Open { reference: reference(9, "a-node-far-away"), wait_ms: 10 },
        Ask::Keep { len: 1 << 20 },
        Ask::Segment { segment: 0 },
    ];
    let tells = [
        Tell::Abandon { id: object(2) },
        Tell::Release { id: object(1) },
        Tell::Revoke { id: object(1), ticket: 1_000_003 },
        Tell::Discard { reference: reference(1, "here") },
        Tell::Discard { reference: reference(9, "a-node-far-away") },
        Tell::Cancel { number: 1 },
        Tell::Freed { slot: 0 },
    ];
    let asks = asks.into_iter().zip(1..).map(|(ask, number)| Request::Ask { number, ask });
    asks.chain(tells.into_iter().map(Request::Tell)).collect()
}

fn request(data: &[u8]) {
    if let Ok(request) = decode_request(data) {
        // What a name takes beyond a packet cannot have come in one.
        let again = encode(&request).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(decode_request(&again).unwrap(), request);
    }
}

#[test]
fn requests_are_read_or_refused() {
    let seeds = requests().iter().map(encode).collect::<Result<Vec<_>, _>>().unwrap();
    Fuzz::new("store request").seeds(seeds).runs(60_000).longest(MAX_PACKET).memory(64 << 10).run(request);
}

fn answer(data: &[u8]) {
    if let Ok(answer) = decode_answer(data) {
        assert_eq!(decode_answer(&encode(&answer).unwrap()).unwrap(), answer);
    }
}

#[test]
fn answers_are_read_or_refused() {
    let place = Place { segment: 1, segment_bytes: 1 << 20, offset: 2 * PAGE, len: 5 };
    let errors = [
        StoreError::lost(object(1), "node-b", Loss::now("it is gone for a reason")),
        StoreError::TooLarge { wanted: 9, largest: 8 },
        StoreError::Full {
            wanted: 1,
            in_use: 2,
            capacity: 3,
            objects: 4,
            held: 5,
            disk: "it is full".into(),
            waited_ms: 6,
        },
        StoreError::NotHeld { id: object(1), action: "seal".into() },
        StoreError::Limit { holder: 1, what: "leases".into(), limit: 3 },
        StoreError::Cancelled,
    ];
    let replies = [
        Reply::Created { id: object(1), place },
        Reply::Sealed,
        Reply::Shared { ticket: 7 },
        Reply::Opened { place },
        Reply::Kept { slot: 3, place },
        Reply::Segment { segment: 1, segment_bytes: 1 << 20 },
    ];
    let replies = replies.into_iter().chain(errors.map(Reply::Failed));
    let said = replies.map(|reply| Answer::Reply { number: 1, reply }).chain([
        Answer::Welcome { version: 4, node: "a-node-of-a-cluster".into(), holder: 7, origin: 5 },
        Answer::Goodbye { reason: "it is late".into() },
    ]);
    let seeds: Vec<_> = said.map(|answer| encode(&answer).unwrap()).collect();
    Fuzz::new("store answer").seeds(seeds).runs(60_000).longest(MAX_PACKET).memory(64 << 10).run(answer);
}

fn wish(data: &[u8]) {
    if let Ok(wish) = Wish::decode(data) {
        // Of a wish without a length those bytes mean nothing.
        assert_eq!(Wish::decode(&wish.encode()), Ok(wish));
    }
}

#[test]
fn wishes_of_peers_are_read_or_refused() {
    let seeds = [
        Wish::Fetch { id: object(1), ticket: 3, len: 4, first: 2, insists: false },
        Wish::Fetch { id: object(1), ticket: 3, len: 4, first: 0, insists: true },
        Wish::Acknowledge { id: object(u64::MAX), ticket: 5 },
        Wish::Part { id: object(1), upload: 7, offset: 8, len: 9 },
    ];
    Fuzz::new("store wish").seeds(seeds.map(Wish::encode)).runs(10_000).memory(4096).run(wish);
}

/// A table, and what is under way around it.
struct World {
    table: Table,
    now: Duration,
    /// How many asks of whom, and under which number, have no answer.
    open: BTreeMap<(u64, u64), u32>,
    condemned: BTreeSet<u64>,
    fetches: BTreeMap<u64, ObjectId>,
    /// Files that are being written, and read.
    spills: BTreeMap<u64, ObjectId>,
    restores: BTreeMap<u64, ObjectId>,
    /// Peers that wait for an object, or are being sent one, and their tickets.
    serves: BTreeMap<u64, u64>,
    fresh: u64,
}

impl World {
    fn apply(&mut self, event: Event) {
        // What is due is still answered before it is taken for gone.
        let gone = if let Event::HolderGone { holder } = event { holder } else { 0 };
        if let Event::ServeEnded { serve, .. } = event {
            self.serves.remove(&serve);
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.apply_one(event, &mut events);
        }
        self.open.retain(|(asker, _), _| *asker != gone);
    }

    fn apply_one(&mut self, event: Event, events: &mut VecDeque<Event>) {
        for effect in self.table.apply(event, self.now) {
            match effect {
                Effect::Reply { holder, number, .. } => {
                    let asks = self.open.get_mut(&(holder, number)).filter(|asks| **asks > 0);
                    *asks.expect("T5: an answer too many") -= 1;
                }
                Effect::Condemn { holder, .. } => drop(self.condemned.insert(holder)),
                Effect::StartFetch { fetch, id, .. } => drop(self.fetches.insert(fetch, id)),
                Effect::Spill { spill, id, .. } => drop(self.spills.insert(spill, id)),
                Effect::Restore { spill, id, .. } => drop(self.restores.insert(spill, id)),
                Effect::Served { serve, served: Served::Elsewhere(_) | Served::Refused(_) } => {
                    self.serves.remove(&serve);
                }
                // As if each were free: with its keeper, which never takes it.
                Effect::WantRegion { slot, .. } => {
                    events.push_front(Event::RegionFree { slot });
                    events.push_back(Event::Tick);
                }
                Effect::GiveRegion { .. }
                | Effect::RegionReceiverGone { .. }
                | Effect::LookAtRegions(_)
                | Effect::StopFetch { .. }
                | Effect::Acknowledge { .. }
                | Effect::Served { .. }
                | Effect::DropSpill { .. } => {}
            }
        }
    }

    /// The end of something that is under way: in good order, or not.
    fn next_end(&mut self, well: bool) -> Option<Event> {
        let reason = || "it broke off".to_owned();
        if let Some((fetch, id)) = self.fetches.pop_first() {
            return Some(match well {
                true => Event::FetchLanded { fetch, id },
                false => Event::FetchFailed { fetch, id, loss: Loss::now(reason()) },
            });
        }
        if let Some((spill, id)) = self.spills.pop_first() {
            return Some(match well {
                true => Event::Spilled { spill, id },
                false => Event::SpillFailed { spill, id, reason: reason() },
            });
        }
        if let Some((spill, id)) = self.restores.pop_first() {
            return Some(match well {
                true => Event::Restored { spill, id },
                false => Event::RestoreFailed { spill, id, reason: reason() },
            });
        }
        let (serve, ticket) = self.serves.pop_first()?;
        Some(Event::ServeEnded { serve, ticket, acknowledged: well })
    }

    /// What a packet, or something else that happens, is for the table; `None`: nothing.
    fn event(&mut self, what: u8, packet: &[u8]) -> Option<Event> {
        let number = |at: usize| packet.get(at).copied().map_or(0, u64::from);
        let peer = "node-b".to_owned();
        match what % 8 {
            speaker @ 0..=3 => {
                let holder = u64::from(speaker % 2) + 1;
                match decode_request(packet) {
                    // Nobody listens to it any more.
                    _ if self.condemned.contains(&holder) => None,
                    Ok(Request::Ask { number, ask }) => {
                        *self.open.entry((holder, number)).or_default() += 1;
                        self.fresh += 1;
                        Some(Event::Asked { holder, number, ask, fresh: self.fresh })
                    }
                    Ok(Request::Tell(tell)) => Some(Event::Told { holder, tell }),
                    Err(_) => None,
                }
            }
            4 => self.next_end(number(0) % 2 == 0),
            5 => match Wish::decode(packet) {
                Ok(Wish::Fetch { id, ticket, insists, .. }) => {
                    self.fresh += 1;
                    self.serves.insert(self.fresh, ticket);
                    Some(Event::Serve { serve: self.fresh, id, peer, insists })
                }
                Ok(Wish::Acknowledge { id, ticket }) => Some(Event::Acknowledged { id, ticket, peer }),
                Ok(Wish::Part { .. }) | Err(_) => None,
            },
            6 => Some(Event::HolderGone { holder: number(0) % 4 }),
            _ => {
                self.now += Duration::from_millis(number(0) * 100);
                Some(Event::Tick)
            }
        }
    }
}

/// Packets of two processes and what else happens, one after the other: a byte that says whose or what, two of the packet's
/// length, the packet.
fn history(data: &[u8]) {
    let options = TableOptions {
        node: "here".into(),
        incarnation: 5,
        began: Moment::now(),
        rules: TransitRules { unclaimed: Duration::from_secs(600), orphaned: Duration::from_secs(10) },
        spill_bytes: 8 * PAGE,
    };
    let mut world = World {
        table: Table::new(options, Pool::new(&[8 * PAGE, 8 * PAGE], PAGE)),
        now: Duration::ZERO,
        open: BTreeMap::new(),
        condemned: BTreeSet::new(),
        fetches: BTreeMap::new(),
        spills: BTreeMap::new(),
        restores: BTreeMap::new(),
        serves: BTreeMap::new(),
        fresh: 1_000_000,
    };
    for holder in [1, 2] {
        world.apply(Event::Attached { holder });
    }
    let mut rest = data;
    while let [what, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (packet, after) = tail.split_at(length);
        rest = after;
        let Some(event) = world.event(*what, packet) else { continue };
        world.apply(event);
        let usage = world.table.usage();
        assert!(usage.bytes_in_use <= usage.capacity_bytes);
        assert!(usage.waiting <= 2 * MAX_OUTSTANDING as u64);
    }
    // T4: whatever was said, when all have gone and the rules' times have passed nothing is in use.
    for holder in [1, 2] {
        world.apply(Event::HolderGone { holder });
    }
    while let Some(end) = world.next_end(false) {
        world.apply(end);
    }
    // Long enough for the last who waits for room, too.
    world.now = Duration::MAX;
    world.apply(Event::Tick);
    while let Some(end) = world.next_end(false) {
        world.apply(end);
    }
    let usage = world.table.usage();
    assert_eq!((usage.bytes_in_use, usage.objects, usage.in_transit), (0, 0, 0), "T4: {usage:?}");
}

#[test]
fn whatever_processes_and_peers_say_the_table_stands_and_forgets_them() {
    let packet = |what: u8, bytes: &[u8]| {
        let length = (bytes.len() as u16).to_le_bytes();
        [&[what][..], &length, bytes].concat()
    };
    let said = |what: u8, request: &Request| packet(what, &encode(request).unwrap());
    let asked = |what: u8, number: u64, ask: Ask| said(what, &Request::Ask { number, ask });
    let life = [
        asked(0, 1, Ask::Create { len: 3 * PAGE, wait_ms: 0 }),
        asked(0, 2, Ask::Seal { id: object(1) }),
        asked(0, 3, Ask::Share { id: object(1), receiver: None }),
        asked(1, 1, Ask::Open { reference: reference(1, "here"), wait_ms: 10 }),
        asked(1, 2, Ask::Open { reference: reference(9, "a-node-far-away"), wait_ms: 10 }),
        packet(4, &[0]),
        asked(0, 4, Ask::Create { len: 6 * PAGE, wait_ms: 5000 }),
        asked(0, 5, Ask::Create { len: 8 * PAGE, wait_ms: 5000 }),
        asked(0, 6, Ask::Share { id: object(1), receiver: Some(receiver()) }),
        packet(
            5,
            &Wish::Fetch { id: object(1), ticket: 1_000_003, len: 3 * PAGE, first: PAGE, insists: true }
                .encode(),
        ),
        packet(5, &Wish::Acknowledge { id: object(1), ticket: 1_000_006 }.encode()),
        said(0, &Request::Tell(Tell::Release { id: object(1) })),
        said(0, &Request::Tell(Tell::Cancel { number: 5 })),
        asked(1, 3, Ask::Keep { len: 60_000 }),
        said(1, &Request::Tell(Tell::Freed { slot: 0 })),
        packet(7, &[200]),
        packet(6, &[1]),
    ];
    let all: Vec<Vec<u8>> = requests().iter().map(|request| said(0, request)).collect();
    let seeds = [life.concat(), all.concat()];
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/history");
    Fuzz::new("store history").seeds(seeds).corpus(corpus).runs(120_000).memory(1 << 20).run(history);
}
