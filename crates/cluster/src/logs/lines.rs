//! A log's pieces as lines.

/// A longer line is given in parts.
const MAX_LINE: usize = 64 << 10;

/// What is left of a log's pieces: the beginning of a line.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// The lines that are whole with `piece`, without their ends.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut whole = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(rest) => {
                    self.0.extend_from_slice(rest);
                    whole.push(std::mem::take(&mut self.0));
                }
                None => self.0.extend_from_slice(part),
            }
            if self.0.len() >= MAX_LINE {
                whole.push(std::mem::take(&mut self.0));
            }
        }
        whole
    }

    /// The line that has no end, if there is one.
    pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.0)).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_their_pieces_are() {
        let text = b"first\n\nthird\nno end";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = lines.push(&text[..cut]);
            found.extend(lines.push(&text[cut..]));
            assert_eq!(found, [&b"first"[..], b"", b"third"]);
            assert_eq!(lines.rest().unwrap(), b"no end");
            assert_eq!(lines.rest(), None);
        }
    }

    #[test]
    fn l2_a_line_without_an_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        let given: usize = (0..100).flat_map(|_| lines.push(&[b'x'; 5000])).map(|part| part.len()).sum();
        assert!(given >= 500_000 - MAX_LINE && lines.0.len() < MAX_LINE);
    }
}
