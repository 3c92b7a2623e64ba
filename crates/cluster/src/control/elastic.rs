//! Nodes that come when what waits needs them, and go when nothing does: pure functions of what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::placement::{self, Candidate};
use super::resources::{Capacity, Ledger, Request};
use super::vocabulary::Labels;

/// Most nodes that are asked for at a time.
const MAX_AT_ONCE: usize = 8;
/// Of those that wait so many are looked at, in order of asking.
const MAX_LOOKED_AT: usize = 64;
/// First and longest pause after a request that came to nothing.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// Which nodes may be asked for, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Elastic {
    /// Most of them.
    pub most: usize,
    /// What each has.
    pub capacity: Capacity,
    /// Its labels.
    pub labels: Labels,
    /// What waits is looked at when it has waited for this long.
    pub patience: Duration,
    /// A node that has been empty for this long is given back.
    pub idle: Duration,
}

/// Something that waits for room.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Its number.
    pub unit: u64,
    /// What it asks for, or each member of it.
    pub request: Request,
    /// Members, if it is a gang.
    pub gang: Option<usize>,
}

/// A node that the manifest does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Is its agent there?
    pub present: bool,
    /// Was it given up?
    pub lost: bool,
    /// Is nothing on it?
    pub empty: bool,
    /// Is it being drained, or was it?
    pub drained: bool,
}

/// What the head knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// What waits, by number.
    pub waiting: Vec<u64>,
    /// So many further nodes would hold what has waited for long enough.
    pub lacking: usize,
    /// Nodes beside the manifest's.
    pub members: Vec<Member>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Ask for so many nodes more.
    Ask(usize),
    /// Have nothing new started on a node.
    Drain(String),
    /// Give a node back, or take the request for it back.
    Release(String),
}

/// How many nodes like `elastic`'s, up to `most`, are needed beside `nodes`, and beside `coming` of them that were asked for, so
/// that all of `waiting` is held which these can hold.
pub fn lacking<'a>(
    nodes: impl Iterator<Item = Candidate<'a>>,
    elastic: &Elastic,
    coming: usize,
    most: usize,
    waiting: &[Waiting],
) -> usize {
    let mut rooms: Vec<(Candidate<'a>, Ledger)> = nodes.map(|node| (node, node.ledger.clone())).collect();
    let present = rooms.len();
    // No node's name.
    let names: Vec<String> = (0..coming + most).map(|number| format!(" {number}")).collect();
    let mut further: Vec<Ledger> = vec![Ledger::new(elastic.capacity.clone()); coming];
    for Waiting { request, gang, .. } in waiting.iter().take(MAX_LOOKED_AT) {
        // The least number of nodes that hold it.
        for more in 0..=(coming + most - further.len()) {
            let mut tried = further.clone();
            tried.resize(further.len() + more, Ledger::new(elastic.capacity.clone()));
            let new = names.iter().zip(&tried).map(|(name, ledger)| Candidate {
                name,
                labels: &elastic.labels,
                ledger,
                failures: 0,
                closed: None,
            });
            let there = rooms.iter().map(|(node, ledger)| Candidate { ledger, ..*node });
            // Those that are there first, whatever they are called: among the others ties go to the first.
            let given = match gang {
                Some(size) => placement::place_gang(there.chain(new), request, *size),
                None => placement::place(there.clone(), request)
                    .or_else(|_| placement::place(new, request))
                    .map(|given| vec![given]),
            };
            let Ok(given) = given else {
                // One that is alone fits on the first of several that are alike, or on none.
                if gang.is_none() && more > 0 {
                    break;
                }
                continue;
            };
            for (name, allotment) in given {
                let known = rooms[..present].iter_mut().find(|(node, _)| node.name == name);
                match (known, names.iter().position(|new| *new == name)) {
                    (Some((_, ledger)), _) => ledger.take(&allotment),
                    (None, Some(number)) => tried[number].take(&allotment),
                    (None, None) => {}
                }
            }
            let used = tried.iter().rposition(|ledger| !ledger.idle()).map_or(0, |last| last + 1);
            tried.truncate(used.max(further.len()));
            further = tried;
            break;
        }
    }
    further.len() - coming
}

/// Memory between decisions.
#[derive(Debug, Clone)]
pub struct Scaler {
    elastic: Elastic,
    /// Since when each unit has been seen waiting.
    since: BTreeMap<u64, Duration>,
    /// Since when each node that was asked for has been of no use.
    useless: BTreeMap<String, Duration>,
    /// Nodes that were asked for, and whether they have joined.
    asked: BTreeMap<String, bool>,
    /// Requests in a row that came to nothing.
    failures: u32,
    /// Nothing is asked for before.
    rests_until: Duration,
}

impl Scaler {
    /// One that has seen nothing.
    pub fn new(elastic: Elastic) -> Scaler {
        Scaler {
            elastic,
            since: BTreeMap::new(),
            useless: BTreeMap::new(),
            asked: BTreeMap::new(),
            failures: 0,
            rests_until: Duration::ZERO,
        }
    }

    /// Its rules.
    pub fn elastic(&self) -> &Elastic {
        &self.elastic
    }

    /// Those that have waited for long enough.
    pub fn patient(&self, now: Duration) -> BTreeSet<u64> {
        let long = |since: Duration| now.saturating_sub(since) >= self.elastic.patience;
        self.since.iter().filter(|(_, since)| long(**since)).map(|(unit, _)| *unit).collect()
    }

    /// A node was asked for under this name.
    pub fn was_asked(&mut self, node: &str) {
        self.asked.insert(node.to_owned(), false);
    }

    /// A request was refused, or came to nothing: the next one waits, twice as long each time.
    pub fn failed(&mut self, now: Duration) {
        let pause = PAUSES.0.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.rests_until = now.saturating_add(pause.min(PAUSES.1));
        self.failures = self.failures.saturating_add(1).min(16);
    }

    /// Until when nothing is asked for, if it is so.
    pub fn rests(&self, now: Duration) -> Option<Duration> {
        self.rests_until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// What is to be done, when `provided` are the nodes that were asked for and are not given back; `now` is any time that never
    /// goes back.
    pub fn decide(&mut self, demand: &Demand, provided: &BTreeSet<String>, now: Duration) -> Vec<Order> {
        let since = std::mem::take(&mut self.since);
        self.since =
            demand.waiting.iter().map(|unit| (*unit, since.get(unit).copied().unwrap_or(now))).collect();
        self.take_in(demand, provided, now);

        let mut orders = Vec::new();
        for name in provided {
            let member = demand.members.iter().find(|member| member.name == *name);
            let useless = match member {
                Some(member) if member.lost => Some(Duration::ZERO),
                Some(member) if member.drained && member.empty => Some(Duration::ZERO),
                Some(member) if member.present => {
                    (member.empty && demand.lacking == 0).then_some(self.elastic.idle)
                }
                // Whatever it was asked for may come to wait again soon.
                _ => demand.waiting.is_empty().then_some(self.elastic.idle),
            };
            let Some(patience) = useless else {
                self.useless.remove(name);
                continue;
            };
            let since = *self.useless.entry(name.clone()).or_insert(now);
            if now.saturating_sub(since) < patience {
                continue;
            }
            let leaves_first = member.is_some_and(|member| member.present && !member.drained);
            orders.push(match leaves_first {
                true => Order::Drain(name.clone()),
                false => Order::Release(name.clone()),
            });
        }
        let room = self.elastic.most.saturating_sub(provided.len());
        let more = demand.lacking.min(room).min(MAX_AT_ONCE);
        if more > 0 && self.rests(now).is_none() {
            orders.push(Order::Ask(more));
        }
        orders
    }

    /// Which of those that were asked for have come, and which will not.
    fn take_in(&mut self, demand: &Demand, provided: &BTreeSet<String>, now: Duration) {
        for name in provided {
            let has_joined = self.asked.entry(name.clone()).or_insert(false);
            let is_present = demand.members.iter().any(|member| member.name == *name && member.present);
            if is_present && !*has_joined {
                *has_joined = true;
                self.failures = 0;
            }
        }
        let over: Vec<(String, bool)> = self
            .asked
            .iter()
            .filter(|(name, _)| !provided.contains(*name))
            .map(|(name, has_joined)| (name.clone(), *has_joined))
            .collect();
        for (name, has_joined) in over {
            self.asked.remove(&name);
            // One that was given back for want of use is no failure.
            let was_useless = self.useless.remove(&name).is_some();
            if !has_joined && !was_useless {
                self.failed(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::resources::{Allotment, Strategy};
    use crate::units::Milli;

    fn elastic(most: usize) -> Elastic {
        Elastic {
            most,
            capacity: Capacity { cpus: Milli::whole(4), gpus: 2, ..Capacity::default() },
            labels: Labels::new(),
            patience: Duration::from_secs(10),
            idle: Duration::from_secs(60),
        }
    }

    fn one(cpus: u64) -> Waiting {
        let request = Request { cpus: Milli::whole(cpus), ..Request::default() };
        Waiting { unit: 1, request, gang: None }
    }

    fn gang(size: usize, cpus: u64, strategy: Strategy) -> Waiting {
        let Waiting { unit, request, .. } = one(cpus);
        Waiting { unit, request: Request { strategy, ..request }, gang: Some(size) }
    }

    /// With one node of four cores, of which so many are free.
    fn lacks(free: u64, coming: usize, most: usize, waiting: &[Waiting]) -> usize {
        let labels = Labels::new();
        let mut ledger = Ledger::new(Capacity { cpus: Milli::whole(4), ..Capacity::default() });
        ledger.take(&Allotment { cpus: Milli::whole(4 - free), ..Allotment::default() });
        let node = Candidate { name: "a", labels: &labels, ledger: &ledger, failures: 0, closed: None };
        lacking([node].into_iter(), &elastic(most), coming, most, waiting)
    }

    #[test]
    fn as_many_nodes_are_lacking_as_hold_what_waits() {
        let of = |cpus: &[u64]| cpus.iter().copied().map(one).collect::<Vec<_>>();
        assert_eq!(lacks(0, 0, 9, &of(&[])), 0);
        assert_eq!(lacks(0, 0, 9, &of(&[1, 1, 1, 1])), 1, "four on one");
        assert_eq!(lacks(0, 0, 9, &of(&[3, 3, 3])), 3);
        assert_eq!(lacks(0, 0, 9, &of(&[3, 2, 1])), 2, "the last beside the first");
        assert_eq!(lacks(3, 0, 9, &of(&[3, 3])), 1, "one where there is room");
        assert_eq!(lacks(0, 2, 9, &of(&[3, 3, 3])), 1, "two are coming");
        assert_eq!(lacks(0, 0, 2, &of(&[4, 4, 4, 4])), 2, "no more than there may be");
        assert_eq!(lacks(0, 0, 9, &of(&[5, 1])), 1, "for what no such node holds none is asked for");
        assert_eq!(lacks(0, 3, 9, &of(&[1])), 0);
    }

    #[test]
    fn a_gang_takes_what_is_there_and_lacks_the_rest() {
        assert_eq!(lacks(4, 0, 9, &[gang(6, 2, Strategy::Spread)]), 2, "two where there is room");
        assert_eq!(lacks(0, 1, 9, &[gang(6, 2, Strategy::Pack)]), 2);
        assert_eq!(lacks(4, 0, 9, &[gang(3, 1, Strategy::StrictSpread)]), 2);
        assert_eq!(lacks(1, 0, 9, &[gang(4, 1, Strategy::StrictPack)]), 1);
        assert_eq!(lacks(0, 0, 2, &[gang(6, 2, Strategy::Spread)]), 0, "a part of it is of no use");
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn member(name: &str, empty: bool, drained: bool) -> Member {
        Member { name: name.into(), present: true, lost: false, empty, drained }
    }

    fn demand(waiting: &[u64], lacking: usize, members: &[Member]) -> Demand {
        Demand { waiting: waiting.to_vec(), lacking, members: members.to_vec() }
    }

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn what_has_waited_for_long_enough_counts_and_not_before() {
        let mut scaler = Scaler::new(elastic(4));
        scaler.decide(&demand(&[7], 0, &[]), &names([]), seconds(0));
        scaler.decide(&demand(&[7, 8], 0, &[]), &names([]), seconds(5));
        assert_eq!(scaler.patient(seconds(9)), BTreeSet::new());
        assert_eq!(scaler.patient(seconds(10)), BTreeSet::from([7]));
        // What waits again begins anew.
        scaler.decide(&demand(&[8], 0, &[]), &names([]), seconds(11));
        scaler.decide(&demand(&[7, 8], 0, &[]), &names([]), seconds(12));
        assert_eq!(scaler.patient(seconds(16)), BTreeSet::from([8]));
    }

    #[test]
    fn no_more_is_asked_for_than_there_may_be_nor_many_at_once() {
        let mut scaler = Scaler::new(elastic(20));
        assert_eq!(scaler.decide(&demand(&[1], 50, &[]), &names([]), seconds(0)), [Order::Ask(8)]);
        let mut scaler = Scaler::new(elastic(3));
        assert_eq!(scaler.decide(&demand(&[1], 2, &[]), &names(["e1"]), seconds(0)), [Order::Ask(2)]);
        assert_eq!(scaler.decide(&demand(&[1], 2, &[]), &names(["e1", "e2", "e3"]), seconds(1)), []);
        assert_eq!(scaler.decide(&demand(&[1], 0, &[]), &names(["e1"]), seconds(2)), []);
    }

    #[test]
    fn an_empty_node_is_drained_after_its_time_and_given_back_when_it_is_empty_still() {
        let mut scaler = Scaler::new(elastic(4));
        let there = names(["e1"]);
        let mut at = |second, empty, drained, lacking| {
            let seen = demand(&[], lacking, &[member("e1", empty, drained)]);
            scaler.decide(&seen, &there, seconds(second))
        };
        assert_eq!(at(0, true, false, 0), []);
        assert_eq!(at(50, false, false, 0), [], "it is of use again");
        assert_eq!(at(100, true, false, 0), []);
        assert_eq!(at(159, true, false, 0), []);
        assert_eq!(at(160, true, false, 0), [Order::Drain("e1".into())]);
        assert_eq!(at(161, false, true, 0), [], "something came before it was closed");
        assert_eq!(at(200, true, true, 0), [Order::Release("e1".into())]);
        // While more are lacking none is given back.
        assert_eq!(at(300, true, false, 1), [Order::Ask(1)]);
        assert_eq!(at(400, true, false, 1), [Order::Ask(1)]);
    }

    #[test]
    fn a_request_that_nobody_needs_any_more_is_taken_back() {
        let mut scaler = Scaler::new(elastic(4));
        let asked = names(["e1"]);
        assert_eq!(scaler.decide(&demand(&[7], 0, &[]), &asked, seconds(0)), []);
        assert_eq!(scaler.decide(&demand(&[], 0, &[]), &asked, seconds(10)), []);
        assert_eq!(scaler.decide(&demand(&[], 0, &[]), &asked, seconds(70)), [Order::Release("e1".into())]);
        assert_eq!(
            scaler.decide(&demand(&[7], 1, &[]), &names([]), seconds(71)),
            [Order::Ask(1)],
            "no failure"
        );
        let lost = Member { present: false, lost: true, ..member("e2", true, false) };
        let orders = scaler.decide(&demand(&[], 0, &[lost]), &names(["e2"]), seconds(72));
        assert_eq!(orders, [Order::Release("e2".into())], "its host without its agent");
    }

    #[test]
    fn after_failures_the_next_request_waits_longer_each_time_until_one_comes() {
        let mut scaler = Scaler::new(elastic(4));
        let wants = demand(&[7], 1, &[]);
        let mut now = 0;
        let mut asked_at = Vec::new();
        while asked_at.len() < 9 {
            if scaler.decide(&wants, &names([]), seconds(now)) == [Order::Ask(1)] {
                asked_at.push(now);
                scaler.was_asked("e1");
            }
            now += 1;
        }
        let pauses: Vec<u64> = asked_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses, [6, 11, 21, 41, 81, 161, 321, 601], "a second until it is seen, and the pause");
        scaler.decide(&demand(&[7], 0, &[member("e1", false, false)]), &names(["e1"]), seconds(now));
        scaler.decide(&wants, &names([]), seconds(now + 1));
        assert_eq!(scaler.rests(seconds(now + 1)), None, "one that has been there is no failure");
        scaler.failed(seconds(now + 2));
        assert_eq!(scaler.rests(seconds(now + 2)), Some(seconds(5)), "and the pauses begin anew");
    }
}
