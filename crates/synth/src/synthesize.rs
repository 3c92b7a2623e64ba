//! From leased chains to records: rounds with an engine, formatting, tokens.

use lyceum_corpus::chain::{Chain, ChainRecord, Counts, Document, DocumentId, FinalState, Loss, Text};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};

use crate::engine::{Engine, EngineError, Sampling};
use crate::format::format;
use crate::rounds::{Outcome, Room, Rounds, Segment};
use crate::tuning::{TuningExample, group, tuning_text};

/// Reason for skipping an entry of tuning data: it is no [`TuningExample`], or has no pair.
pub const NO_EXAMPLE: &str = "no tuning example";

/// Why chains could not be synthesized; all of them may be given to another synthesizer.
#[derive(Debug, thiserror::Error)]
pub enum SynthesisError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine gave another number of answers than it was asked.
    #[error("the engine gave {answers} answers to {prompts} prompts")]
    Answers {
        /// Prompts asked.
        prompts: usize,
        /// Answers given.
        answers: usize,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// The two vocabularies of a conversion, which need not be the same.
#[derive(Clone)]
pub struct Tokenizers {
    /// Of the engine: prompts and answers.
    pub engine: Tokenizer,
    /// Of the model that learns from the texts.
    pub learner: Tokenizer,
}

/// Converts chains together: each round of all of them is one call to the engine. `seed` decides about the formats.
pub fn synthesize(
    engine: &mut dyn Engine,
    sampling: &Sampling,
    tokenizers: &Tokenizers,
    seed: u64,
    chains: Vec<Chain>,
) -> Result<Vec<ChainRecord>, SynthesisError> {
    let room = Room { positions: engine.positions(), max_new_tokens: sampling.max_new_tokens };
    let mut running = Vec::with_capacity(chains.len());
    for mut chain in chains {
        let documents = std::mem::take(&mut chain.documents);
        running.push((chain, Rounds::new(tokenizers.engine.clone(), room, documents)));
    }
    loop {
        let mut prompts = Vec::new();
        let mut asking = Vec::new();
        for (index, (_, rounds)) in running.iter_mut().enumerate() {
            if let Some(prompt) = rounds.next_prompt()? {
                prompts.push(prompt);
                asking.push(index);
            }
        }
        if prompts.is_empty() {
            break;
        }
        let answers = engine.generate(&prompts, sampling)?;
        if answers.len() != prompts.len() {
            return Err(SynthesisError::Answers { prompts: prompts.len(), answers: answers.len() });
        }
        for (index, answer) in asking.into_iter().zip(&answers) {
            running[index].1.answer(answer)?;
        }
    }
    let records =
        running.into_iter().map(|(chain, rounds)| record(&tokenizers.learner, seed, &chain, rounds.finish()));
    Ok(records.collect::<Result<_, _>>()?)
}

/// The record of a chain whose rounds are done.
fn record(
    tokenizer: &Tokenizer,
    seed: u64,
    chain: &Chain,
    outcome: Outcome,
) -> Result<ChainRecord, TokenizerError> {
    let mut record = empty_record(chain);
    record.pairs_kept = outcome.pairs.kept;
    record.pairs_dropped = outcome.pairs.dropped;
    record.unconverted = outcome.unconverted;
    for segment in outcome.segments {
        match segment {
            Segment::Raw(document) => {
                record.texts.push(emitted(tokenizer, &document.text)?);
                record.documents.push((document.id, FinalState::Raw));
            }
            Segment::Augmented(articles) => {
                record.texts.push(emitted(tokenizer, &format(seed, &articles))?);
                let documents = articles.iter().map(|article| (article.document.id, FinalState::Augmented));
                record.documents.extend(documents);
            }
        }
    }
    Ok(record)
}

/// The record of a chain whose documents are trained as they are.
pub fn raw_record(tokenizer: &Tokenizer, chain: &Chain) -> Result<ChainRecord, TokenizerError> {
    let mut record = empty_record(chain);
    for document in &chain.documents {
        record.texts.push(emitted(tokenizer, &document.text)?);
        record.documents.push((document.id, FinalState::Raw));
    }
    Ok(record)
}

/// The record of a chain of tuning data: each document is a [`TuningExample`] as JSON (read with
/// [`lyceum_corpus::document::Content::Record`]), and up to `shots` of one data set are joined into a text.
pub fn tuning_record(
    tokenizer: &Tokenizer,
    shots: usize,
    chain: &Chain,
) -> Result<ChainRecord, TokenizerError> {
    let mut record = empty_record(chain);
    let mut examples = Vec::new();
    for Document { id, text } in &chain.documents {
        match read_example(text) {
            Ok(example) => {
                record.pairs_kept += example.pairs.len() as u64;
                record.documents.push((*id, FinalState::Augmented));
                examples.push(example);
            }
            Err(reason) => record.documents.push((*id, FinalState::Skipped(reason))),
        }
    }
    for group in group(examples, shots) {
        record.texts.push(tuning_text(tokenizer, &group)?);
    }
    Ok(record)
}

fn read_example(line: &str) -> Result<TuningExample, String> {
    match serde_json::from_str::<TuningExample>(line) {
        Ok(example) if !example.pairs.is_empty() && !example.context.trim().is_empty() => Ok(example),
        _ => Err(NO_EXAMPLE.to_owned()),
    }
}

fn emitted(tokenizer: &Tokenizer, text: &str) -> Result<Text, TokenizerError> {
    Ok(Text { tokens: tokenizer.with_bos_eos(tokenizer.encode_text(text)?), loss: Loss::All })
}

fn empty_record(chain: &Chain) -> ChainRecord {
    ChainRecord {
        chain: chain.id,
        texts: Vec::new(),
        documents: Vec::<(DocumentId, FinalState)>::new(),
        skipped: chain.skipped.clone(),
        pairs_kept: 0,
        pairs_dropped: Counts::new(),
        unconverted: Counts::new(),
    }
}
