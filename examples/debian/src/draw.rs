//! Repeatable draws: a function of (seed, document, decision), never of the
//! order in which documents are seen.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// 64 bits that depend on the seed, the document and the decision alone.
pub fn bits(seed: u64, document: &str, decision: &str) -> u64 {
    let mut key = Vec::with_capacity(document.len() + decision.len() + 1);
    key.extend_from_slice(document.as_bytes());
    key.push(0);
    key.extend_from_slice(decision.as_bytes());
    xxh3_64_with_seed(&key, seed)
}

/// A number below `choices`, uniform to within 2^-64 times `choices`; 0 if there is no choice.
pub fn below(seed: u64, document: &str, decision: &str, choices: usize) -> usize {
    ((u128::from(bits(seed, document, decision)) * choices as u128) >> 64) as usize
}

/// A number in `0.0..1.0`.
pub fn unit(seed: u64, document: &str, decision: &str) -> f64 {
    (bits(seed, document, decision) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Puts `items` into an order drawn for this decision, whatever order they came in.
/// `key` names an item; equal keys keep their order.
pub fn shuffle<T>(seed: u64, decision: &str, items: &mut [T], key: impl Fn(&T) -> &str) {
    items.sort_by_cached_key(|item| bits(seed, key(item), decision));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_independent_of_each_other_and_repeat() {
        assert_eq!(bits(1, "a", "x"), bits(1, "a", "x"));
        assert_ne!(bits(1, "a", "x"), bits(1, "a", "y"));
        assert_ne!(bits(1, "a", "x"), bits(2, "a", "x"));
        assert_ne!(bits(1, "ab", "c"), bits(1, "a", "bc"));
    }

    #[test]
    fn a_draw_stays_below_its_bound_and_reaches_every_choice() {
        let mut seen = [0; 3];
        for document in 0..300 {
            seen[below(7, &document.to_string(), "three", 3)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 60), "{seen:?}");
        assert_eq!(below(7, "a", "none", 0), 0);
    }
}
