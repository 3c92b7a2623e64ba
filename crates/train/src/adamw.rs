//! AdamW over the flat shards of a rank: one pass over memory, shared out among threads.

use std::ops::Range;

use half::bf16;

use crate::{
    kernel::{self, AdamWStep, CHUNK},
    parallel::in_parallel,
};

/// AdamW's constants (Loshchilov & Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay: each step takes `learning rate * weight_decay` of a decayed parameter's value away.
    pub weight_decay: f64,
}

impl AdamW {
    /// The scalars of the update numbered `update`, from 1, and the factor that decayed parameters keep.
    pub fn step(&self, update: u64, learning_rate: f64, gradient_scale: f64) -> (AdamWStep, f32) {
        let t = update as f64;
        let step = AdamWStep {
            gradient_scale: gradient_scale as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (learning_rate / (1.0 - self.beta1.powf(t))) as f32,
            inverse_root_correction: (1.0 / (1.0 - self.beta2.powf(t)).sqrt()) as f32,
            epsilon: self.epsilon as f32,
        };
        (step, (1.0 - learning_rate * self.weight_decay) as f32)
    }
}

/// A rank's shard of one group: what AdamW reads and writes.
pub struct Shard<'a> {
    /// The reduced gradient.
    pub gradient: &'a [f32],
    /// The parameters in single precision.
    pub master: &'a mut [f32],
    /// The mean of gradients.
    pub moment1: &'a mut [f32],
    /// The mean of squared gradients.
    pub moment2: &'a mut [f32],
    /// The parameters that the model computes with, where they are not the masters themselves.
    pub weights: Option<&'a mut [bf16]>,
    /// Elements of this shard before this one are decayed.
    pub decayed: usize,
}

/// Updates all shards. The result does not depend on `threads`.
pub fn update(shards: Vec<Shard<'_>>, step: &AdamWStep, keep: f32, threads: usize) {
    let jobs = shards.into_iter().flat_map(Shard::into_chunks).collect();
    in_parallel(jobs, threads, |chunk| chunk.update(step, keep));
}

/// The sum of squares of all slices in double precision, added in a fixed order: it does not depend on `threads`.
pub fn sum_of_squares(slices: &[&[f32]], threads: usize) -> f64 {
    let chunks: Vec<&[f32]> = slices.iter().flat_map(|slice| slice.chunks(CHUNK)).collect();
    let mut partial = vec![0.0; chunks.len()];
    let jobs = chunks.into_iter().zip(partial.iter_mut()).collect();
    in_parallel(jobs, threads, |(chunk, sum)| *sum = kernel::sum_of_squares(chunk));
    partial.iter().sum()
}

impl<'a> Shard<'a> {
    /// Cuts the shard into jobs, none of which crosses the border between decayed and not decayed.
    fn into_chunks(self) -> Vec<Shard<'a>> {
        let mut chunks = Vec::new();
        let mut rest = self;
        while !rest.master.is_empty() {
            let limit = if rest.decayed > 0 { rest.decayed } else { rest.master.len() };
            let (first, after) = rest.split_at(limit.min(CHUNK));
            chunks.push(first);
            rest = after;
        }
        chunks
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (gradient0, gradient1) = self.gradient.split_at(at);
        let (master0, master1) = self.master.split_at_mut(at);
        let (first0, first1) = self.moment1.split_at_mut(at);
        let (second0, second1) = self.moment2.split_at_mut(at);
        let (weights0, weights1) = match self.weights.map(|weights| weights.split_at_mut(at)) {
            Some((before, after)) => (Some(before), Some(after)),
            None => (None, None),
        };
        let decayed = self.decayed;
        (
            Self {
                gradient: gradient0,
                master: master0,
                moment1: first0,
                moment2: second0,
                weights: weights0,
                decayed: decayed.min(at),
            },
            Self {
                gradient: gradient1,
                master: master1,
                moment1: first1,
                moment2: second1,
                weights: weights1,
                decayed: decayed.saturating_sub(at),
            },
        )
    }

    fn update(self, step: &AdamWStep, keep: f32) {
        let keep = if self.decayed > 0 { keep } else { 1.0 };
        kernel::adamw(step, keep, self.gradient, self.master, self.moment1, self.moment2);
        if let Some(weights) = self.weights {
            kernel::round_to_bf16(self.master, weights);
        }
    }
}

/// How many elements of `part` come before `border`: the decayed part of a shard.
pub fn before(border: usize, part: &Range<usize>) -> usize {
    border.clamp(part.start, part.end) - part.start
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };

    fn wave(len: usize, phase: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
    }

    fn run(len: usize, decayed: usize, threads: usize, updates: u64) -> (Vec<f32>, Vec<bf16>) {
        let mut master = wave(len, 0.0);
        let (mut moment1, mut moment2) = (vec![0.0; len], vec![0.0; len]);
        let mut weights = vec![bf16::ZERO; len];
        for t in 1..=updates {
            let gradient = wave(len, t as f32);
            let (step, keep) = ADAMW.step(t, 1e-2, 0.5);
            let shard = Shard {
                gradient: &gradient,
                master: &mut master,
                moment1: &mut moment1,
                moment2: &mut moment2,
                weights: Some(&mut weights),
                decayed,
            };
            update(vec![shard], &step, keep, threads);
        }
        (master, weights)
    }

    /// The textbook's update of one parameter, in double precision.
    fn textbook(start: f64, gradients: impl Iterator<Item = f64>, decay: f64) -> f64 {
        let (mut p, mut m, mut v) = (start, 0.0, 0.0);
        for (t, g) in gradients.enumerate() {
            let t = t as i32 + 1;
            p -= 1e-2 * decay * p;
            m = ADAMW.beta1 * m + (1.0 - ADAMW.beta1) * g;
            v = ADAMW.beta2 * v + (1.0 - ADAMW.beta2) * g * g;
            let (m, v) = (m / (1.0 - ADAMW.beta1.powi(t)), v / (1.0 - ADAMW.beta2.powi(t)));
            p -= 1e-2 * m / (v.sqrt() + ADAMW.epsilon);
        }
        p
    }

    #[test]
    fn ten_updates_are_those_of_the_textbook_with_and_without_decay() {
        let (master, weights) = run(100, 60, 1, 10);
        let gradients: Vec<_> = (1..=10).map(|t| wave(100, t as f32)).collect();
        for i in 0..100 {
            let decay = if i < 60 { ADAMW.weight_decay } else { 0.0 };
            let start = f64::from(wave(100, 0.0)[i]);
            let expected = textbook(start, gradients.iter().map(|g| 0.5 * f64::from(g[i])), decay);
            assert!((f64::from(master[i]) - expected).abs() < 1e-6, "{i}: {} for {expected}", master[i]);
            assert_eq!(weights[i], bf16::from_f32(master[i]));
        }
    }

    #[test]
    fn l5_the_number_of_threads_changes_no_bit() {
        let len = 3 * CHUNK + 17;
        let one = run(len, CHUNK + 5, 1, 2);
        assert!(one == run(len, CHUNK + 5, 4, 2));
        let values = wave(len, 0.3);
        let sum = |threads| sum_of_squares(&[&values[..1000], &values[1000..]], threads).to_bits();
        assert_eq!(sum(1), sum(5));
    }

    #[test]
    fn the_border_of_decay_falls_into_the_right_shard() {
        assert_eq!(before(130, &(0..80)), 80);
        assert_eq!(before(130, &(80..160)), 50);
        assert_eq!(before(130, &(160..240)), 0);
    }
}
