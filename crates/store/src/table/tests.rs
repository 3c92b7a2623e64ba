//! The table against random histories, with a model of the agent around it, and by example where a rule has a name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::object::ObjectRef;

const PAGE: u64 = 4096;
const RULES: TransitRules =
    TransitRules { unclaimed: Duration::from_secs(600), orphaned: Duration::from_secs(10) };

/// A table and what an agent and its processes would know of it.
struct World {
    table: Table,
    now: Duration,
    last_number: u64,
    /// Asks without an answer: (holder, number).
    open_asks: BTreeSet<(u64, u64)>,
    holders: BTreeSet<u64>,
    writing: Vec<(u64, ObjectId)>,
    leases: Vec<(u64, ObjectId)>,
    references: Vec<ObjectRef>,
    fetches: BTreeMap<u64, ObjectId>,
    stopped: BTreeSet<u64>,
    servings: Vec<(u64, u64)>,
    serves: u64,
    replies: Vec<(u64, u64, Reply)>,
    effects: Vec<Effect>,
}

impl World {
    fn new(pages: u64) -> World {
        World {
            table: Table::new("here", 5, RULES, Pool::new(&[pages * PAGE, pages * PAGE], PAGE)),
            now: Duration::ZERO,
            last_number: 0,
            open_asks: BTreeSet::new(),
            holders: BTreeSet::new(),
            writing: Vec::new(),
            leases: Vec::new(),
            references: Vec::new(),
            fetches: BTreeMap::new(),
            stopped: BTreeSet::new(),
            servings: Vec::new(),
            serves: 0,
            replies: Vec::new(),
            effects: Vec::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        for effect in self.table.apply(event, self.now) {
            self.effects.push(effect.clone());
            match effect {
                Effect::Reply { holder, number, reply } => {
                    assert!(
                        self.open_asks.remove(&(holder, number)),
                        "T5: an answer too many to {holder}/{number}"
                    );
                    match &reply {
                        Reply::Created { id, .. } => self.writing.push((holder, *id)),
                        Reply::Failed(error) => {
                            let in_words = error.to_string();
                            assert!(!in_words.is_empty());
                        }
                        _ => {}
                    }
                    self.replies.push((holder, number, reply));
                }
                Effect::StartFetch { fetch, id, .. } => {
                    assert!(self.fetches.insert(fetch, id).is_none());
                }
                Effect::StopFetch { fetch } => {
                    assert!(self.fetches.contains_key(&fetch));
                    self.stopped.insert(fetch);
                }
                Effect::Condemn { reason, .. } => panic!("a well-behaved process was condemned: {reason}"),
                Effect::Acknowledge { .. } | Effect::Served { .. } => {}
            }
        }
        self.check();
    }

    fn ask(&mut self, holder: u64, ask: Ask) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        if self.holders.contains(&holder) {
            self.open_asks.insert((holder, number));
        }
        self.apply(Event::Asked { holder, number, ask, fresh: 1_000_000 + number });
        number
    }

    fn reply(&self, number: u64) -> Option<Reply> {
        self.replies.iter().find(|(_, n, _)| *n == number).map(|(_, _, reply)| reply.clone())
    }

    fn attach(&mut self, holder: u64) {
        self.holders.insert(holder);
        self.apply(Event::Attached { holder });
    }

    fn gone(&mut self, holder: u64) {
        self.holders.remove(&holder);
        self.open_asks.retain(|(h, _)| *h != holder);
        self.writing.retain(|(h, _)| *h != holder);
        self.leases.retain(|(h, _)| *h != holder);
        self.apply(Event::HolderGone { holder });
    }

    /// Creates and seals, for the examples.
    fn object(&mut self, holder: u64, len: u64) -> ObjectId {
        let number = self.ask(holder, Ask::Create { len, wait_ms: 0 });
        let Some(Reply::Created { id, .. }) = self.reply(number) else {
            panic!("no room: {:?}", self.replies)
        };
        let sealed = self.ask(holder, Ask::Seal { id });
        assert_eq!(self.reply(sealed), Some(Reply::Sealed));
        id
    }

    fn share(&mut self, holder: u64, id: ObjectId, receiver: Option<u64>) -> ObjectRef {
        let number = self.ask(holder, Ask::Share { id, receiver });
        let Some(Reply::Shared { ticket }) = self.reply(number) else { panic!("{:?}", self.reply(number)) };
        ObjectRef { id, node: "here".into(), len: self.table.objects[&id].len, ticket }
    }

    fn open(&mut self, holder: u64, reference: &ObjectRef) -> Option<Reply> {
        let number = self.ask(holder, Ask::Open { reference: reference.clone(), wait_ms: 1000 });
        self.reply(number)
    }

    fn in_use(&self) -> u64 {
        self.table.usage().bytes_in_use
    }

    fn check(&self) {
        let table = &self.table;
        let mut expected: BTreeMap<ObjectId, u64> = table.transit.per_object();
        for state in table.holders.values() {
            assert_eq!(state.leases.values().sum::<u64>(), state.lease_count);
            for (&id, &count) in &state.leases {
                *expected.entry(id).or_default() += count;
            }
        }
        for &id in table.serving.values() {
            *expected.entry(id).or_default() += 1;
        }
        for (id, entry) in &table.objects {
            let references = expected.remove(id).unwrap_or(0);
            assert_eq!(entry.references, references, "T1: {id}");
            let sealed = matches!(entry.state, State::Sealed);
            assert!(!sealed || references > 0, "T3: {id}");
            assert!(sealed || references == 0, "T1: a reference to {id}, which is not sealed");
        }
        assert!(expected.is_empty(), "T1: references to what is not there: {expected:?}");
        let placed = table.objects.values().filter_map(|entry| entry.place);
        let used: u64 = placed.map(|place| table.pool.footprint(place.len)).sum();
        assert_eq!(used, table.pool.used(), "T2");
        if let Some(first) = table.queue.front() {
            assert!(!table.pool.fits(first.len), "T6: the first in the queue would fit");
        }
        let waiting: usize = table.holders.values().map(|state| state.waiting.len()).sum();
        assert_eq!(waiting, self.open_asks.len(), "T5: each ask is answered or waits");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Attach(u64),
    Gone(u64),
    Create(u64, u64, u64),
    Seal(Index),
    Abandon(Index),
    Share(Index, Option<u64>),
    Open(u64, Index),
    OpenRemote(u64, u64, u64),
    Release(Index),
    Revoke(u64, Index),
    Cancel(Index),
    Land(Index),
    Fail(Index),
    Serve(Index),
    ServeEnded(Index, bool),
    Acknowledged(Index),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let holder = 1..5u64;
    let index = any::<Index>;
    let step = prop_oneof![
        3 => holder.clone().prop_map(Step::Attach),
        1 => holder.clone().prop_map(Step::Gone),
        6 => (holder.clone(), 0..12 * PAGE, 0..3000u64).prop_map(|(h, l, w)| Step::Create(h, l, w)),
        5 => index().prop_map(Step::Seal),
        1 => index().prop_map(Step::Abandon),
        4 => (index(), prop::option::of(1..7u64)).prop_map(|(i, r)| Step::Share(i, r)),
        4 => (holder.clone(), index()).prop_map(|(h, i)| Step::Open(h, i)),
        4 => (holder.clone(), 1..4u64, 1..5u64).prop_map(|(h, object, ticket)| Step::OpenRemote(h, object, ticket)),
        4 => index().prop_map(Step::Release),
        1 => (holder, index()).prop_map(|(h, i)| Step::Revoke(h, i)),
        1 => index().prop_map(Step::Cancel),
        3 => index().prop_map(Step::Land),
        2 => index().prop_map(Step::Fail),
        2 => index().prop_map(Step::Serve),
        2 => (index(), any::<bool>()).prop_map(|(i, a)| Step::ServeEnded(i, a)),
        1 => index().prop_map(Step::Acknowledged),
        2 => (0..5000u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

fn take<T>(from: &mut Vec<T>, index: Index) -> Option<T> {
    if from.is_empty() { None } else { Some(from.swap_remove(index.index(from.len()))) }
}

fn run(world: &mut World, step: Step) {
    match step {
        Step::Attach(holder) => world.attach(holder),
        Step::Gone(holder) => world.gone(holder),
        Step::Create(holder, len, wait_ms) => {
            world.ask(holder, Ask::Create { len, wait_ms });
        }
        Step::Seal(index) => {
            if let Some((holder, id)) = take(&mut world.writing, index) {
                let number = world.ask(holder, Ask::Seal { id });
                assert_eq!(world.reply(number), Some(Reply::Sealed));
                world.leases.push((holder, id));
            }
        }
        Step::Abandon(index) => {
            if let Some((holder, id)) = take(&mut world.writing, index) {
                world.apply(Event::Told { holder, tell: Tell::Abandon { id } });
            }
        }
        Step::Share(index, receiver) => {
            if !world.leases.is_empty() {
                let (holder, id) = world.leases[index.index(world.leases.len())];
                let reference = world.share(holder, id, receiver);
                world.references.push(reference);
            }
        }
        Step::Open(holder, index) => {
            if let Some(reference) = take(&mut world.references, index)
                && let Some(Reply::Opened { .. }) = world.open(holder, &reference)
            {
                world.leases.push((holder, reference.id));
            }
        }
        Step::OpenRemote(holder, sequence, ticket) => {
            let id = ObjectId { origin: 9, sequence };
            let node = if ticket % 2 == 0 { "there" } else { "elsewhere" };
            let reference = ObjectRef { id, node: node.into(), len: sequence * PAGE, ticket };
            if let Some(Reply::Opened { .. }) = world.open(holder, &reference) {
                world.leases.push((holder, id));
            }
        }
        Step::Release(index) => {
            if let Some((holder, id)) = take(&mut world.leases, index) {
                world.apply(Event::Told { holder, tell: Tell::Release { id } });
            }
        }
        Step::Revoke(holder, index) => {
            if !world.references.is_empty() {
                let reference = world.references[index.index(world.references.len())].clone();
                let tell = Tell::Revoke { id: reference.id, ticket: reference.ticket };
                world.apply(Event::Told { holder, tell });
            }
        }
        Step::Cancel(index) => {
            let asks: Vec<_> = world.open_asks.iter().copied().collect();
            if !asks.is_empty() {
                let (holder, number) = asks[index.index(asks.len())];
                world.apply(Event::Told { holder, tell: Tell::Cancel { number } });
                assert_eq!(world.reply(number), Some(Reply::Failed(StoreError::Cancelled)));
            }
        }
        Step::Land(index) | Step::Fail(index) => {
            let running: Vec<_> = world.fetches.iter().map(|(&f, &id)| (f, id)).collect();
            if running.is_empty() {
                return;
            }
            let (fetch, id) = running[index.index(running.len())];
            world.fetches.remove(&fetch);
            world.stopped.remove(&fetch);
            let answered = world.replies.len();
            if matches!(step, Step::Land(_)) {
                world.apply(Event::FetchLanded { fetch, id });
                for (holder, _, reply) in &world.replies[answered..] {
                    if matches!(reply, Reply::Opened { .. }) {
                        world.leases.push((*holder, id));
                    }
                }
            } else {
                world.apply(Event::FetchFailed { fetch, id, reason: "by chance".into() });
            }
        }
        Step::Serve(index) => {
            if !world.references.is_empty() {
                let reference = &world.references[index.index(world.references.len())];
                let (id, ticket) = (reference.id, reference.ticket);
                world.serves += 1;
                world.servings.push((world.serves, ticket));
                world.apply(Event::Serve { serve: world.serves, id });
            }
        }
        Step::ServeEnded(index, acknowledged) => {
            if let Some((serve, ticket)) = take(&mut world.servings, index) {
                world.apply(Event::ServeEnded { serve, ticket, acknowledged });
            }
        }
        Step::Acknowledged(index) => {
            if let Some(reference) = take(&mut world.references, index) {
                world.apply(Event::Acknowledged { id: reference.id, ticket: reference.ticket });
            }
        }
        Step::Wait(milliseconds) => {
            world.now += Duration::from_millis(milliseconds);
            world.apply(Event::Tick);
            assert!(world.table.next_deadline().is_none_or(|at| at > world.now), "nothing overdue is left");
        }
    }
}

proptest! {
    #[test]
    fn l1_l2_t4_nothing_is_left_in_use_whatever_the_history(steps in steps()) {
        let mut world = World::new(8);
        for step in steps {
            run(&mut world, step);
        }
        for holder in 1..8 {
            world.gone(holder);
        }
        while let Some((&fetch, &id)) = world.fetches.first_key_value() {
            world.fetches.remove(&fetch);
            world.apply(Event::FetchFailed { fetch, id, reason: "the end".into() });
        }
        while let Some((serve, ticket)) = world.servings.pop() {
            world.apply(Event::ServeEnded { serve, ticket, acknowledged: false });
        }
        world.now += RULES.orphaned;
        world.apply(Event::Tick);
        let usage = world.table.usage();
        prop_assert_eq!(usage, Usage { capacity_bytes: usage.capacity_bytes, ..Usage::default() }, "T4");
        prop_assert!(world.open_asks.is_empty(), "T5");
    }
}

#[test]
fn the_senders_lease_ends_only_when_the_receiver_has_its_own() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = world.object(1, PAGE);
    let reference = world.share(1, id, None);
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), PAGE, "in transit");
    assert!(matches!(world.open(2, &reference), Some(Reply::Opened { .. })));
    assert_eq!(world.table.usage().in_transit, 0);
    world.apply(Event::Told { holder: 2, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), 0);
    let lost = world.open(2, &reference);
    assert!(matches!(lost, Some(Reply::Failed(StoreError::ObjectLost { .. }))), "{lost:?}");
}

#[test]
fn a_dead_senders_reference_can_be_claimed_for_a_while_and_then_frees_itself() {
    for claimed in [true, false] {
        let mut world = World::new(4);
        world.attach(1);
        world.attach(2);
        let id = world.object(1, PAGE);
        let reference = world.share(1, id, None);
        world.gone(1);
        world.now += RULES.orphaned - Duration::from_millis(1);
        if claimed {
            assert!(matches!(world.open(2, &reference), Some(Reply::Opened { .. })));
        }
        world.now += Duration::from_millis(1);
        world.apply(Event::Tick);
        assert_eq!(world.in_use(), if claimed { PAGE } else { 0 });
        world.gone(2);
        assert_eq!(world.in_use(), 0);
    }
}

#[test]
fn a_dead_receiver_frees_what_was_in_transit_to_it_at_once() {
    let mut world = World::new(4);
    world.attach(1);
    let id = world.object(1, PAGE);
    world.share(1, id, Some(77));
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), PAGE);
    world.gone(77);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn an_unclaimed_reference_expires_and_a_revoked_one_ends_but_only_by_its_sender() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = world.object(1, PAGE);
    let (first, second) = (world.share(1, id, None), world.share(1, id, None));
    world.apply(Event::Told { holder: 2, tell: Tell::Revoke { id, ticket: first.ticket } });
    assert_eq!(world.table.usage().in_transit, 2, "not its to revoke");
    world.apply(Event::Told { holder: 1, tell: Tell::Revoke { id, ticket: first.ticket } });
    assert_eq!(world.table.usage().in_transit, 1);
    world.now += RULES.unclaimed;
    world.apply(Event::Tick);
    assert_eq!(world.table.usage().in_transit, 0);
    assert_eq!(second.id, id);
    assert_eq!(world.in_use(), PAGE, "the sender still holds it");
}

#[test]
fn l2_creates_wait_in_turn_and_a_small_one_does_not_overtake() {
    let mut world = World::new(4);
    world.attach(1);
    let (first, second) = (world.object(1, 4 * PAGE), world.object(1, 3 * PAGE));
    let large = world.ask(1, Ask::Create { len: 4 * PAGE, wait_ms: 5000 });
    let small = world.ask(1, Ask::Create { len: PAGE, wait_ms: 9000 });
    assert_eq!(world.reply(small), None, "one page is free, but the large one came first");
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id: first } });
    assert!(matches!(world.reply(large), Some(Reply::Created { .. })));
    assert!(matches!(world.reply(small), Some(Reply::Created { .. })));
    let late = world.ask(1, Ask::Create { len: PAGE, wait_ms: 5000 });
    world.now += Duration::from_secs(5);
    world.apply(Event::Tick);
    let Some(Reply::Failed(StoreError::Full { in_use, waited_ms, .. })) = world.reply(late) else { panic!() };
    assert_eq!((in_use, waited_ms), (8 * PAGE, 5000));
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id: second } });
    let too_large = world.ask(1, Ask::Create { len: 4 * PAGE + 1, wait_ms: 5000 });
    assert!(matches!(world.reply(too_large), Some(Reply::Failed(StoreError::TooLarge { .. }))), "at once");
}

#[test]
fn one_fetch_serves_all_who_wait_and_every_ticket_is_acknowledged() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = ObjectId { origin: 9, sequence: 1 };
    let reference = |ticket| ObjectRef { id, node: "there".into(), len: 10, ticket };
    assert_eq!(world.open(1, &reference(1)), None);
    assert_eq!(world.open(2, &reference(2)), None);
    assert_eq!(world.fetches.len(), 1);
    let fetch = *world.fetches.keys().next().unwrap();
    world.apply(Event::FetchLanded { fetch, id });
    assert_eq!(world.table.usage().leases, 2);
    let acknowledge = |ticket| Effect::Acknowledge { node: "there".into(), id, ticket };
    assert!(world.effects.contains(&acknowledge(2)), "the fetch itself acknowledges the first");
    assert!(!world.effects.contains(&acknowledge(1)));
    assert!(matches!(world.open(1, &reference(3)), Some(Reply::Opened { .. })));
    assert!(world.effects.contains(&acknowledge(3)), "already here: no second fetch");
}

#[test]
fn a_fetch_nobody_waits_for_keeps_its_place_until_its_writer_has_let_go() {
    let mut world = World::new(4);
    world.attach(1);
    let id = ObjectId { origin: 9, sequence: 1 };
    assert_eq!(world.open(1, &ObjectRef { id, node: "there".into(), len: 10, ticket: 4 }), None);
    let fetch = *world.fetches.keys().next().unwrap();
    world.gone(1);
    assert!(world.stopped.contains(&fetch));
    assert!(world.effects.contains(&Effect::Acknowledge { node: "there".into(), id, ticket: 4 }));
    assert_eq!(world.in_use(), PAGE);
    world.apply(Event::FetchFailed { fetch, id, reason: "stopped".into() });
    assert_eq!(world.in_use(), 0);
}

#[test]
fn l3_a_failed_fetch_is_an_object_lost_that_names_the_node_and_another_node_is_tried() {
    let mut world = World::new(4);
    world.attach(1);
    let id = ObjectId { origin: 9, sequence: 1 };
    let reference = |node: &str| ObjectRef { id, node: node.into(), len: 10, ticket: 4 };
    world.open(1, &reference("there"));
    let there = world.last_number;
    world.open(1, &reference("elsewhere"));
    let elsewhere = world.last_number;
    let fetch = *world.fetches.keys().next().unwrap();
    world.fetches.remove(&fetch);
    world.apply(Event::FetchFailed { fetch, id, reason: "it died".into() });
    assert_eq!(world.reply(there), Some(Reply::Failed(StoreError::lost(id, "there", "it died"))));
    assert_eq!(world.reply(elsewhere), None);
    let (&fetch, _) = world.fetches.first_key_value().unwrap();
    world.apply(Event::FetchLanded { fetch, id });
    assert!(matches!(world.reply(elsewhere), Some(Reply::Opened { .. })));
}

#[test]
fn a_process_frees_seals_and_shares_only_what_it_holds() {
    let mut table = Table::new("here", 5, RULES, Pool::new(&[4 * PAGE], PAGE));
    let mut apply = |event| table.apply(event, Duration::ZERO);
    apply(Event::Attached { holder: 1 });
    apply(Event::Attached { holder: 2 });
    let created =
        apply(Event::Asked { holder: 1, number: 1, ask: Ask::Create { len: 1, wait_ms: 0 }, fresh: 1 });
    let [Effect::Reply { reply: Reply::Created { id, .. }, .. }] = created[..] else { panic!("{created:?}") };
    for ask in [Ask::Seal { id }, Ask::Share { id, receiver: None }] {
        let refused = apply(Event::Asked { holder: 2, number: 1, ask, fresh: 2 });
        let [Effect::Reply { reply: Reply::Failed(StoreError::NotHeld { .. }), .. }] = refused[..] else {
            panic!("{refused:?}")
        };
    }
    for tell in [Tell::Abandon { id }, Tell::Release { id }] {
        let condemned = apply(Event::Told { holder: 2, tell });
        assert!(matches!(condemned[..], [Effect::Condemn { holder: 2, .. }]), "{condemned:?}");
    }
    let sealed = apply(Event::Asked { holder: 1, number: 2, ask: Ask::Seal { id }, fresh: 3 });
    assert!(matches!(sealed[..], [Effect::Reply { reply: Reply::Sealed, .. }]));
    assert!(matches!(
        apply(Event::Told { holder: 1, tell: Tell::Abandon { id } })[..],
        [Effect::Condemn { .. }]
    ));
}

#[test]
fn l2_a_process_with_too_many_asks_under_way_breaks_the_protocol() {
    let mut table = Table::new("here", 5, RULES, Pool::new(&[PAGE], PAGE));
    table.apply(Event::Attached { holder: 1 }, Duration::ZERO);
    let mut condemned = false;
    for number in 0..=crate::protocol::MAX_OUTSTANDING as u64 + 1 {
        let ask = Ask::Create { len: 1, wait_ms: 1000 };
        let effects = table.apply(Event::Asked { holder: 1, number, ask, fresh: number }, Duration::ZERO);
        condemned |= matches!(effects[..], [Effect::Condemn { .. }]);
    }
    assert!(condemned);
}
