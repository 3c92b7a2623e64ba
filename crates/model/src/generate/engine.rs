//! The in-process synthesizer's engine.

use std::path::Path;

use lyceum_synth::engine::{Engine, EngineError, Generation, Prompt, Sampling};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Choice, GenerationLimits, Generator, Request, Stop};
use crate::{Llama, ModelError, Placement, load_directory};

/// A [`Generator`] behind the synthesizer's trait. A sampled token depends on (seed, document, round) and on the text
/// before it, not on what else is in the batch (but for rounding: batches of other sizes add in other orders).
pub struct TorchEngine {
    generator: Generator,
    stop: Stop,
}

impl TorchEngine {
    /// Loads a Hugging Face directory; ends texts at the end-of-sequence tokens of its `config.json`.
    ///
    /// # Errors
    /// As [`load_directory`] and [`Generator::new`].
    pub fn load(
        directory: &Path,
        placement: &Placement,
        limits: GenerationLimits,
    ) -> Result<Self, ModelError> {
        let (config, mut parameters) = load_directory(directory, placement)?;
        let llama = Llama::from_parameters(config, |name| parameters.remove(name))?;
        Self::new(llama, limits)
    }

    /// Takes a model over.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn new(llama: Llama, limits: GenerationLimits) -> Result<Self, ModelError> {
        let stop = Stop::at_tokens(llama.config().eos.clone());
        Ok(Self { generator: Generator::new(llama, limits)?, stop })
    }
}

impl Engine for TorchEngine {
    fn positions(&self) -> usize {
        self.generator.positions()
    }

    fn generate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> Result<Vec<Generation>, EngineError> {
        let requests = prompts
            .iter()
            .map(|prompt| Request {
                tokens: prompt.tokens.clone(),
                max_new_tokens: sampling.max_new_tokens,
                choice: choice(sampling, prompt),
            })
            .collect();
        let completions = self
            .generator
            .generate(requests, &self.stop)
            .map_err(|error| EngineError { prompts: prompts.len(), reason: error.to_string() })?;
        Ok(completions
            .into_iter()
            .map(|completion| Generation { tokens: completion.tokens, finish: completion.finish })
            .collect())
    }
}

fn choice(sampling: &Sampling, prompt: &Prompt) -> Choice {
    if sampling.temperature == 0.0 {
        return Choice::Greedy;
    }
    // The key is the triple itself, so that no two of them share a draw.
    let mut key = [0; 32];
    key[..8].copy_from_slice(&sampling.seed.to_le_bytes());
    key[8..10].copy_from_slice(&prompt.document.source.to_le_bytes());
    key[10..18].copy_from_slice(&prompt.document.ordinal.to_le_bytes());
    key[18..22].copy_from_slice(&prompt.round.to_le_bytes());
    Choice::Sampled {
        temperature: sampling.temperature as f32,
        top_p: sampling.top_p as f32,
        random: Box::new(ChaCha8Rng::from_seed(key)),
    }
}
