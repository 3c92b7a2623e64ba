use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PEERS: u64 = 4;

/// What can happen to a ledger whose peers keep the rules.
#[derive(Debug, Clone)]
enum Step {
    /// A peer wants to send this many bytes.
    Send(u64, u64),
    /// The oldest message under way arrives.
    Arrive(u64),
    /// The oldest queued message of a peer is consumed.
    Consume(u64),
    /// A peer hears a reclaim, if there is one.
    Return(u64),
    Gone(u64),
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS;
    prop_oneof![
        6 => (peer.clone(), 0u64..100).prop_map(|(peer, bytes)| Step::Send(peer, bytes)),
        6 => peer.clone().prop_map(Step::Arrive),
        6 => peer.clone().prop_map(Step::Consume),
        3 => peer.clone().prop_map(Step::Return),
        1 => peer.prop_map(Step::Gone),
        1 => Just(Step::Idle),
    ]
}

/// A ledger and the peers around it, each with its purse; grants and requests travel at once.
struct World {
    ledger: Ledger,
    purses: BTreeMap<u64, Purse>,
    unsent: BTreeMap<u64, VecDeque<Credits>>,
    travelling: BTreeMap<u64, VecDeque<Credits>>,
    queued: BTreeMap<u64, VecDeque<Credits>>,
    reclaimed: BTreeMap<u64, bool>,
}

impl World {
    fn new(budget: Credits) -> Self {
        World {
            ledger: Ledger::new(budget),
            purses: BTreeMap::new(),
            unsent: BTreeMap::new(),
            travelling: BTreeMap::new(),
            queued: BTreeMap::new(),
            reclaimed: BTreeMap::new(),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Grant { peer, credits, answer } => {
                    self.purses.entry(peer).or_default().granted(credits, answer);
                    self.send(peer);
                }
                Effect::Reclaim { peer } => {
                    self.reclaimed.insert(peer, true);
                }
            }
        }
    }

    /// Sends what `peer` has credit for and asks for more.
    fn send(&mut self, peer: u64) {
        let purse = self.purses.entry(peer).or_default();
        let unsent = self.unsent.entry(peer).or_default();
        while let Some(&cost) = unsent.front() {
            if !purse.spend(cost) {
                if let Some(returning) = purse.request() {
                    let mut effects = Vec::new();
                    self.ledger.want(peer, returning, cost, &mut effects).expect("an honest request");
                    return self.carry_out(effects);
                }
                return;
            }
            unsent.pop_front();
            self.travelling.entry(peer).or_default().push_back(cost);
        }
    }

    fn apply(&mut self, step: &Step) {
        let mut effects = Vec::new();
        match *step {
            Step::Send(peer, bytes) => {
                self.unsent.entry(peer).or_default().push_back(Credits { count: 1, bytes });
                self.send(peer);
            }
            Step::Arrive(peer) => {
                if let Some(cost) = self.travelling.entry(peer).or_default().pop_front() {
                    self.ledger.received(peer, cost).expect("it was paid for");
                    self.queued.entry(peer).or_default().push_back(cost);
                }
            }
            Step::Consume(peer) => {
                if let Some(cost) = self.queued.entry(peer).or_default().pop_front() {
                    self.ledger.consumed(peer, cost, &mut effects);
                }
            }
            Step::Return(peer) => {
                if self.reclaimed.remove(&peer).is_some() {
                    let credits = self.purses.entry(peer).or_default().give_back();
                    self.ledger.returned(peer, credits, &mut effects).expect("it is held");
                }
            }
            Step::Gone(peer) => {
                // It comes back as somebody else; here under the same number once nothing is left of it.
                if self.queued.get(&peer).is_none_or(VecDeque::is_empty) {
                    self.ledger.peer_gone(peer, &mut effects);
                    self.purses.remove(&peer);
                    self.unsent.remove(&peer);
                    self.travelling.remove(&peer);
                    self.reclaimed.remove(&peer);
                }
            }
            Step::Idle => self.ledger.idle_round(&mut effects),
        }
        self.carry_out(effects);
    }

    fn check(&self) {
        let mut sum = self.ledger.free;
        for account in self.ledger.peers.values() {
            sum = sum.plus(account.granted).plus(account.queued);
        }
        assert_eq!(sum, self.ledger.budget, "every credit is somewhere, once");
        let queued: Credits = self.queued.values().flatten().fold(Credits::NONE, |sum, cost| sum.plus(*cost));
        assert!(self.ledger.budget.covers(queued), "the queue is within the budget");
        for (peer, purse) in &self.purses {
            let travelling = self
                .travelling
                .get(peer)
                .into_iter()
                .flatten()
                .fold(Credits::NONE, |sum, cost| sum.plus(*cost));
            assert_eq!(purse.held.plus(travelling), self.ledger.granted(*peer), "both sides agree");
        }
    }
}

proptest! {
    #[test]
    fn l2_every_credit_is_in_one_place_and_the_queue_within_the_budget(
        count in 1u32..6, steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(Credits { count, bytes: 100 });
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }

    #[test]
    fn whoever_waits_is_served_when_the_receiver_goes_on(
        count in 1u32..6, steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(Credits { count, bytes: 100 });
        for step in &steps {
            world.apply(step);
        }
        let left = |world: &World| world.unsent.values().chain(world.travelling.values()).chain(world.queued.values())
            .map(VecDeque::len).sum::<usize>();
        // Every round hears all reclaims, delivers and consumes: each must bring at least one message further.
        for _ in 0..=2 * left(&world) {
            for peer in 0..PEERS {
                for step in [Step::Return(peer), Step::Arrive(peer), Step::Consume(peer)] {
                    world.apply(&step);
                    world.check();
                }
            }
        }
        prop_assert_eq!(left(&world), 0);
    }

    #[test]
    fn what_was_not_granted_is_refused(bytes in 0u64..200, returned in 1u32..5) {
        let mut ledger = Ledger::new(Credits { count: 4, bytes: 100 });
        let cost = Credits { count: 1, bytes };
        let unpaid = matches!(ledger.received(1, cost), Err(CreditFault::NoCredit { .. }));
        prop_assert!(unpaid);
        let mut effects = Vec::new();
        let returned = Credits { count: returned, bytes: 0 };
        let not_held = matches!(ledger.returned(1, returned, &mut effects), Err(CreditFault::NotHeld { .. }));
        prop_assert!(not_held);
        if bytes > 100 {
            let too_large = ledger.want(1, Credits::NONE, cost, &mut effects);
            prop_assert!(matches!(too_large, Err(CreditFault::TooLarge { .. })), "not refused");
        }
    }
}

#[test]
fn an_idle_peer_is_asked_to_give_back_and_then_forgotten() {
    let mut ledger = Ledger::new(Credits { count: 8, bytes: 100 });
    let mut effects = Vec::new();
    ledger.want(1, Credits::NONE, Credits { count: 1, bytes: 1 }, &mut effects).unwrap();
    effects.clear();
    ledger.idle_round(&mut effects);
    assert_eq!(effects, []);
    ledger.idle_round(&mut effects);
    assert_eq!(effects, [Effect::Reclaim { peer: 1 }]);
    effects.clear();
    let held = ledger.granted(1);
    ledger.returned(1, held, &mut effects).unwrap();
    ledger.idle_round(&mut effects);
    assert!(ledger.is_unused());
    assert_eq!(ledger.free, ledger.budget);
}

#[test]
fn a_request_that_is_too_large_leaves_no_credit_behind() {
    let mut ledger = Ledger::new(Credits { count: 8, bytes: 100 });
    let mut effects = Vec::new();
    ledger.want(1, Credits::NONE, Credits { count: 1, bytes: 1 }, &mut effects).unwrap();
    let held = ledger.granted(1);
    let refused = ledger.want(1, held, Credits { count: 1, bytes: 101 }, &mut effects);
    assert!(matches!(refused, Err(CreditFault::TooLarge { .. })));
    assert_eq!(ledger.free, ledger.budget);
}

#[test]
fn who_has_nothing_left_to_give_back_is_asked_once() {
    let budget = Credits { count: 2, bytes: 100 };
    let mut ledger = Ledger::new(budget);
    let mut effects = Vec::new();
    // Peer 1 spends all it was granted; its message is on its way when peer 2 wants to send.
    let cost = Credits { count: 1, bytes: 80 };
    ledger.want(1, Credits::NONE, cost, &mut effects).unwrap();
    assert_eq!(effects, [Effect::Grant { peer: 1, credits: cost, answer: true }]);
    effects.clear();
    ledger.want(2, Credits::NONE, cost, &mut effects).unwrap();
    assert_eq!(effects, [Effect::Reclaim { peer: 1 }]);
    effects.clear();
    ledger.returned(1, Credits::NONE, &mut effects).unwrap();
    assert_eq!(effects, [], "it said that it has nothing");
    // Its message arrives and is consumed: now there is room.
    ledger.received(1, cost).unwrap();
    ledger.consumed(1, cost, &mut effects);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Grant { peer: 2, answer: true, .. })),
        "{effects:?}"
    );
}
