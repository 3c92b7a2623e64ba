//! Where a gang goes: all of it, or none.

use super::{Candidate, Impossible, SHOWN, Unplaced, listed, never_on};
use crate::control::resources::{Allotment, Ledger, Request, Strategy};

/// The node of each member of a gang of `size`, by rank, and what it is given there: of all of them or of none. Ranks on one
/// node follow each other.
///
/// All members ask for the same, so that taking one after the other finds room whenever there is some.
pub fn place_gang<'a>(
    nodes: impl Iterator<Item = Candidate<'a>>,
    request: &Request,
    size: usize,
) -> Result<Vec<(String, Allotment)>, Unplaced> {
    let nodes: Vec<Candidate<'a>> = nodes.collect();
    let ever = |node: &Candidate<'_>| match never_on(node, request) {
        Some(reason) => Err(reason),
        None => Ok(room(Ledger::new(node.ledger.capacity().clone()), request, size)),
    };
    let in_all: Vec<Result<usize, String>> = nodes.iter().map(ever).collect();
    let rooms: Vec<usize> = in_all.iter().map(|room| *room.as_ref().unwrap_or(&0)).collect();
    if !enough(&rooms, request.strategy, size) {
        let reason = |(node, room): (&Candidate<'_>, Result<usize, String>)| {
            let reason = room.map_or_else(|reason| reason, |room| format!("can hold {room} of them"));
            (node.name.to_owned(), reason)
        };
        return Err(Unplaced::Never(Impossible {
            what: format!("the present nodes can never hold a gang of {size}{}", manner(request.strategy)),
            reasons: nodes.iter().zip(in_all).map(reason).collect(),
        }));
    }
    let mut free: Vec<Free<'_>> = nodes
        .iter()
        .zip(&rooms)
        .filter(|(node, room)| node.closed.is_none() && **room > 0)
        .map(|(node, _)| Free {
            name: node.name,
            failures: node.failures,
            room: room(node.ledger.clone(), request, size),
            ledger: node.ledger.clone(),
            given: Vec::new(),
        })
        .collect();
    let rooms: Vec<usize> = free.iter().map(|node| node.room).collect();
    if !enough(&rooms, request.strategy, size) {
        return Err(Unplaced::Later);
    }
    for done in 0..size {
        let left = size - done;
        let open = free.iter_mut().filter(|node| node.room > 0);
        let chosen = match request.strategy {
            Strategy::Spread | Strategy::StrictSpread => {
                open.min_by_key(|node| (node.given.len(), node.failures, node.ledger.fullness(request)))
            }
            // One that is begun is filled first; else one that takes all that is left, the fullest of these; else the roomiest.
            Strategy::Pack | Strategy::StrictPack => open.min_by_key(|node| {
                let roomier = usize::MAX - node.room.min(left);
                (node.given.is_empty(), roomier, node.failures, u64::MAX - node.ledger.fullness(request))
            }),
        };
        match chosen {
            Some(node) => node.give(request),
            None => return Err(Unplaced::Later),
        }
    }
    let given = free.into_iter().flat_map(|node| {
        let name = node.name.to_owned();
        node.given.into_iter().map(move |given| (name.clone(), given))
    });
    Ok(given.collect())
}

/// Why a gang of `size` has no place now, of each of the nodes that may come to hold some of it.
pub fn gang_waits_for<'a>(
    nodes: impl Iterator<Item = Candidate<'a>>,
    request: &Request,
    size: usize,
) -> String {
    let possible = nodes.filter(|node| never_on(node, request).is_none());
    let reason = |node: Candidate<'_>| match node.closed {
        Some(why) => format!("{}: {why}", node.name),
        None => {
            format!("{}: room for {}", node.name, room(node.ledger.clone(), request, size))
        }
    };
    let manner = manner(request.strategy);
    format!("{size} at once{manner}: {}", listed(&possible.map(reason).collect::<Vec<_>>(), SHOWN))
}

/// A node that takes members.
struct Free<'a> {
    name: &'a str,
    failures: usize,
    /// It has room for so many more.
    room: usize,
    ledger: Ledger,
    given: Vec<Allotment>,
}

impl Free<'_> {
    fn give(&mut self, request: &Request) {
        if let Ok(given) = self.ledger.fit(request) {
            self.ledger.take(&given);
            self.given.push(given);
        }
        self.room -= 1;
    }
}

/// How many of `request` are given room in an account, as far as `most`.
fn room(mut ledger: Ledger, request: &Request, most: usize) -> usize {
    let most = match request.strategy {
        Strategy::StrictSpread => most.min(1),
        Strategy::Spread | Strategy::Pack | Strategy::StrictPack => most,
    };
    let take = |ledger: &mut Ledger| ledger.fit(request).ok().map(|given| ledger.take(&given));
    (0..most).take_while(|_| take(&mut ledger).is_some()).count()
}

/// Do nodes with room for so many each hold a gang of `size`?
fn enough(rooms: &[usize], strategy: Strategy, size: usize) -> bool {
    match strategy {
        Strategy::StrictPack => rooms.iter().any(|room| *room >= size),
        Strategy::StrictSpread => rooms.iter().filter(|room| **room > 0).count() >= size,
        Strategy::Pack | Strategy::Spread => rooms.iter().sum::<usize>() >= size,
    }
}

fn manner(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::StrictPack => ", all on one node",
        Strategy::StrictSpread => ", each on a node of its own",
        Strategy::Pack | Strategy::Spread => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::resources::Capacity;
    use crate::units::Milli;

    /// Nodes with so many cores each, of which so many are taken.
    fn place(nodes: &[(u64, u64)], strategy: Strategy, size: usize) -> Result<Vec<String>, Unplaced> {
        let labels = BTreeMap::new();
        let names = ["a", "b", "c", "d"];
        let ledgers: Vec<Ledger> = nodes
            .iter()
            .map(|(total, used)| {
                let mut ledger = Ledger::new(Capacity { cpus: Milli::whole(*total), ..Capacity::default() });
                ledger.take(&Allotment { cpus: Milli::whole(*used), ..Allotment::default() });
                ledger
            })
            .collect();
        let candidates = names.iter().zip(&ledgers).map(|(name, ledger)| Candidate {
            name,
            labels: &labels,
            ledger,
            failures: 0,
            closed: None,
        });
        let request = Request { cpus: Milli::whole(1), strategy, ..Request::default() };
        Ok(place_gang(candidates, &request, size)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn each_strategy_takes_its_own_nodes() {
        let nodes = [(4, 2), (4, 0), (2, 0), (4, 4)];
        assert_eq!(place(&nodes, Strategy::Pack, 2).unwrap(), ["a", "a"], "the fullest that takes all");
        assert_eq!(place(&nodes, Strategy::Pack, 5).unwrap(), ["a", "b", "b", "b", "b"]);
        assert_eq!(place(&nodes, Strategy::StrictPack, 3).unwrap(), ["b", "b", "b"]);
        assert_eq!(place(&nodes, Strategy::Spread, 3).unwrap(), ["a", "b", "c"]);
        assert_eq!(place(&nodes, Strategy::Spread, 8).unwrap(), ["a", "a", "b", "b", "b", "b", "c", "c"]);
        assert_eq!(place(&nodes, Strategy::StrictSpread, 2).unwrap(), ["b", "c"], "the emptiest");
    }

    #[test]
    fn what_fits_when_others_have_ended_waits() {
        let nodes = [(4, 2), (4, 3)];
        assert_eq!(place(&nodes, Strategy::Spread, 4), Err(Unplaced::Later));
        assert_eq!(place(&nodes, Strategy::StrictPack, 3), Err(Unplaced::Later));
        assert_eq!(place(&[(4, 4), (4, 0)], Strategy::StrictSpread, 2), Err(Unplaced::Later));
    }

    #[test]
    fn what_can_never_fit_says_how_much_each_node_can_hold() {
        let never = |strategy, size| match place(&[(4, 4), (2, 0)], strategy, size) {
            Err(Unplaced::Never(why)) => why.to_string(),
            other => panic!("{other:?}"),
        };
        let nodes = "node `a`: can hold 4 of them; node `b`: can hold 2 of them";
        assert_eq!(
            never(Strategy::Spread, 7),
            format!("the present nodes can never hold a gang of 7: {}", nodes)
        );
        let on_one = never(Strategy::StrictPack, 5);
        assert_eq!(
            on_one,
            "the present nodes can never hold a gang of 5, all on one node: node `a`: can hold 4 of them; \
             node `b`: can hold 2 of them"
        );
        assert!(
            never(Strategy::StrictSpread, 3).contains("a gang of 3, each on a node of its own: node `a`")
        );
    }
}
