//! Whether an actor that died is started again, and when.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lyceum_actor::Restarts;

/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Restarts that were, and those that are to come. Of one term only: after a restart of the head all windows begin anew,
/// and who rests is started at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Rests {
    /// When actors with a window were started again, within it.
    past: BTreeMap<u64, VecDeque<Duration>>,
    /// Until when actors rest.
    resting: BTreeMap<u64, Duration>,
}

impl Rests {
    /// An actor has died with `left` restarts of its life: how many it has left after this one, if there is one, for
    /// which it now rests.
    pub(super) fn again(&mut self, actor: u64, policy: Restarts, left: u32, now: Duration) -> Option<u32> {
        let (spent, left) = match policy.within_ms {
            0 => (policy.count.saturating_sub(left), left.checked_sub(1)?),
            window => {
                let window = Duration::from_millis(window);
                let past = self.past.entry(actor).or_default();
                past.retain(|at| now.saturating_sub(*at) < window);
                let spent = u32::try_from(past.len()).unwrap_or(u32::MAX);
                let left = policy.count.checked_sub(spent)?.checked_sub(1)?;
                past.push_back(now);
                (spent, left)
            }
        };
        let doubled = policy.pause_ms.saturating_mul(1 << spent.min(32));
        self.resting.insert(actor, now + Duration::from_millis(doubled).min(LONGEST_PAUSE));
        Some(left)
    }

    /// Those whose rest is over; they are to be placed.
    pub(super) fn due(&mut self, now: Duration) -> Vec<u64> {
        let due: Vec<u64> =
            self.resting.iter().filter(|(_, until)| **until <= now).map(|(actor, _)| *actor).collect();
        self.resting.retain(|_, until| *until > now);
        due
    }

    pub(super) fn is_resting(&self, actor: u64) -> bool {
        self.resting.contains_key(&actor)
    }

    /// The actor has ended.
    pub(super) fn forget(&mut self, actor: u64) {
        self.past.remove(&actor);
        self.resting.remove(&actor);
    }
}
