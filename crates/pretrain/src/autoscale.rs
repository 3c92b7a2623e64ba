//! How many synthesizers there should be: a pure function of what was seen.
//!
//! The signal is starvation: the share of the last interval in which some trainer waited for a batch. Starved
//! trainers add a synthesizer; synthesizers that have nothing to lease, or batches that pile up sealed while nobody
//! waits, take one away. Rates are limited, so that one slow batch does not swing the pool.

use std::time::Duration;

/// Bounds and rates of the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Fewest synthesizers while there is work.
    pub min: u32,
    /// Most synthesizers.
    pub max: u32,
    /// Share of waiting time, 0 to 1, above which one is added.
    pub starved_above: f64,
    /// Least time between two additions.
    pub up_every: Duration,
    /// The pool must have been idle this long before one is taken away.
    pub idle_for: Duration,
}

impl Limits {
    /// Rates that suit chains of a few seconds.
    pub fn between(min: u32, max: u32) -> Self {
        Self {
            min,
            max,
            starved_above: 0.1,
            up_every: Duration::from_secs(5),
            idle_for: Duration::from_secs(15),
        }
    }
}

/// What was seen since the last decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signal {
    /// Time since the run began; it never goes back.
    pub now: Duration,
    /// Share of the interval in which trainers waited for a batch, 0 to 1.
    pub starved: f64,
    /// Synthesizers that run or start.
    pub present: u32,
    /// Whether chains are left that nobody holds.
    pub work_left: bool,
    /// Whether the queue towards the Packer is full, so that more hands would only wait.
    pub saturated: bool,
}

/// What to do with the pool, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Leave it.
    Keep,
    /// Start one more.
    Add(&'static str),
    /// Drain one.
    Remove(&'static str),
}

/// Memory between decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Autoscaler {
    last_added: Option<Duration>,
    idle_since: Option<Duration>,
}

impl Autoscaler {
    /// The next decision; at most one synthesizer comes or goes each time.
    pub fn decide(&mut self, signal: Signal, limits: &Limits) -> Decision {
        let Signal { now, starved, present, work_left, saturated } = signal;
        let idle = !work_left || saturated;
        self.idle_since = if idle { Some(self.idle_since.unwrap_or(now)) } else { None };

        if work_left && present < limits.min {
            return self.added(now, "fewer than the least");
        }
        let rested = self.last_added.is_none_or(|last| now.saturating_sub(last) >= limits.up_every);
        if !idle && starved > limits.starved_above && present < limits.max && rested {
            return self.added(now, "trainers wait for batches");
        }
        let floor = if work_left { limits.min } else { 0 };
        let idle_enough = self.idle_since.is_some_and(|since| now.saturating_sub(since) >= limits.idle_for);
        if idle_enough && present > floor {
            // The next one goes only after the pool was idle for as long again.
            self.idle_since = Some(now);
            return Decision::Remove(if work_left { "batches pile up" } else { "no chain is left" });
        }
        Decision::Keep
    }

    fn added(&mut self, now: Duration, why: &'static str) -> Decision {
        self.last_added = Some(now);
        Decision::Add(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn signal(now: u64, starved: f64, present: u32) -> Signal {
        Signal { now: seconds(now), starved, present, work_left: true, saturated: false }
    }

    #[test]
    fn a_lost_synthesizer_below_the_least_is_replaced_at_once() {
        let limits = Limits::between(2, 4);
        let mut scaler = Autoscaler::default();
        assert_eq!(scaler.decide(signal(0, 0.0, 1), &limits), Decision::Add("fewer than the least"));
        assert_eq!(scaler.decide(signal(0, 0.0, 1), &limits), Decision::Add("fewer than the least"));
    }

    #[test]
    fn starved_trainers_add_one_at_a_time_up_to_the_most() {
        let limits = Limits::between(1, 3);
        let mut scaler = Autoscaler::default();
        let added = (0..60).scan(1, |present, now| {
            if let Decision::Add(_) = scaler.decide(signal(now, 0.9, *present), &limits) {
                *present += 1;
            }
            Some(*present)
        });
        let sizes: Vec<u32> = added.collect();
        assert_eq!(sizes.last(), Some(&3));
        assert_eq!(sizes[3], 2, "the second addition must wait for the rate limit");
    }

    #[test]
    fn without_work_the_pool_drains_to_nothing() {
        let limits = Limits::between(1, 3);
        let mut scaler = Autoscaler::default();
        let mut present = 3;
        for now in 0..120 {
            let idle = Signal { work_left: false, ..signal(now, 0.0, present) };
            if let Decision::Remove(why) = scaler.decide(idle, &limits) {
                assert_eq!(why, "no chain is left");
                present -= 1;
            }
        }
        assert_eq!(present, 0);
    }

    #[test]
    fn a_saturated_pool_never_grows_however_starved() {
        let limits = Limits::between(1, 8);
        let mut scaler = Autoscaler::default();
        for now in 0..100 {
            let full = Signal { saturated: true, ..signal(now, 1.0, 2) };
            assert!(!matches!(scaler.decide(full, &limits), Decision::Add(_)));
        }
    }

    proptest! {
        #[test]
        fn the_pool_stays_within_its_bounds(
            steps in proptest::collection::vec((0.0..1.0_f64, any::<bool>(), any::<bool>(), 0..4_u64), 1..200),
            min in 1..4_u32,
            extra in 0..4_u32,
        ) {
            let limits = Limits::between(min, min + extra);
            let mut scaler = Autoscaler::default();
            let (mut present, mut now) = (0, 0);
            for (starved, work_left, saturated, passed) in steps {
                now += passed;
                let seen = Signal { now: seconds(now), starved, present, work_left, saturated };
                match scaler.decide(seen, &limits) {
                    Decision::Keep => {}
                    Decision::Add(_) => present += 1,
                    Decision::Remove(_) => present -= 1,
                }
                prop_assert!(present <= limits.max);
            }
        }
    }
}
