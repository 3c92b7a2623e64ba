//! The one trait behind which generation happens, whoever does it.

use lyceum_corpus::chain::DocumentId;

/// What is asked of an engine: go on from these tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The whole prompt, BOS tokens included: an engine adds nothing.
    pub tokens: Vec<u32>,
    /// The document that the pairs will be about.
    pub document: DocumentId,
    /// Round within the chain, from zero: how many examples stand before the document.
    pub round: u32,
}

/// How to choose tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Tokens to generate at most for each prompt.
    pub max_new_tokens: usize,
    /// Zero is greedy.
    pub temperature: f64,
    /// Share of the probability mass that is sampled from; one is all of it. Without meaning when greedy.
    pub top_p: f64,
    /// Seed; an engine derives an independent stream for each (seed, document).
    pub seed: u64,
}

impl Default for Sampling {
    /// As the paper generates: greedy, 400 new tokens.
    fn default() -> Self {
        Self { max_new_tokens: 400, temperature: 0.0, top_p: 1.0, seed: 0 }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text.
    EndOfText,
    /// [`Sampling::max_new_tokens`] were generated, or the positions were used up.
    Length,
}

/// What an engine made of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// New tokens only, without the end of text.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// An engine that failed; the prompts may be given to another.
#[derive(Debug, thiserror::Error)]
#[error("the synthesizer's engine failed on {prompts} prompts: {reason}")]
pub struct EngineError {
    /// Prompts that were asked.
    pub prompts: usize,
    /// What went wrong.
    pub reason: String,
}

/// Generates from prompts.
pub trait Engine {
    /// Positions the model has: prompt and new tokens together must fit.
    fn positions(&self) -> usize;

    /// Answers every prompt, in the order asked; how they are batched is the engine's affair.
    fn generate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> Result<Vec<Generation>, EngineError>;
}
