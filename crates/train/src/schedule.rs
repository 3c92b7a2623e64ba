//! The learning rate of a step: linear warm-up, then half a cosine down to a minimum.

use std::f64::consts::PI;

/// A learning rate that rises linearly to its peak over the warm-up, falls along half a cosine to its minimum until the
/// last step, and stays there (Loshchilov & Hutter, arXiv 1608.03983, without restarts).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// The rate at the last step and ever after.
    pub minimum: f64,
    /// Steps of warm-up; the first of them already has `peak / warmup_steps`.
    pub warmup_steps: u64,
    /// All steps, those of the warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of the update numbered `step`, from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let last = self.total_steps.saturating_sub(1).max(self.warmup_steps);
        if step >= last {
            return self.minimum;
        }
        // The peak itself is the warm-up's last step; without one it is step 0.
        let start = self.warmup_steps.saturating_sub(1);
        let progress = (step - start) as f64 / (last - start) as f64;
        self.minimum + (self.peak - self.minimum) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { peak: 1e-3, minimum: 1e-4, warmup_steps: 10, total_steps: 110 };

    #[test]
    fn the_warm_up_is_linear_and_ends_at_the_peak() {
        assert_eq!(SCHEDULE.rate(0), 1e-4);
        assert_eq!(SCHEDULE.rate(4), 5e-4);
        assert_eq!(SCHEDULE.rate(9), 1e-3);
    }

    #[test]
    fn the_cosine_falls_through_the_middle_to_the_minimum_and_stays() {
        let middle = SCHEDULE.rate(59);
        assert!((middle - 5.5e-4).abs() < 1e-12, "{middle}");
        assert_eq!(SCHEDULE.rate(109), 1e-4);
        assert_eq!(SCHEDULE.rate(1_000_000), 1e-4);
        for step in 10..109 {
            assert!(SCHEDULE.rate(step) < SCHEDULE.rate(step - 1), "step {step}");
        }
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        let schedule = Schedule { warmup_steps: 0, ..SCHEDULE };
        assert_eq!(schedule.rate(0), 1e-3);
        assert_eq!(schedule.rate(109), 1e-4);
    }

    #[test]
    fn a_run_that_is_all_warm_up_has_rates_for_every_step() {
        let schedule = Schedule { warmup_steps: 5, total_steps: 3, ..SCHEDULE };
        assert_eq!(schedule.rate(4), 1e-3);
        assert_eq!(schedule.rate(5), 1e-4);
    }
}
