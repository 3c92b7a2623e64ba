//! A table and a model of the agent around it, which checks T1, T2, T3, T5 and T6 after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use super::{PAGE, RULES};
use crate::object::ObjectRef;

/// A table and what an agent and its processes would know of it.
pub(super) struct World {
    pub(super) table: Table,
    pub(super) now: Duration,
    pub(super) last_number: u64,
    /// Asks without an answer: (holder, number).
    pub(super) open_asks: BTreeSet<(u64, u64)>,
    pub(super) holders: BTreeSet<u64>,
    pub(super) writing: Vec<(u64, ObjectId)>,
    pub(super) leases: Vec<(u64, ObjectId)>,
    pub(super) references: Vec<ObjectRef>,
    pub(super) fetches: BTreeMap<u64, ObjectId>,
    pub(super) stopped: BTreeSet<u64>,
    pub(super) servings: Vec<(u64, u64)>,
    pub(super) serves: u64,
    pub(super) replies: Vec<(u64, u64, Reply)>,
    pub(super) effects: Vec<Effect>,
}

impl World {
    pub(super) fn new(pages: u64) -> World {
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

    pub(super) fn apply(&mut self, event: Event) {
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

    pub(super) fn ask(&mut self, holder: u64, ask: Ask) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
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
        self.apply(Event::HolderGone { holder });
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
