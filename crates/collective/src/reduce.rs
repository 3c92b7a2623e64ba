//! Sums in rank order.
//!
//! f32: `((r0 + r1) + r2) + ..`, each sum rounded. bf16: the same in f32, rounded to bf16 once at the end. The order is
//! part of the result, so it is the same for every transport and every way in which ranks are spread over nodes.

use crate::Element;

/// Elements summed at a time: the accumulators stay in the first-level cache.
pub(crate) const BLOCK: usize = 2048;

/// The running sum of a block of elements.
pub(crate) struct Accumulator {
    sums: Vec<f32>,
    started: bool,
}

impl Accumulator {
    pub(crate) fn new() -> Self {
        Self { sums: Vec::with_capacity(BLOCK), started: false }
    }

    /// Begins a new sum of `len` elements.
    pub(crate) fn begin(&mut self, len: usize) {
        self.sums.clear();
        self.sums.resize(len, 0.0);
        self.started = false;
    }

    /// Begins a new sum with what earlier ranks have summed already.
    pub(crate) fn begin_with(&mut self, earlier: &[u8]) {
        self.sums.clear();
        self.sums.extend(earlier.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        self.started = true;
    }

    /// Adds the next rank's elements.
    pub(crate) fn add(&mut self, element: Element, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), self.sums.len() * element.size());
        // The first is taken as it is: 0 + -0 would be 0. Arrays of a known size are what the compiler vectorises.
        match (element, self.started) {
            (Element::F32, false) => each(&mut self.sums, bytes, |_, v| f32::from_le_bytes(v)),
            (Element::F32, true) => each(&mut self.sums, bytes, |sum, v| sum + f32::from_le_bytes(v)),
            (Element::Bf16, false) => each(&mut self.sums, bytes, |_, v| widened(v)),
            (Element::Bf16, true) => each(&mut self.sums, bytes, |sum, v| sum + widened(v)),
        }
        self.started = true;
    }

    /// Writes the sum as `element`s.
    pub(crate) fn write(&self, element: Element, bytes: &mut [u8]) {
        match element {
            Element::F32 => {
                bytes
                    .as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(&self.sums)
                    .for_each(|(v, sum)| *v = sum.to_le_bytes());
            }
            Element::Bf16 => {
                bytes.as_chunks_mut().0.iter_mut().zip(&self.sums).for_each(|(v, sum)| *v = rounded(*sum));
            }
        }
    }

    /// The sum so far, for the ranks that come later.
    pub(crate) fn sums_into(&self, bytes: &mut Vec<u8>) {
        self.sums.iter().for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
    }
}

fn each<const N: usize>(sums: &mut [f32], values: &[u8], combine: impl Fn(f32, [u8; N]) -> f32) {
    sums.iter_mut().zip(values.as_chunks::<N>().0).for_each(|(sum, value)| *sum = combine(*sum, *value));
}

fn widened(value: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(value)) << 16)
}

/// To the nearest bf16, ties to even, as `bf16::from_f32` does it, without a branch.
fn rounded(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    // At most half a unit is added, and only NaNs overflow by it: theirs are set apart.
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    let bits = if value.is_nan() { quiet } else { nearest };
    (bits as u16).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_is_that_of_bf16(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(rounded(value), bf16::from_f32(value).to_le_bytes());
        }

        #[test]
        fn l5_f32_sums_are_those_of_rank_order(ranks in prop::collection::vec(any::<[f32; 5]>(), 1..6), cut in 0usize..6) {
            let cut = cut.min(ranks.len());
            let bytes = |rank: &[f32; 5]| rank.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            let mut sum = Accumulator::new();
            sum.begin(5);
            ranks[..cut].iter().for_each(|rank| sum.add(Element::F32, &bytes(rank)));
            if cut > 0 {
                // As if the later ranks were on another node.
                let mut earlier = vec![];
                sum.sums_into(&mut earlier);
                sum = Accumulator::new();
                sum.begin_with(&earlier);
            }
            ranks[cut..].iter().for_each(|rank| sum.add(Element::F32, &bytes(rank)));
            let mut seen = vec![0; 20];
            sum.write(Element::F32, &mut seen);
            let expected = (0..5).map(|i| ranks[1..].iter().fold(ranks[0][i], |sum, rank| sum + rank[i]));
            for (seen, expected) in seen.as_chunks::<4>().0.iter().zip(expected) {
                let seen = f32::from_le_bytes(*seen);
                prop_assert!(seen.to_bits() == expected.to_bits() || (seen.is_nan() && expected.is_nan()));
            }
        }

        #[test]
        fn l5_bf16_sums_are_formed_in_f32_and_rounded_once(ranks in prop::collection::vec(any::<[u16; 5]>(), 1..6)) {
            let mut sum = Accumulator::new();
            sum.begin(5);
            let bytes = |rank: &[u16; 5]| rank.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            ranks.iter().for_each(|rank| sum.add(Element::Bf16, &bytes(rank)));
            let mut seen = vec![0; 10];
            sum.write(Element::Bf16, &mut seen);
            for (i, seen) in seen.as_chunks::<2>().0.iter().enumerate() {
                let wide = |rank: &[u16; 5]| bf16::from_bits(rank[i]).to_f32();
                let expected = bf16::from_f32(ranks[1..].iter().fold(wide(&ranks[0]), |sum, rank| sum + wide(rank)));
                let seen = bf16::from_le_bytes(*seen);
                prop_assert!(seen.to_bits() == expected.to_bits() || (seen.is_nan() && expected.is_nan()));
            }
        }
    }
}
