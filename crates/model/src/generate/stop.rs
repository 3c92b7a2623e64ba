//! When a generation ends of itself.

use std::sync::Arc;

/// Turns new tokens into text, for stop strings.
type Decode = Arc<dyn Fn(&[u32]) -> String + Send + Sync>;

/// What ends a generation before its length does.
#[derive(Clone, Default)]
pub struct Stop {
    tokens: Vec<u32>,
    strings: Vec<String>,
    decode: Option<Decode>,
}

/// What a new token means for its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// Ends it and is no part of it: a stop token.
    EndBefore,
    /// Ends it and is its last: it completed a stop string.
    EndAfter,
}

impl Stop {
    /// Ends at any of these tokens, which are left out of the result.
    #[must_use]
    pub fn at_tokens(tokens: impl Into<Vec<u32>>) -> Self {
        Self { tokens: tokens.into(), ..Self::default() }
    }

    /// Ends also as soon as the text of the new tokens holds one of `strings`, however it was cut into tokens; the
    /// token that completed it is kept. `decode` is the tokenizer's.
    #[must_use]
    pub fn or_at_strings(
        mut self,
        strings: impl Into<Vec<String>>,
        decode: impl Fn(&[u32]) -> String + Send + Sync + 'static,
    ) -> Self {
        self.strings = strings.into();
        self.decode = Some(Arc::new(decode));
        self
    }

    /// Judges the last of `tokens`, the new tokens so far.
    pub(super) fn judge(&self, tokens: &[u32]) -> Verdict {
        let Some(last) = tokens.last() else { return Verdict::GoOn };
        if self.tokens.contains(last) {
            return Verdict::EndBefore;
        }
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let Some(decode) = self.decode.as_ref().filter(|_| longest > 0) else { return Verdict::GoOn };
        // A token gives at least a byte, but for special ones, which give none: twice the tokens leave room for those
        // and for characters cut at the front.
        let tail = decode(&tokens[tokens.len().saturating_sub(2 * longest + 4)..]);
        let found = self.strings.iter().any(|string| !string.is_empty() && tail.contains(string.as_str()));
        if found { Verdict::EndAfter } else { Verdict::GoOn }
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Stop")
            .field("tokens", &self.tokens)
            .field("strings", &self.strings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(tokens: &[u32]) -> String {
        tokens.iter().filter_map(|token| char::from_u32(*token)).collect()
    }

    fn tokens(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    #[test]
    fn a_stop_token_ends_before_itself() {
        let stop = Stop::at_tokens([2]);
        assert_eq!(stop.judge(&[5, 2]), Verdict::EndBefore);
        assert_eq!(stop.judge(&[2, 5]), Verdict::GoOn);
        assert_eq!(stop.judge(&[]), Verdict::GoOn);
    }

    #[test]
    fn a_stop_string_ends_with_the_token_that_completes_it() {
        let stop = Stop::at_tokens([]).or_at_strings(["</END>".to_owned()], letters);
        assert_eq!(stop.judge(&tokens("so it is </END")), Verdict::GoOn);
        assert_eq!(stop.judge(&tokens("so it is </END>")), Verdict::EndAfter);
    }

    #[test]
    fn an_empty_stop_string_never_ends_anything() {
        let stop = Stop::at_tokens([]).or_at_strings([String::new()], letters);
        assert_eq!(stop.judge(&tokens("a")), Verdict::GoOn);
    }
}
