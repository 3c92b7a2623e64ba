//! Who waits for room, and when room is kept for it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// So long what waits may be overtaken by what fits before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether room is kept for what has waited so long: from [`PATIENCE`] on for as long again, then, if that was not enough, not for
/// twice as long, so that nothing is held up for ever, then for four times as long, and so on: in one of these times everything
/// that ends at all will have ended.
pub(super) fn keeps_room(waited: Duration) -> bool {
    let times = waited.as_secs() / PATIENCE.as_secs();
    times.checked_ilog2().is_some_and(|doublings| doublings % 2 == 0)
}

/// Room that is kept for the first in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// For whom.
    pub(super) unit: u64,
    /// The nodes on which nothing else is started.
    pub(super) nodes: BTreeSet<String>,
    /// What is said to those who wait for it.
    pub(super) why: String,
}

/// Actors and gangs that wait for room, in order of asking. What has been found not to fit is not tried again before there is
/// more room somewhere, however many events pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    /// Each with the time since when.
    waiting: VecDeque<(u64, Duration)>,
    /// So many of them, from the first, do not fit now.
    tried: usize,
}

impl Queue {
    pub(super) fn push(&mut self, unit: u64, now: Duration) {
        self.waiting.push_back((unit, now));
    }

    /// The first in line, and since when it has waited.
    pub(super) fn first(&self) -> Option<(u64, Duration)> {
        self.waiting.front().copied()
    }

    pub(super) fn remove(&mut self, unit: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != unit);
        // It may have stood among those that were tried; trying one too many is no harm.
        self.tried = 0;
    }

    /// There is more room than there was.
    pub(super) fn room_grew(&mut self) {
        self.tried = 0;
    }

    /// Those that may fit now, which wait no longer.
    pub(super) fn take_untried(&mut self) -> VecDeque<(u64, Duration)> {
        self.waiting.split_off(self.tried)
    }

    /// One of them does not fit.
    pub(super) fn put_back(&mut self, unit: u64, since: Duration) {
        self.waiting.push_back((unit, since));
        self.tried = self.waiting.len();
    }

    /// Those who wait, in order of asking.
    pub(super) fn units(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.iter().map(|(unit, _)| *unit)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_after_a_while_and_never_for_ever() {
        let minutes = |minutes| Duration::from_secs(60 * minutes);
        let kept: Vec<u64> = (0..70).filter(|waited| keeps_room(minutes(*waited))).collect();
        let expected: Vec<u64> = (1..2).chain(4..8).chain(16..32).chain(64..70).collect();
        assert_eq!(kept, expected);
        assert!(!keeps_room(PATIENCE - Duration::from_millis(1)) && keeps_room(PATIENCE));
        let longest = |until| {
            (0..until).map(minutes).map(keeps_room).fold((0, 0), |(longest, run), kept| {
                let run = if kept { run + 1 } else { 0 };
                (longest.max(run), run)
            })
        };
        assert!(longest(10_000).0 >= 4096, "as long as anything takes");
    }
}
