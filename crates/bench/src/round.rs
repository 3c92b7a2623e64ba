//! One round of a work, and what several come to.

use rkyv::{Archive, Deserialize, Serialize};

/// What one party did in one round.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct Round {
    /// How often the work was done.
    pub done: u64,
    /// In how many seconds.
    pub seconds: f64,
    /// How long each took, in microseconds, where they were done one at a time; else empty.
    pub latencies_us: Vec<f64>,
}

impl Round {
    /// How often a second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.done as f64 / self.seconds } else { 0.0 }
    }
}

/// The rounds of one party.
#[derive(Debug, Clone, Default)]
pub struct Rounds(Vec<Round>);

impl Rounds {
    /// One more.
    pub fn add(&mut self, round: Round) {
        self.0.push(round);
    }

    /// The median of the rounds' rates; `None` before the first.
    pub fn rate(&self) -> Option<f64> {
        quantile(self.0.iter().map(Round::rate).collect(), 0.5)
    }

    /// The quantile `at` of all latencies, in microseconds; `None` where they were not taken one by one.
    pub fn latency(&self, at: f64) -> Option<f64> {
        quantile(self.0.iter().flat_map(|round| round.latencies_us.iter().copied()).collect(), at)
    }
}

/// The nearest-rank quantile `at` (0 to 1) of `values`.
fn quantile(mut values: Vec<f64>, at: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (at * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = || vec![5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(quantile(values(), 0.5), Some(3.0));
        assert_eq!(quantile(values(), 0.99), Some(5.0));
        assert_eq!(quantile(values(), 0.0), Some(1.0));
        assert_eq!(quantile(Vec::new(), 0.5), None);
    }

    #[test]
    fn a_partys_rate_is_the_median_of_its_rounds() {
        let mut rounds = Rounds::default();
        assert_eq!((rounds.rate(), rounds.latency(0.5)), (None, None));
        for (done, latency) in [(10, 7.0), (1000, 8.0), (20, 9.0)] {
            rounds.add(Round { done, seconds: 2.0, latencies_us: vec![latency] });
        }
        assert_eq!((rounds.rate(), rounds.latency(0.5)), (Some(10.0), Some(8.0)));
        assert_eq!(Round { done: 3, seconds: 0.0, latencies_us: Vec::new() }.rate(), 0.0);
    }
}
