//! The rounds of one chain: which text is asked about next, with which examples, and where the chain is cut.
//!
//! A pure state machine. Each prompt is the chain's completed examples and then the current text. Two things cut the
//! chain, so that what follows begins anew without examples: a text that yields no pair (it stays raw), and a prompt
//! that would not fit the model's positions by the tokenizer's own count. In the second case the text was not asked
//! about yet, so it is the first of the new chain; one that does not fit even alone stays raw.

use std::collections::VecDeque;

use lyceum_corpus::chain::{Counts, Document};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};

use crate::accounts::PairAccounts;
use crate::engine::{Generation, Prompt};
use crate::pair::Pair;
use crate::parse::parse;
use crate::prompt;

/// Reason for staying raw: the output held no good pair.
pub const NO_PAIR: &str = "no pair";
/// Reason for staying raw: the prompt would not fit even without examples.
pub const DOES_NOT_FIT: &str = "does not fit";

/// What must fit where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Positions the model has.
    pub positions: usize,
    /// Of these, positions kept for new tokens.
    pub max_new_tokens: usize,
}

/// A document with its pairs, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Article {
    /// The document.
    pub document: Document,
    /// Its pairs.
    pub pairs: Vec<Pair>,
}

/// Documents that are emitted as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// One document, as it is.
    Raw(Document),
    /// One or more documents with pairs: examples of each other.
    Augmented(Vec<Article>),
}

/// What became of a chain, before it is formatted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// In the order of the rounds; every document of the chain is in exactly one.
    pub segments: Vec<Segment>,
    /// Pairs kept and dropped.
    pub pairs: PairAccounts,
    /// Documents that stay raw, by reason.
    pub unconverted: Counts,
}

/// The state of a chain between its rounds.
#[derive(Debug)]
pub struct Rounds {
    tokenizer: Tokenizer,
    room: Room,
    waiting: VecDeque<Document>,
    asked: Option<Document>,
    examples: Vec<u32>,
    articles: Vec<Article>,
    outcome: Outcome,
}

impl Rounds {
    /// The rounds of a chain of these documents.
    pub fn new(tokenizer: Tokenizer, room: Room, documents: Vec<Document>) -> Self {
        Self {
            tokenizer,
            room,
            waiting: documents.into(),
            asked: None,
            examples: Vec::new(),
            articles: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// The next prompt, or nothing when all rounds are done. Asked again without an answer, it is the same prompt.
    pub fn next_prompt(&mut self) -> Result<Option<Prompt>, TokenizerError> {
        while let Some(document) = self.asked.take().or_else(|| self.waiting.pop_front()) {
            let request = prompt::request(&self.tokenizer, &document.text)?;
            let fits =
                |examples: usize| examples + request.len() + self.room.max_new_tokens <= self.room.positions;
            if !fits(0) {
                self.cut();
                self.stays_raw(document, DOES_NOT_FIT);
                continue;
            }
            if !fits(self.examples.len()) {
                self.cut();
            }
            let round = self.articles.len() as u32;
            let tokens = [self.examples.as_slice(), &request].concat();
            let prompt = Prompt { tokens, document: document.id, round };
            self.asked = Some(document);
            return Ok(Some(prompt));
        }
        Ok(None)
    }

    /// Takes the answer to the prompt last given out; without one, nothing happens.
    pub fn answer(&mut self, generation: &Generation) -> Result<(), TokenizerError> {
        let Some(document) = self.asked.take() else { return Ok(()) };
        let parsed = parse(&self.tokenizer.decode(&generation.tokens)?);
        self.outcome.pairs.add(&parsed.accounts);
        if parsed.pairs.is_empty() {
            self.cut();
            self.stays_raw(document, NO_PAIR);
        } else {
            self.examples.extend(prompt::example(&self.tokenizer, &document.text, &parsed.pairs)?.tokens);
            self.articles.push(Article { document, pairs: parsed.pairs });
        }
        Ok(())
    }

    /// What became of the chain. Documents that were not answered stay raw, without a reason counted: ask for prompts
    /// until there is none before.
    pub fn finish(mut self) -> Outcome {
        self.cut();
        let unanswered = self.asked.take().into_iter().chain(self.waiting).map(Segment::Raw);
        self.outcome.segments.extend(unanswered);
        self.outcome
    }

    fn cut(&mut self) {
        self.examples.clear();
        if !self.articles.is_empty() {
            self.outcome.segments.push(Segment::Augmented(std::mem::take(&mut self.articles)));
        }
    }

    fn stays_raw(&mut self, document: Document, reason: &str) {
        *self.outcome.unconverted.entry(reason.to_owned()).or_default() += 1;
        self.outcome.segments.push(Segment::Raw(document));
    }
}
