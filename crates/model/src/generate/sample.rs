//! Choosing the next token from logits.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// How a request's tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// The likeliest token; of equals the first.
    Greedy,
    /// Drawn from softmax(logits / temperature), from the smallest set of likeliest tokens that holds `top_p` of the
    /// mass.
    Sampled {
        /// Above zero; below one sharpens.
        temperature: f32,
        /// In (0, 1]; one is the whole vocabulary.
        top_p: f32,
        /// This request's own stream of draws.
        random: Box<ChaCha8Rng>,
    },
}

impl Choice {
    /// Chooses from one row of finite logits; `None` where one is not finite or there is none.
    pub(super) fn choose(&mut self, logits: &[f32]) -> Option<usize> {
        let (likeliest, top) = highest(logits)?;
        match self {
            Self::Greedy => Some(likeliest),
            Self::Sampled { temperature, top_p, random } => {
                let weights: Vec<f32> =
                    logits.iter().map(|logit| ((logit - top) / *temperature).exp()).collect();
                Some(draw(weights, *top_p, random.random::<f32>()))
            }
        }
    }
}

/// Index and value of the highest logit, the first of equals; `None` if any is NaN or infinite.
fn highest(logits: &[f32]) -> Option<(usize, f32)> {
    let mut best = None;
    for (index, logit) in logits.iter().copied().enumerate() {
        if !logit.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, top)| logit > top) {
            best = Some((index, logit));
        }
    }
    best
}

/// Inverse transform of `uniform` in [0, 1) over the nucleus of `weights` (not normalised, the largest is 1).
fn draw(weights: Vec<f32>, top_p: f32, uniform: f32) -> usize {
    let total: f32 = weights.iter().sum();
    if top_p >= 1.0 {
        return pick(weights.into_iter().enumerate(), total * uniform);
    }
    let nucleus = nucleus(weights, top_p * total);
    let mass: f32 = nucleus.iter().map(|(_, weight)| weight).sum();
    pick(nucleus.into_iter(), mass * uniform)
}

/// The fewest heaviest tokens that together weigh at least `mass`, heaviest first, of equals the lower index. Only as
/// many as needed are sorted: the set is small where top-p is of use.
fn nucleus(weights: Vec<f32>, mass: f32) -> Vec<(usize, f32)> {
    let heavier = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut tokens: Vec<(usize, f32)> = weights.into_iter().enumerate().collect();
    let mut sorted = 64;
    loop {
        sorted = sorted.min(tokens.len());
        if sorted < tokens.len() {
            tokens.select_nth_unstable_by(sorted, heavier);
        }
        let mut front = tokens[..sorted].to_vec();
        front.sort_unstable_by(heavier);
        let mut gathered = 0.0;
        let enough = front.iter().position(|(_, weight)| {
            gathered += weight;
            gathered >= mass
        });
        if let Some(last) = enough {
            front.truncate(last + 1);
            return front;
        }
        if sorted == tokens.len() {
            return front; // Rounding: the sum of all stays just below the mass asked for.
        }
        sorted *= 8;
    }
}

fn pick(tokens: impl Iterator<Item = (usize, f32)>, mut mass: f32) -> usize {
    let mut chosen = 0;
    for (token, weight) in tokens {
        if weight > 0.0 {
            chosen = token;
            if mass < weight {
                break;
            }
            mass -= weight;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn sampled(temperature: f32, top_p: f32, seed: u64) -> Choice {
        Choice::Sampled { temperature, top_p, random: Box::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// How often each of the tokens is chosen in 20,000 draws.
    fn shares(mut choice: Choice, logits: &[f32]) -> Vec<f32> {
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[choice.choose(logits).unwrap()] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(Choice::Greedy.choose(&[0.0, 3.0, -1.0, 3.0]), Some(1));
    }

    #[test]
    fn a_logit_that_is_no_number_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Choice::Greedy.choose(&[0.0, bad]), None);
            assert_eq!(sampled(1.0, 0.9, 0).choose(&[0.0, bad]), None);
        }
        assert_eq!(Choice::Greedy.choose(&[]), None);
    }

    #[test]
    fn shares_follow_the_softmax_at_its_temperature() {
        let logits = [0.0, 1.0, 2.0];
        let found = shares(sampled(0.5, 1.0, 1), &logits);
        let total: f32 = logits.iter().map(|x| (x / 0.5f32).exp()).sum();
        for (share, logit) in found.iter().zip(logits) {
            let expected = (logit / 0.5f32).exp() / total;
            assert!((share - expected).abs() < 0.02, "{share} is not {expected}");
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_hold_the_mass_and_their_proportions() {
        // Probabilities 0.5, 0.3, 0.1, 0.1: 0.75 of the mass needs the first two.
        let logits = [0.1f32.ln(), 0.5f32.ln(), 0.1f32.ln(), 0.3f32.ln()];
        let found = shares(sampled(1.0, 0.75, 2), &logits);
        assert_eq!((found[0], found[2]), (0.0, 0.0));
        assert!((found[1] - 0.625).abs() < 0.02 && (found[3] - 0.375).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn a_nucleus_larger_than_the_first_sorted_part_is_whole() {
        let nucleus = nucleus(vec![1.0; 1000], 900.0);
        assert_eq!(nucleus.iter().map(|(token, _)| *token).collect::<Vec<_>>(), (0..900).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_stream_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |seed| {
            let mut choice = sampled(1.0, 0.9, seed);
            (0..20).map(|_| choice.choose(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
