//! Who waits for room.

use std::collections::VecDeque;

/// Actors and gangs that wait for room, in order of asking. What has been found not to fit is not tried again before there is
/// more room somewhere, however many events pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    waiting: VecDeque<u64>,
    /// So many of them, from the first, do not fit now.
    tried: usize,
}

impl Queue {
    pub(super) fn push(&mut self, unit: u64) {
        self.waiting.push_back(unit);
    }

    pub(super) fn remove(&mut self, unit: u64) {
        self.waiting.retain(|waiting| *waiting != unit);
        // It may have stood among those that were tried; trying one too many is no harm.
        self.tried = 0;
    }

    /// There is more room than there was.
    pub(super) fn room_grew(&mut self) {
        self.tried = 0;
    }

    /// Those that may fit now, which wait no longer.
    pub(super) fn take_untried(&mut self) -> VecDeque<u64> {
        self.waiting.split_off(self.tried)
    }

    /// One of them does not fit.
    pub(super) fn put_back(&mut self, unit: u64) {
        self.waiting.push_back(unit);
        self.tried = self.waiting.len();
    }

    /// Those who wait, in order of asking.
    pub(super) fn units(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Extend<u64> for Queue {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, units: I) {
        self.waiting.extend(units);
    }
}
