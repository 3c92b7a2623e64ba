//! The board of regions, as the agent acts on it for the table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{TransitRules, Usage};
use crate::pool::Place;
use crate::region::{Board, Hand, State};
use crate::table::{Event, Looked};

/// A region that was not used for this long goes back.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// Since when each region is as it is, as far as it was looked at.
#[derive(Debug, Default)]
pub(super) struct Watch(BTreeMap<u32, (State, Duration)>);

/// What is to be done with a region that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Leave,
    /// Nobody uses it.
    Idle,
    /// Nobody will open what is in it.
    Expired,
    /// It is the agent's, and who freed it did not say so.
    Untold,
}

impl Watch {
    /// Looks at some, which are all that there are; returns what the table is to be told.
    pub fn look(
        &mut self,
        board: &Board,
        regions: &[Looked],
        rules: TransitRules,
        now: Duration,
    ) -> Vec<Event> {
        self.0.retain(|slot, _| regions.iter().any(|region| region.slot == *slot));
        let mut events = Vec::new();
        for region in regions {
            let (slot, state) = (region.slot, board.state(region.slot));
            match self.judge(region, state, rules, now) {
                Verdict::Leave => {}
                Verdict::Idle => events.push(Event::RegionIdle { slot }),
                Verdict::Expired if board.expire(slot, state) => events.push(Event::RegionFree { slot }),
                Verdict::Expired => {}
                Verdict::Untold => events.push(Event::RegionFree { slot }),
            }
        }
        events
    }

    fn judge(&mut self, region: &Looked, state: State, rules: TransitRules, now: Duration) -> Verdict {
        let seen = self.0.entry(region.slot).or_insert((state, now));
        if seen.0 != state {
            *seen = (state, now);
        }
        let since = seen.1;
        match state.hand() {
            Some(Hand::Transit) => {
                let orphaned = region.orphaned.is_some_and(|at| now >= at + rules.orphaned);
                if orphaned || now >= since + rules.unclaimed { Verdict::Expired } else { Verdict::Leave }
            }
            Some(Hand::Free) if state.wanted() => Verdict::Untold,
            Some(Hand::Free) if now >= since + IDLE => Verdict::Idle,
            _ => Verdict::Leave,
        }
    }
}

/// Counts what is in regions.
pub(super) fn count(board: &Board, regions: impl Iterator<Item = (u32, Place)>, usage: &mut Usage) {
    for (slot, place) in regions {
        match board.state(slot).hand() {
            Some(Hand::Free) => {
                usage.bytes_in_use = usage.bytes_in_use.saturating_sub(place.len);
                usage.bytes_kept += place.len;
            }
            Some(Hand::Transit) => usage.in_transit += 1,
            Some(Hand::Open) => usage.leases += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Words;
    use crate::region::{BOARD_BYTES, Taken};

    const RULES: TransitRules =
        TransitRules { unclaimed: Duration::from_secs(600), orphaned: Duration::from_secs(10) };
    const PLACE: Place = Place { segment: 0, segment_bytes: 1 << 20, offset: 0, len: 1 << 16 };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_region_goes_back_that_is_not_used_and_what_nobody_opens_is_freed_in_time() {
        let board = Board::new(Words::create("test-board", BOARD_BYTES).unwrap().0).unwrap();
        let (mut watch, rules) = (Watch::default(), RULES);
        let regions = [Looked { slot: 7, orphaned: None }];
        let mut last = board.give(7, PLACE);
        assert_eq!(watch.look(&board, &regions, rules, at(0)).len(), 0);
        assert_eq!(watch.look(&board, &regions, rules, at(9)).len(), 0);
        assert!(matches!(watch.look(&board, &regions, rules, at(10))[..], [Event::RegionIdle { slot: 7 }]));
        // Used since: it stays.
        let Taken::Ours(of) = board.take(7, last) else { panic!() };
        last = of;
        assert!(!board.abandon(7, of).0);
        assert_eq!(watch.look(&board, &regions, rules, at(11)).len(), 0);
        let Taken::Ours(of) = board.take(7, last) else { panic!() };
        assert!(board.send(7, of, 2, 99, 5));
        assert_eq!(watch.look(&board, &regions, rules, at(12)).len(), 0);
        assert_eq!(watch.look(&board, &regions, rules, at(611)).len(), 0);
        assert!(board.open(7, 2, 98).is_none(), "not its ticket");
        // Freed, and still its keeper's.
        assert_eq!(watch.look(&board, &regions, rules, at(612)).len(), 0);
        assert!(board.open(7, 2, 99).is_none());
        let Taken::Ours(of) = board.take(7, of) else { panic!() };
        assert!(board.send(7, of, 2, 100, 5));
        // Its keeper has ended.
        assert!(!board.want(7, true));
        let opened = board.open(7, 2, 100).unwrap();
        // And the reader before it has told.
        assert!(board.release(7, opened.of).0);
        assert!(matches!(watch.look(&board, &regions, rules, at(613))[..], [Event::RegionFree { slot: 7 }]));
        last = board.give(7, PLACE);
        let Taken::Ours(of) = board.take(7, last) else { panic!() };
        assert!(board.send(7, of, 2, 101, 5));
        assert!(!board.want(7, true));
        let orphan = [Looked { slot: 7, orphaned: Some(at(620)) }];
        assert_eq!(watch.look(&board, &orphan, rules, at(629)).len(), 0);
        assert!(matches!(watch.look(&board, &orphan, rules, at(630))[..], [Event::RegionFree { slot: 7 }]));
    }
}
