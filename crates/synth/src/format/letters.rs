//! How options are lettered.

use lyceum_corpus::random::Stream;

/// What counts the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numeral {
    Upper,
    Lower,
    Digit,
    Roman,
}

const NUMERALS: [Numeral; 4] = [Numeral::Upper, Numeral::Lower, Numeral::Digit, Numeral::Roman];

/// Before the numeral, after it on an option's line, and whether the answer repeats both.
const FRAMES: [(&str, &str, bool); 6] = [
    ("", ". ", false),
    ("", ") ", false),
    ("(", ") ", true),
    ("[", "] ", true),
    ("", ": ", false),
    ("", " - ", false),
];

/// Values of Roman digits, largest first.
const ROMAN: [(usize, &str); 9] =
    [(100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")];

/// One of the many ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Letters {
    numeral: Numeral,
    frame: (&'static str, &'static str, bool),
}

impl Letters {
    pub(super) fn draw(stream: &mut Stream) -> Self {
        Self { numeral: NUMERALS[stream.index(NUMERALS.len())], frame: FRAMES[stream.index(FRAMES.len())] }
    }

    /// The line of option `index`.
    pub(super) fn line(self, index: usize, option: &str) -> String {
        let (before, after, _) = self.frame;
        format!("{before}{}{after}{option}", self.label(index))
    }

    /// Option `index` as an answer.
    pub(super) fn answer(self, index: usize) -> String {
        match self.frame {
            (before, after, true) => format!("{before}{}{}", self.label(index), after.trim_end()),
            _ => self.label(index),
        }
    }

    fn label(self, index: usize) -> String {
        let letter = |first: u8| {
            let suffix = if index >= 26 { (index / 26).to_string() } else { String::new() };
            format!("{}{suffix}", char::from(first + (index % 26) as u8))
        };
        match self.numeral {
            Numeral::Upper => letter(b'A'),
            Numeral::Lower => letter(b'a'),
            Numeral::Digit => (index + 1).to_string(),
            Numeral::Roman => roman(index + 1),
        }
    }
}

fn roman(mut number: usize) -> String {
    let mut written = String::new();
    for (value, digits) in ROMAN {
        while number >= value {
            written.push_str(digits);
            number -= value;
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_in_every_style() {
        for numeral in NUMERALS {
            for frame in FRAMES {
                let letters = Letters { numeral, frame };
                let mut seen: Vec<String> = (0..60).map(|index| letters.answer(index)).collect();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), 60, "{letters:?}");
                assert!(letters.line(3, "x").starts_with(frame.0), "{letters:?}");
            }
        }
        assert_eq!(roman(49), "xlix");
    }
}
