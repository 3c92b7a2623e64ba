//! The loop: prompts in, rows filled, stepped and refilled, completions out.

use std::collections::VecDeque;

use lyceum_synth::engine::Finish;
use tch::{Device, Tensor};

use super::cache::KeyValueCache;
use super::decoder::{Decoder, Step};
use super::sample::Choice;
use super::stop::{Stop, Verdict};
use crate::{Llama, LlamaConfig, ModelError};

/// Bounds of a generator's memory and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationLimits {
    /// Sequences generated side by side, at most. More give more tokens per second and a slower single one.
    pub rows: usize,
    /// Tokens whose keys and values are kept, over all rows: the cache's memory is this times
    /// 2 x layers x key_value_heads x head_dimension numbers. Also bounds a single sequence.
    pub cached_tokens: usize,
    /// Prompt tokens, padding included, that are run at once; a longer prompt is run alone.
    pub prefill_tokens: usize,
}

impl Default for GenerationLimits {
    /// Eight rows of 4,096 tokens (a synthesizer's positions), one such prompt at a time.
    fn default() -> Self {
        Self { rows: 8, cached_tokens: 8 * 4096, prefill_tokens: 4096 }
    }
}

/// One text to go on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt as it is: nothing is added. Not empty.
    pub tokens: Vec<u32>,
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// How they are chosen.
    pub choice: Choice,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// New tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why there are no more. A prompt that leaves no position free ends at once by [`Finish::Length`].
    pub finish: Finish,
}

/// Generates with a key-value cache. Not for training: it rearranges the weights it is given.
pub struct Generator {
    decoder: Decoder,
    limits: GenerationLimits,
    /// Tokens a single sequence may have.
    positions: usize,
    cache: Option<KeyValueCache>,
}

/// A sequence in a row of the cache.
struct Row {
    request: usize,
    prompt: usize,
    room: usize,
    choice: Choice,
    tokens: Vec<u32>,
}

impl Row {
    /// Where the newest token stands; it is the next to be run.
    fn position(&self) -> i64 {
        (self.prompt + self.tokens.len() - 1) as i64
    }
}

impl Generator {
    /// Takes a model over. Weights that are read together are joined, which copies them: hand the only reference in,
    /// and the old ones are freed block by block.
    ///
    /// # Errors
    /// A limit of zero; no memory.
    pub fn new(llama: Llama, limits: GenerationLimits) -> Result<Self, ModelError> {
        if limits.rows == 0 || limits.cached_tokens < 2 || limits.prefill_tokens == 0 {
            return Err(ModelError::Input(format!("{limits:?} leave no room for a token")));
        }
        let _no_grad = tch::no_grad_guard();
        let positions =
            usize::try_from(llama.config().max_positions).unwrap_or(usize::MAX).min(limits.cached_tokens);
        let decoder = Decoder::new(llama, positions as i64, limits.rows)?;
        Ok(Self { decoder, limits, positions, cache: None })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        self.decoder.config()
    }

    /// Tokens, prompt and new ones, that a sequence may have: the model's positions or the cache's tokens.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Completes every request, in the order given.
    ///
    /// # Errors
    /// An empty prompt, a token outside the vocabulary, impossible sampling numbers, logits that are not finite.
    pub fn generate(&mut self, requests: Vec<Request>, stop: &Stop) -> Result<Vec<Completion>, ModelError> {
        for (index, request) in requests.iter().enumerate() {
            self.check(index, request)?;
        }
        let _no_grad = tch::no_grad_guard();
        let mut completions: Vec<Option<Completion>> = Vec::new();
        completions.resize_with(requests.len(), || None);
        let mut waiting = VecDeque::new();
        for (index, request) in requests.into_iter().enumerate() {
            let room = self.positions.saturating_sub(request.tokens.len()).min(request.max_new_tokens);
            if room == 0 {
                completions[index] = Some(Completion { tokens: Vec::new(), finish: Finish::Length });
            } else {
                waiting.push_back((index, room, request));
            }
        }

        let (mut cache, most) = self.take_cache(&waiting)?;
        let outcome = self.run(&mut cache, most, waiting, stop, &mut completions);
        self.cache = Some(cache);
        outcome?;
        completions
            .into_iter()
            .map(|completion| {
                completion.ok_or_else(|| ModelError::Input("a request was not completed".into()))
            })
            .collect()
    }

    fn run(
        &self,
        cache: &mut KeyValueCache,
        most: usize,
        mut waiting: VecDeque<(usize, usize, Request)>,
        stop: &Stop,
        completions: &mut [Option<Completion>],
    ) -> Result<(), ModelError> {
        let mut rows: Vec<Row> = Vec::new();
        while !(rows.is_empty() && waiting.is_empty()) {
            let joined = rows.len();
            if joined < most && !waiting.is_empty() {
                let prompts = self.next_prompts(most - joined, &mut waiting);
                let texts: Vec<&[u32]> =
                    prompts.iter().map(|(_, _, request)| request.tokens.as_slice()).collect();
                let places: Vec<usize> = (joined..joined + prompts.len()).collect();
                let logits = self.decoder.prefill(cache, &texts, &places)?;
                rows.extend(prompts.into_iter().map(|(request, room, taken)| Row {
                    request,
                    prompt: taken.tokens.len(),
                    room,
                    choice: taken.choice,
                    tokens: Vec::new(),
                }));
                choose(&mut rows[joined..], &logits)?;
                retire(&mut rows, joined, stop, cache, completions)?;
            } else {
                let steps: Vec<Step> = rows
                    .iter()
                    .map(|row| Step {
                        token: row.tokens.last().copied().map_or(0, i64::from),
                        position: row.position(),
                    })
                    .collect();
                let logits = self.decoder.step(cache, &steps)?;
                choose(&mut rows, &logits)?;
                retire(&mut rows, 0, stop, cache, completions)?;
            }
        }
        Ok(())
    }

    /// The prompts to run next: at most `free`, and no more padded tokens than the limit, but at least one.
    fn next_prompts(
        &self,
        free: usize,
        waiting: &mut VecDeque<(usize, usize, Request)>,
    ) -> Vec<(usize, usize, Request)> {
        let mut taken = Vec::new();
        let mut longest = 0;
        while taken.len() < free {
            let Some((_, _, next)) = waiting.front() else { break };
            longest = longest.max(next.tokens.len());
            if !taken.is_empty() && longest * (taken.len() + 1) > self.limits.prefill_tokens {
                break;
            }
            taken.extend(waiting.pop_front());
        }
        taken
    }

    /// The cache, divided for the longest of `waiting`, and how many rows it has then. Memory is kept from call to call
    /// and grows only up to the limit.
    fn take_cache(
        &mut self,
        waiting: &VecDeque<(usize, usize, Request)>,
    ) -> Result<(KeyValueCache, usize), ModelError> {
        let capacity =
            waiting.iter().map(|(_, room, request)| request.tokens.len() + room).max().unwrap_or(1);
        let rows = self.limits.rows.min(self.limits.cached_tokens / capacity).min(waiting.len()).max(1);
        let tokens = (rows * capacity) as i64;
        let kept = self.cache.take().filter(|cache| cache.allocated_tokens() >= tokens);
        let mut cache = match kept {
            Some(cache) => cache,
            None => self.decoder.cache(tokens)?,
        };
        cache.set_capacity(capacity as i64);
        Ok((cache, rows))
    }

    fn check(&self, index: usize, request: &Request) -> Result<(), ModelError> {
        let refuse = |reason: String| Err(ModelError::Input(format!("prompt {index} {reason}")));
        if request.tokens.is_empty() {
            return refuse("is empty; give it at least the beginning-of-text token".into());
        }
        let vocabulary = self.config().vocabulary;
        if let Some(token) = request.tokens.iter().find(|token| i64::from(**token) >= vocabulary) {
            return refuse(format!("has token {token}, outside a vocabulary of {vocabulary}"));
        }
        if let Choice::Sampled { temperature, top_p, .. } = request.choice {
            if !(temperature.is_finite() && temperature > 0.0) {
                return refuse(format!("asks for temperature {temperature}; expected a positive number"));
            }
            if !(top_p > 0.0 && top_p <= 1.0) {
                return refuse(format!("asks for top-p {top_p}; expected above 0 and at most 1"));
            }
        }
        Ok(())
    }
}

/// Gives each row its next token. `logits` is `[rows, vocabulary]`.
fn choose(rows: &mut [Row], logits: &Tensor) -> Result<(), ModelError> {
    let broken = || ModelError::Input("the model's logits are not finite; its weights may be damaged".into());
    if rows.iter().all(|row| row.choice == Choice::Greedy) {
        let (highest, tokens) = logits.f_max_dim(1, false)?;
        if !highest.f_isfinite()?.f_all()?.f_int64_value(&[])?.eq(&1) {
            return Err(broken());
        }
        let tokens = Vec::<i64>::try_from(&tokens)?;
        for (row, token) in rows.iter_mut().zip(tokens) {
            row.tokens.push(token as u32);
        }
        return Ok(());
    }
    let vocabulary = logits.size2()?.1 as usize;
    let host = Vec::<f32>::try_from(&logits.f_to(Device::Cpu)?.f_reshape([-1])?)?;
    for (row, logits) in rows.iter_mut().zip(host.chunks_exact(vocabulary)) {
        row.tokens.push(row.choice.choose(logits).ok_or_else(broken)? as u32);
    }
    Ok(())
}

/// Takes rows from `first` on out whose newest token was their last; the last row moves into a free place.
fn retire(
    rows: &mut Vec<Row>,
    first: usize,
    stop: &Stop,
    cache: &mut KeyValueCache,
    completions: &mut [Option<Completion>],
) -> Result<(), ModelError> {
    let mut index = first;
    while index < rows.len() {
        let verdict = stop.judge(&rows[index].tokens);
        let finish = match verdict {
            Verdict::EndBefore | Verdict::EndAfter => Finish::EndOfText,
            Verdict::GoOn if rows[index].tokens.len() >= rows[index].room => Finish::Length,
            Verdict::GoOn => {
                index += 1;
                continue;
            }
        };
        let mut row = rows.swap_remove(index);
        if verdict == Verdict::EndBefore {
            row.tokens.pop();
        }
        if let Some(moved) = rows.get(index) {
            cache.move_row(rows.len(), index, moved.position())?;
        }
        completions[row.request] = Some(Completion { tokens: row.tokens, finish });
    }
    Ok(())
}
