//! An engine without a model, for tests and for trying a cluster out: its answers are a function of the prompt alone.

use lyceum_corpus::random::{Decision, Stream};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};

use crate::engine::{Engine, EngineError, Finish, Generation, Prompt, Sampling};
use crate::pair::{Malformed, Pair};
use crate::prompt;

const ANSWER: Decision = Decision::new("deterministic.answer");
const FAULT: Decision = Decision::new("deterministic.fault");

/// Makes pairs of all four kinds from the words of the text, and now and then a malformed output.
#[derive(Debug, Clone)]
pub struct DeterministicEngine {
    tokenizer: Tokenizer,
    positions: usize,
    seed: u64,
    faulty_percent: u64,
}

impl DeterministicEngine {
    /// An engine of `positions` positions of which `faulty_percent` of the outputs are malformed in some way.
    pub fn new(tokenizer: Tokenizer, positions: usize, seed: u64, faulty_percent: u64) -> Self {
        Self { tokenizer, positions, seed, faulty_percent }
    }

    fn answer(&self, prompt: &Prompt, most: usize) -> Result<Generation, TokenizerError> {
        let request = prompt.tokens.rsplit(|&token| token == self.tokenizer.bos()).next().unwrap_or_default();
        let context = self.tokenizer.decode(request)?;
        let text = context.trim().trim_start_matches("<CON>").trim_end_matches("</CON>").trim();
        let bytes: Vec<u8> = prompt.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let name = xxhash_rust::xxh3::xxh3_64(&bytes);
        let mut pairs = pairs_about(text, &mut Stream::new(self.seed, name, ANSWER));
        pairs.truncate(5);
        let mut output = prompt::pairs(&self.tokenizer, &pairs);
        let mut fault = Stream::new(self.seed, name, FAULT);
        if fault.chance(self.faulty_percent, 100) {
            output = spoilt(&output, &mut fault);
        }
        let mut tokens = self.tokenizer.encode_markup(&output)?;
        let room = most.min(self.positions.saturating_sub(prompt.tokens.len()));
        let finish = if tokens.len() > room { Finish::Length } else { Finish::EndOfText };
        tokens.truncate(room);
        Ok(Generation { tokens, finish })
    }
}

impl Engine for DeterministicEngine {
    fn positions(&self) -> usize {
        self.positions
    }

    fn generate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> Result<Vec<Generation>, EngineError> {
        let failed =
            |error: TokenizerError| EngineError { prompts: prompts.len(), reason: error.to_string() };
        prompts.iter().map(|prompt| self.answer(prompt, sampling.max_new_tokens).map_err(failed)).collect()
    }
}

/// Well-formed pairs about a text, at least one for each text that has a word.
fn pairs_about(text: &str, stream: &mut Stream) -> Vec<Pair> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return Vec::new() };
    let sentence = text.split_inclusive(['.', '!', '?']).next().unwrap_or(text).trim();
    let chosen = words[stream.index(words.len())];
    let count = words.len().to_string();
    let absent: Vec<String> =
        ["lorem", "ipsum", "dolor"].map(|word| format!("{word}{}", stream.below(90) + 10)).into();
    let options: Vec<&str> = absent.iter().map(String::as_str).chain([chosen]).collect();
    let candidates: [Result<Pair, Malformed>; 6] = [
        Pair::plain("What is the first word of the text?", first),
        Pair::plain("How does the text begin?", sentence),
        Pair::new("Which of these words is in the text?", &options, None, chosen),
        Pair::new(
            "How many words does the text have?",
            &[],
            Some(&format!("Counting them from \"{first}\" to \"{last}\" gives {count}.")),
            &count,
        ),
        Pair::new(
            "Is the text longer than twenty words?",
            &["yes", "no"],
            Some(&format!("The text has {count} words.")),
            if words.len() > 20 { "yes" } else { "no" },
        ),
        Pair::plain("What is the last word of the text?", last),
    ];
    let mut pairs: Vec<Pair> = candidates.into_iter().flatten().collect();
    let keep = 1 + stream.index(pairs.len());
    stream.shuffle(&mut pairs);
    pairs.truncate(keep);
    pairs
}

/// What a weak model does: breaks off, forgets marks, or says nothing.
fn spoilt(output: &str, fault: &mut Stream) -> String {
    match fault.below(5) {
        0 => String::new(),
        1 => output.trim_end_matches(prompt::PAIR_END).to_owned(),
        2 => output.replacen(prompt::QUESTION, "", 1),
        3 => output.replacen(prompt::ANSWER, "", 1),
        _ => format!("{output}\n\n{output}"),
    }
}
