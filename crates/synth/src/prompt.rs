//! The synthesizer's language, to the byte.
//!
//! A one-shot example is `<s> <CON> {context} </CON>\n\n<QUE> {question} <ANS> {answer} </END>\n\n<QUE> ... </END></s>`,
//! with the space before `<CON>`; a prompt is any number of examples and then `<s> <CON> {context} </CON>\n\n`. The
//! released synthesizer was tuned on exactly these strings. `<s>` and `</s>` are never written as text: they are ids
//! set here, once, which is why everything returns tokens.

use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};

use crate::pair::Pair;

/// Opens a context, with its leading space.
const CONTEXT: &str = " <CON> ";

/// Closes a context; a prompt ends after it.
const CONTEXT_END: &str = " </CON>\n\n";

/// Begins a pair.
pub const QUESTION: &str = "<QUE>";

/// Stands between a pair's question and its answer.
pub const ANSWER: &str = "<ANS>";

/// Ends a pair.
pub const PAIR_END: &str = "</END>";

/// Text of a context as the synthesizer reads it, without `<s>`. Marks inside the context are neutralised.
pub fn context(tokenizer: &Tokenizer, text: &str) -> String {
    format!("{CONTEXT}{}{CONTEXT_END}", tokenizer.neutralise(text))
}

/// Text of pairs as the synthesizer writes them, without `</s>`. Marks inside the pairs are neutralised.
pub fn pairs(tokenizer: &Tokenizer, pairs: &[Pair]) -> String {
    let written = pairs.iter().map(|pair| {
        let pair = pair.written();
        let (question, answer) = (tokenizer.neutralise(&pair.question), tokenizer.neutralise(&pair.answer));
        format!("{QUESTION} {question} {ANSWER} {answer} {PAIR_END}")
    });
    written.collect::<Vec<_>>().join("\n\n")
}

/// Tokens that ask for pairs about `text`: BOS and the context. Completed examples go before it.
pub fn request(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let mut tokens = vec![tokenizer.bos()];
    tokens.extend(tokenizer.encode_markup(&context(tokenizer, text))?);
    Ok(tokens)
}

/// A completed example: its tokens, and where in them the pairs begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// BOS, context, pairs, EOS.
    pub tokens: Vec<u32>,
    /// Index of the first token after `</CON>\n\n`.
    pub pairs_start: usize,
}

/// The completed example of `text` and `answered`.
///
/// Its tokens always begin with those of [`request`], because that is what a synthesizer is asked with. A tokenizer
/// may see the seam differently when it reads both sides at once (GPT-2's pattern splits `\n\n` before a letter but
/// not at the end); then the two sides are encoded one by one.
pub fn example(tokenizer: &Tokenizer, text: &str, answered: &[Pair]) -> Result<Example, TokenizerError> {
    let mut tokens = request(tokenizer, text)?;
    let pairs_start = tokens.len();
    let answer = pairs(tokenizer, answered);
    let whole = tokenizer.encode_markup(&(context(tokenizer, text) + &answer))?;
    if whole.starts_with(&tokens[1..]) {
        tokens.extend_from_slice(&whole[pairs_start - 1..]);
    } else {
        tokens.extend(tokenizer.encode_markup(&answer)?);
    }
    tokens.push(tokenizer.eos());
    Ok(Example { tokens, pairs_start })
}
