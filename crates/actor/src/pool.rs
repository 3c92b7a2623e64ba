//! How many actors a pool should have: a pure function of what was seen.
//!
//! A pool is actors that share one kind of work, between a least and a most. Two signals say that it is too small: work that nobody
//! has taken (`queued`), and time in which those it works for had to wait (`starved`). It is too large when for a while there was
//! nothing to take, or what it makes was not taken. Rates are limited both ways, so that one slow answer does not swing the pool.
//!
//! ```
//! # use std::time::Duration;
//! # use lyceum_actor::pool::{Change, Limits, Pool, Signal};
//! let limits = Limits { queued_each: Some(10), ..Limits::between(1, 4) };
//! let mut pool = Pool::default();
//! let seen = Signal { present: 2, queued: 50, ..Signal::default() };
//! assert_eq!(pool.decide(&limits, seen, Duration::from_secs(60)), Change::Add(1, "work waits"));
//! ```

use std::time::Duration;

/// Bounds and rates of a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Fewest actors; those that are missing are added at once, as after a death.
    pub min: u32,
    /// Most actors.
    pub max: u32,
    /// Share of time in which somebody waited for the pool, 0 to 1, above which it grows.
    pub starved_above: f64,
    /// Pieces of work that wait for each actor, above which it grows; without it only starvation counts.
    pub queued_each: Option<u64>,
    /// So many are added at a time.
    pub up_by: u32,
    /// Least time between two additions.
    pub up_every: Duration,
    /// The pool must have been idle this long before any is taken away.
    pub idle_for: Duration,
    /// So many are taken away at a time.
    pub down_by: u32,
    /// Least time between two removals.
    pub down_every: Duration,
}

impl Limits {
    /// Rates that suit work of a few seconds.
    pub fn between(min: u32, max: u32) -> Self {
        Self {
            min,
            max,
            starved_above: 0.1,
            queued_each: None,
            up_by: 1,
            up_every: Duration::from_secs(5),
            idle_for: Duration::from_secs(15),
            down_by: 1,
            down_every: Duration::from_secs(15),
        }
    }
}

/// What was seen since the last decision.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Signal {
    /// Actors that run or start.
    pub present: u32,
    /// Pieces of work that nobody has taken.
    pub queued: u64,
    /// Share of the time in which somebody waited for what the pool makes, 0 to 1.
    pub starved: f64,
    /// Whether what it makes is not taken, so that more hands would only wait.
    pub blocked: bool,
}

/// What to do with the pool, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Leave it.
    Keep,
    /// Start so many more.
    Add(u32, &'static str),
    /// Drain so many.
    Remove(u32, &'static str),
}

/// Memory between decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pool {
    added: Option<Duration>,
    removed: Option<Duration>,
    idle_since: Option<Duration>,
}

impl Pool {
    /// The next decision; `now` is any time that never goes back.
    pub fn decide(&mut self, limits: &Limits, seen: Signal, now: Duration) -> Change {
        let Signal { present, queued, starved, blocked } = seen;
        let (min, max) = (limits.min.min(limits.max), limits.max);
        let idle = queued == 0 || blocked;
        self.idle_since = if idle { Some(self.idle_since.unwrap_or(now)) } else { None };
        let rested =
            |last: Option<Duration>, every| last.is_none_or(|last| now.saturating_sub(last) >= every);

        if present < min {
            self.added = Some(now);
            return Change::Add(min - present, "fewer than the least");
        }
        if present > max {
            self.removed = Some(now);
            return Change::Remove(present - max, "more than the most");
        }
        let waits = limits.queued_each.is_some_and(|each| queued > each.saturating_mul(present.into()));
        let starves = starved > limits.starved_above;
        let more = limits.up_by.min(max - present);
        if !idle && (waits || starves) && more > 0 && rested(self.added, limits.up_every) {
            self.added = Some(now);
            return Change::Add(more, if starves { "those it works for wait" } else { "work waits" });
        }
        let fewer = limits.down_by.min(present - min);
        let idle_long = self.idle_since.is_some_and(|since| now.saturating_sub(since) >= limits.idle_for);
        if idle_long && fewer > 0 && rested(self.removed, limits.down_every) {
            self.removed = Some(now);
            return Change::Remove(
                fewer,
                if queued == 0 { "no work is left" } else { "what it makes piles up" },
            );
        }
        Change::Keep
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn starved(present: u32) -> Signal {
        Signal { present, queued: 1, starved: 0.9, blocked: false }
    }

    /// Sizes of a pool that begins with `present` and is seen each second.
    fn sizes(limits: &Limits, mut present: u32, count: u64, seen: impl Fn(u32) -> Signal) -> Vec<u32> {
        let mut pool = Pool::default();
        let mut next = |second| {
            match pool.decide(limits, seen(present), seconds(second)) {
                Change::Keep => {}
                Change::Add(more, _) => present += more,
                Change::Remove(fewer, _) => present -= fewer,
            }
            present
        };
        (0..count).map(&mut next).collect()
    }

    #[test]
    fn what_is_missing_to_the_least_is_added_at_once() {
        let limits = Limits::between(2, 4);
        let mut pool = Pool::default();
        let seen = Signal { queued: 1, ..Signal::default() };
        assert_eq!(pool.decide(&limits, seen, seconds(0)), Change::Add(2, "fewer than the least"));
        let seen = Signal { present: 1, ..seen };
        assert_eq!(pool.decide(&limits, seen, seconds(0)), Change::Add(1, "fewer than the least"));
    }

    #[test]
    fn those_who_wait_add_as_many_as_the_rate_allows_up_to_the_most() {
        let sizes_by = |up_by| sizes(&Limits { up_by, ..Limits::between(1, 4) }, 1, 20, starved);
        let ones = sizes_by(1);
        assert_eq!((ones[0], ones[4], ones[5], ones[10], ones[19]), (2, 2, 3, 4, 4));
        let twos = sizes_by(2);
        assert_eq!((twos[0], twos[4], twos[5], twos[19]), (3, 3, 4, 4));
    }

    #[test]
    fn a_queue_adds_until_each_has_as_much_as_it_may() {
        let limits = Limits { queued_each: Some(10), ..Limits::between(0, 9) };
        let queued = sizes(&limits, 0, 60, |present| Signal { present, queued: 35, ..Signal::default() });
        assert_eq!((queued[0], queued[59]), (1, 4), "the first for any work at all");
        let unheard = Limits { queued_each: None, ..limits };
        assert_eq!(
            sizes(&unheard, 1, 60, |present| Signal { present, queued: 35, ..Signal::default() })[59],
            1
        );
    }

    #[test]
    fn an_idle_pool_shrinks_to_its_least_at_its_rate_when_it_has_been_idle_for_long_enough() {
        let limits = Limits { idle_for: seconds(10), down_every: seconds(3), ..Limits::between(1, 4) };
        let idle = sizes(&limits, 4, 40, |present| Signal { present, ..Signal::default() });
        assert_eq!((idle[9], idle[10], idle[12], idle[13], idle[16], idle[39]), (4, 3, 3, 2, 1, 1));
    }

    #[test]
    fn what_piles_up_never_adds_however_many_wait() {
        let seen = |present| Signal { queued: 99, starved: 1.0, blocked: true, present };
        let limits = Limits { queued_each: Some(1), ..Limits::between(1, 8) };
        assert!(sizes(&limits, 2, 100, seen).into_iter().all(|size| size <= 2));
    }

    proptest! {
        #[test]
        fn a_pool_keeps_to_its_bounds_and_rates(
            steps in proptest::collection::vec((0.0..1.0_f64, 0..20_u64, any::<bool>(), 0..4_u64, 0..20_u32), 1..200),
            min in 0..4_u32,
            extra in 0..5_u32,
            (up_by, down_by) in (1..4_u32, 1..4_u32),
            each in proptest::option::of(0..5_u64),
        ) {
            let limits = Limits { up_by, down_by, queued_each: each, ..Limits::between(min, min + extra) };
            let (mut pool, mut again) = (Pool::default(), Pool::default());
            let (mut present, mut now) = (0_u32, seconds(0));
            let (mut added, mut removed, mut idle_from): (Option<Duration>, Option<Duration>, Option<Duration>) =
                (None, None, None);
            for (starved, queued, blocked, passed, lost) in steps {
                now += seconds(passed);
                // Some die.
                present -= if lost < 2 { lost.min(present) } else { 0 };
                let seen = Signal { present, queued, starved, blocked };
                let change = pool.decide(&limits, seen, now);
                prop_assert_eq!(change, again.decide(&limits, seen, now), "the same for the same");
                let idle = queued == 0 || blocked;
                idle_from = if idle { idle_from.or(Some(now)) } else { None };
                match change {
                    Change::Keep => prop_assert!(present >= limits.min),
                    Change::Add(more, why) => {
                        let missing = present < limits.min;
                        prop_assert_eq!(missing, why == "fewer than the least");
                        if !missing {
                            prop_assert!(!idle && more <= up_by, "{more} are added");
                            prop_assert!(added.is_none_or(|at| now - at >= limits.up_every));
                        }
                        added = Some(now);
                        present += more;
                    }
                    Change::Remove(fewer, _) => {
                        prop_assert!(fewer <= down_by);
                        prop_assert!(idle_from.is_some_and(|from| now - from >= limits.idle_for));
                        prop_assert!(removed.is_none_or(|at| now - at >= limits.down_every));
                        removed = Some(now);
                        present -= fewer;
                    }
                }
                prop_assert!((limits.min..=limits.max).contains(&present), "{present} actors");
            }
        }
    }
}
