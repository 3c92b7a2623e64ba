//! The mutator: what tends to break parsers, done to seeds.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Changes made to one input, at most.
const MOST_CHANGES: u64 = 8;

/// Numbers at the edge of something. Lengths and counts of every width are among their truncations.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x1000,
    0x7fff,
    0xffff,
    0x0010_0000,
    0x0010_0001,
    0x7fff_ffff,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// The same in texts.
const WRITTEN: [&str; 14] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "0.0000000000000000000001",
    "nan",
];

pub(crate) struct Mutator {
    random: ChaCha8Rng,
    longest: usize,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: u64, longest: usize, words: Vec<Vec<u8>>) -> Mutator {
        Mutator { random: ChaCha8Rng::seed_from_u64(seed), longest, words }
    }

    /// One of `seeds`, changed.
    pub(crate) fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.one_of(seeds).cloned().unwrap_or_default();
        // Mostly one or two: what is changed everywhere is refused at its first byte.
        let mut changes = 1;
        while changes < MOST_CHANGES && self.below(2) == 0 {
            changes += 1;
        }
        for _ in 0..changes {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(self.longest);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.place(bytes.len());
        match self.below(14) {
            0 | 1 => {
                let bit = 1 << self.below(8);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
            }
            2 => {
                let value = self.below(256) as u8;
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value);
            }
            3 | 4 => {
                let value = EDGES[self.below(EDGES.len() as u64) as usize];
                self.number(bytes, at, |_| value);
            }
            5 => {
                let by = self.below(17).wrapping_sub(8);
                self.number(bytes, at, |before| before.wrapping_add(by));
            }
            6 => drop(bytes.drain(at..at + self.length(bytes.len() - at))),
            7 => bytes.truncate(at),
            8 => {
                let noise: Vec<u8> = (0..=self.below(16)).map(|_| self.below(256) as u8).collect();
                bytes.splice(at..at, noise);
            }
            9 => {
                // Again and again: what is nested, or listed, grows deep, or long.
                let part = bytes[at..at + self.length(bytes.len() - at)].to_vec();
                let most = self.longest.saturating_sub(bytes.len()) / part.len().max(1);
                let times = if self.below(4) == 0 { most } else { most.min(1 + self.below(8) as usize) };
                bytes.splice(at..at, part.repeat(times));
            }
            10 => {
                let other = self.one_of(seeds).cloned().unwrap_or_default();
                let from = self.place(other.len());
                let part = &other[from..from + self.length(other.len() - from)];
                let end = (at + part.len()).min(bytes.len());
                let over = if self.below(2) == 0 { at..end } else { at..at };
                bytes.splice(over, part.iter().copied());
            }
            11 => {
                let other = self.one_of(seeds).cloned().unwrap_or_default();
                bytes.splice(at.., other[self.place(other.len())..].iter().copied());
            }
            12 => {
                let word = self.words.get(self.random.next_u64() as usize % self.words.len().max(1)).cloned();
                let word = word.unwrap_or_else(|| vec![self.below(256) as u8]);
                bytes.splice(at..at, word);
            }
            _ => {
                // The first number in digits from here on.
                let Some(start) = bytes.iter().skip(at).position(u8::is_ascii_digit).map(|to| at + to) else {
                    return;
                };
                let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let written = WRITTEN[self.below(WRITTEN.len() as u64) as usize];
                bytes.splice(start..start + digits, written.bytes());
            }
        }
    }

    /// Changes a number of 1, 2, 4 or 8 bytes, of either order, at `at`.
    fn number(&mut self, bytes: &mut [u8], at: usize, to: impl Fn(u64) -> u64) {
        let width = 1 << self.below(4);
        let little = self.below(4) != 0;
        let Some(place) = bytes.get_mut(at..at + width) else { return };
        let mut word = [0; 8];
        word[..width].copy_from_slice(place);
        if !little {
            word[..width].reverse();
        }
        word = to(u64::from_le_bytes(word)).to_le_bytes();
        if !little {
            word[..width].reverse();
        }
        place.copy_from_slice(&word[..width]);
    }

    /// A place in `length` bytes, or their end; mostly one where numbers begin.
    fn place(&mut self, length: usize) -> usize {
        let at = self.below(length as u64 + 1) as usize;
        if self.below(2) == 0 { at } else { at & !3 }
    }

    /// A length up to `most`, mostly a short one.
    fn length(&mut self, most: usize) -> usize {
        let most = if self.below(4) == 0 { most } else { most.min(16) };
        self.below(most as u64 + 1) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len() as u64) as usize)
    }

    /// A number below `bound`; 0 for 0. Its bias, of one in 2^32 at most, is of no interest here.
    fn below(&mut self, bound: u64) -> u64 {
        (u64::from(self.random.next_u32()) * bound) >> 32
    }
}
