//! Independent random streams, one for each (seed, document, decision).
//!
//! Every draw that shapes the training data comes from here. A stream is ChaCha8 under a key that *is* the triple
//! (seed, document, decision), so two different triples share nothing, the order in which streams are asked does
//! not matter, and a decision taken again after a restart is the same (L5). The integer draws are written out here,
//! because the sampling code of a random library may change between its versions and the data must not.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is being decided: a name, unique within the project, and an index for decisions taken more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    name: u64,
    index: u64,
}

impl Decision {
    /// The decision called `name`, for instance `"order.shuffle"`.
    pub const fn new(name: &'static str) -> Self {
        Self { name: fnv1a(name.as_bytes()), index: 0 }
    }

    /// The `index`-th decision of this name, for instance one for each option list of a document.
    pub const fn at(self, index: u64) -> Self {
        Self { name: self.name, index }
    }
}

/// FNV-1a, 64 bits: names are few, fixed and ours, so any hash without collisions among them serves.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// A stream of draws for one (seed, document, decision).
#[derive(Debug, Clone)]
pub struct Stream {
    generator: ChaCha8Rng,
}

impl Stream {
    /// The stream of `decision` about `document` (any stable number that names it) under the run's `seed`.
    pub fn new(seed: u64, document: u64, decision: Decision) -> Self {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&document.to_le_bytes());
        key[16..24].copy_from_slice(&decision.name.to_le_bytes());
        key[24..].copy_from_slice(&decision.index.to_le_bytes());
        Self { generator: ChaCha8Rng::from_seed(key) }
    }

    /// Sixty-four uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Uniform in `0..bound`, without bias. A `bound` of zero gives zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // Lemire, "Fast random integer generation in an interval" (2019): multiply, reject the biased low part.
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// A uniform index into a slice of `length` elements; zero for an empty one.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True with a probability of `parts` in `whole`.
    pub fn chance(&mut self, parts: u64, whole: u64) -> bool {
        self.below(whole) < parts
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An index drawn in proportion to `weights`; zero when they are empty or all zero.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        0
    }

    /// Shuffles in place: Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COIN: Decision = Decision::new("test.coin");

    #[test]
    fn l5_a_decision_taken_again_is_the_same() {
        let draw = || -> Vec<u64> {
            let mut stream = Stream::new(7, 11, COIN);
            (0..8).map(|_| stream.bits()).collect()
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn seed_document_decision_and_index_each_give_another_stream() {
        let first = |seed, document, decision| Stream::new(seed, document, decision).bits();
        let all = [
            first(1, 2, COIN),
            first(2, 1, COIN),
            first(1, 3, COIN),
            first(1, 2, COIN.at(1)),
            first(1, 2, Decision::new("test.other")),
        ];
        for (index, value) in all.iter().enumerate() {
            assert!(!all[..index].contains(value), "stream {index} repeats an earlier one");
        }
    }

    #[test]
    fn draws_of_neighbouring_documents_are_not_correlated() {
        let heads = (0..10_000).filter(|&document| Stream::new(3, document, COIN).chance(1, 20)).count();
        assert!((400..600).contains(&heads), "5% of 10000 documents gave {heads}");
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let mut stream = Stream::new(5, 0, COIN);
        let mut seen = [0; 7];
        for _ in 0..7_000 {
            seen[stream.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
    }

    #[test]
    fn weights_are_respected_and_a_zero_weight_is_never_drawn() {
        let mut stream = Stream::new(6, 0, COIN);
        let mut seen = [0; 3];
        for _ in 0..4_000 {
            seen[stream.weighted(&[3, 0, 1])] += 1;
        }
        assert_eq!(seen[1], 0);
        assert!((2_800..3_200).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..100).collect();
        Stream::new(8, 0, COIN).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
