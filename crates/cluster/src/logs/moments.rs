//! When which part of a log was written: what `--since` needs, whatever the lines look like.

/// Most moments of one log.
const MAX: usize = 128;

/// How long a log was at which time, oldest first. As it grows, more and more moments lie between two that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Moments(Vec<(u64, u64)>);

impl Moments {
    /// At `now_ms` so much was `written`.
    pub(super) fn note(&mut self, now_ms: u64, written: u64) {
        if self.0.last().is_some_and(|(_, last)| *last == written) {
            return;
        }
        if self.0.len() >= MAX {
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        self.0.push((now_ms, written));
    }

    /// A place before which nothing was written since `moment_ms`, as late as is known.
    pub(super) fn before(&self, moment_ms: u64) -> u64 {
        let later = self.0.partition_point(|(at, _)| *at <= moment_ms);
        later.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_since_a_moment_is_never_left_out() {
        let mut moments = Moments::default();
        for second in 0..10_000_u64 {
            // Silence in between.
            if !(3000..7000).contains(&second) {
                moments.note(second * 1000, second * 10);
            }
            assert!(moments.0.len() <= MAX);
        }
        assert_eq!(moments.before(0), 0);
        assert_eq!(moments.before(u64::MAX), 99_990);
        for second in [10, 999, 2999, 8000, 9990] {
            let place = moments.before(second * 1000 + 500);
            assert!(place <= second * 10, "{second}: {place}");
        }
        let coarse = 10_000 * 10 / (MAX as u64 / 4);
        assert!(moments.before(9_990_500) + coarse >= 99_900);
    }
}
