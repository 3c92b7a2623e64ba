//! Mixing: which source the next text comes from, by the largest token deficit.
//!
//! With weights w over sources and T tokens drawn in all, source i is owed T x w_i / W and has given d_i; the next
//! text is drawn from the source that is owed most. In integers, ties to the first, so it is a pure function of what
//! was drawn, which the batch log knows (L5). A source that has nothing ready is waited for, never passed over.

/// Tokens drawn from each source, and the shares they shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixer {
    sources: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    weight: u32,
    drawn: u64,
    ended: bool,
}

impl Mixer {
    /// A mixer of sources with these weights; a source of weight zero is never drawn from.
    pub fn new(weights: &[u32]) -> Self {
        Self { sources: weights.iter().map(|&weight| Source { weight, drawn: 0, ended: false }).collect() }
    }

    /// The source that the next text must come from; `None` when all have ended.
    pub fn next(&self) -> Option<usize> {
        let open =
            || self.sources.iter().enumerate().filter(|(_, source)| !source.ended && source.weight > 0);
        let weights: i128 = open().map(|(_, source)| i128::from(source.weight)).sum();
        let drawn: i128 = open().map(|(_, source)| i128::from(source.drawn)).sum();
        let deficit =
            |source: &Source| drawn * i128::from(source.weight) - weights * i128::from(source.drawn);
        open()
            .max_by_key(|&(index, source)| (deficit(source), std::cmp::Reverse(index)))
            .map(|(index, _)| index)
    }

    /// Notes `tokens` drawn from `source`.
    pub fn draw(&mut self, source: usize, tokens: u64) {
        if let Some(source) = self.sources.get_mut(source) {
            source.drawn = source.drawn.saturating_add(tokens);
        }
    }

    /// Notes that `source` has no more texts: the others keep their shares among themselves.
    pub fn end(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source) {
            source.ended = true;
        }
    }

    /// Tokens drawn from each source so far.
    pub fn drawn(&self) -> impl Iterator<Item = u64> + '_ {
        self.sources.iter().map(|source| source.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_whatever_the_texts_lengths() {
        let mut mixer = Mixer::new(&[3, 1, 0]);
        let mut random = crate::random::Stream::new(1, 0, crate::random::Decision::new("test.lengths"));
        for _ in 0..10_000 {
            let source = mixer.next().unwrap();
            mixer.draw(source, 1 + random.below(200));
        }
        let drawn: Vec<u64> = mixer.drawn().collect();
        assert!(drawn[0].abs_diff(3 * drawn[1]) < 4 * 200, "{drawn:?}");
        assert_eq!(drawn[2], 0);
    }

    #[test]
    fn no_source_is_ever_behind_by_more_than_the_longest_text() {
        let mut mixer = Mixer::new(&[1, 1]);
        for (step, tokens) in [100_u64, 3, 3, 3, 90, 1, 100].into_iter().cycle().take(500).enumerate() {
            mixer.draw(mixer.next().unwrap(), tokens);
            let drawn: Vec<u64> = mixer.drawn().collect();
            assert!(drawn[0].abs_diff(drawn[1]) <= 100, "step {step}: {drawn:?}");
        }
    }

    #[test]
    fn a_dry_source_is_waited_for_and_only_an_ended_one_is_left_out() {
        let mut mixer = Mixer::new(&[1, 1]);
        mixer.draw(0, 10);
        assert_eq!(mixer.next(), Some(1));
        assert_eq!(mixer.next(), Some(1), "asking again changes nothing");
        mixer.end(1);
        assert_eq!(mixer.next(), Some(0));
        mixer.end(0);
        assert_eq!(mixer.next(), None);
    }
}
