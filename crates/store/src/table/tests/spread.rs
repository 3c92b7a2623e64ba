//! One object on its way to many nodes, each with a table of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use super::{PAGE, table_of};

const NODES: usize = 32;
const LEN: u64 = 4 * PAGE;
const ID: ObjectId = ObjectId { origin: 5, sequence: 1 };

/// A wish that was granted: the node that has it, the one that sends, the number there.
type Sending = (usize, usize, u64);

struct Nodes {
    tables: Vec<Table>,
    last_serve: u64,
    /// Which node made which wish, and where.
    wishes: BTreeMap<(usize, u64), usize>,
    sending: Vec<Sending>,
    uploads: Vec<usize>,
    /// Nodes that give their copy up as soon as they have it.
    forgetful: fn(usize) -> bool,
}

fn name(node: usize) -> String {
    format!("n{node}")
}

impl Nodes {
    /// Node 0 has an object, and a reference to it for each of the others.
    fn new(forgetful: fn(usize) -> bool) -> Nodes {
        let tables = (0..NODES).map(|node| table_of(&name(node), 5 + node as u64, &[LEN], 0)).collect();
        let (wishes, sending, uploads) = (BTreeMap::new(), Vec::new(), vec![0; NODES]);
        let mut nodes = Nodes { tables, last_serve: 0, wishes, sending, uploads, forgetful };
        let source = &mut nodes.tables[0];
        source.apply(Event::Attached { holder: 1 }, Duration::ZERO);
        let mut ask = |number, ask| {
            source.apply(Event::Asked { holder: 1, number, ask, fresh: number }, Duration::ZERO);
        };
        ask(1000, Ask::Create { len: LEN, wait_ms: 0 });
        ask(1001, Ask::Seal { id: ID });
        for node in 1..NODES as u64 {
            ask(node, Ask::Share { id: ID, receiver: None });
        }
        nodes
    }

    fn wish(&mut self, of: usize, at: usize, insists: bool) {
        self.last_serve += 1;
        let serve = self.last_serve;
        self.wishes.insert((at, serve), of);
        self.apply(at, Event::Serve { serve, id: ID, peer: name(of), insists });
    }

    fn apply(&mut self, at: usize, event: Event) {
        for effect in self.tables[at].apply(event, Duration::ZERO) {
            let Effect::Served { serve, served } = effect else { continue };
            let of = self.wishes[&(at, serve)];
            match served {
                Served::Memory(_) => {
                    self.sending.push((of, at, serve));
                    self.uploads[at] += 1;
                    let now = self.sending.iter().filter(|(_, from, _)| *from == at).count();
                    assert!(now <= MAX_UPLOADS, "T9: node {at} sends to {now}");
                }
                Served::Elsewhere(copy) => {
                    assert_eq!(at, 0, "a copy is asked by those who insist");
                    self.wish(of, copy[1..].parse().unwrap(), true);
                }
                // What a fetch does then.
                Served::Refused(_) => self.wish(of, 0, true),
                Served::Disk { .. } => panic!("there is no disk"),
            }
        }
    }

    /// All that is being sent arrives.
    fn arrive(&mut self) {
        for (of, at, serve) in std::mem::take(&mut self.sending) {
            self.receive(of);
            let ticket = if at == 0 { of as u64 } else { 0 };
            self.apply(at, Event::ServeEnded { serve, ticket, acknowledged: true });
            if at != 0 {
                self.apply(0, Event::Acknowledged { id: ID, ticket: of as u64, peer: name(of) });
            }
        }
    }

    /// A fetch at node `of` has landed, for a process that keeps the object, unless the node is forgetful.
    fn receive(&mut self, of: usize) {
        let receiver = &mut self.tables[of];
        receiver.apply(Event::Attached { holder: 1 }, Duration::ZERO);
        let reference = crate::object::ObjectRef { id: ID, node: name(0), len: LEN, ticket: of as u64 };
        let ask = Ask::Open { reference, wait_ms: 0 };
        receiver.apply(Event::Asked { holder: 1, number: 1, ask, fresh: 1 }, Duration::ZERO);
        receiver.apply(Event::FetchLanded { fetch: 1, id: ID }, Duration::ZERO);
        assert_eq!(receiver.usage().leases, 1);
        if (self.forgetful)(of) {
            let tell = Tell::Release { id: ID };
            receiver.apply(Event::Told { holder: 1, tell }, Duration::ZERO);
        }
    }

    /// How many times all that was sent arrived until every node had the object.
    fn rounds(&mut self) -> usize {
        for node in 1..NODES {
            self.wish(node, 0, false);
        }
        let mut rounds = 0;
        while !self.sending.is_empty() {
            self.arrive();
            rounds += 1;
        }
        assert_eq!(self.tables[0].usage().in_transit, 0, "every node has acknowledged");
        assert_eq!(self.uploads.iter().sum::<usize>(), NODES - 1, "each was sent it once");
        rounds
    }
}

#[test]
fn one_object_reaches_many_nodes_along_a_tree_and_none_sends_it_to_all() {
    let mut nodes = Nodes::new(|_| false);
    let rounds = nodes.rounds();
    // Two uploads a node: in each round there are at most three times as many that have it, 1, 3, 9, 27, 81.
    assert!(rounds <= 5, "{rounds} rounds");
    assert!(nodes.uploads[0] <= MAX_UPLOADS * rounds, "{:?}", nodes.uploads);
    assert!(nodes.uploads.iter().all(|&uploads| uploads <= NODES / 3), "{:?}", nodes.uploads);
}

#[test]
fn a_copy_that_was_given_up_costs_those_who_are_sent_there_a_question_and_nothing_else() {
    Nodes::new(|node| node % 2 == 0).rounds();
    let mut alone = Nodes::new(|_| true);
    alone.rounds();
    assert_eq!(alone.uploads[0], NODES - 1, "nobody else has it");
}
