//! `lyceum tokenizer train`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use lyceum_corpus::document::{DocumentReader, ReaderOptions};
use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};

/// Texts over which bytes a token are counted.
const COUNTED: usize = 2000;

#[derive(Debug, Args)]
pub struct TokenizerCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a byte-level BPE tokenizer.json on text or JSONL files (plain, .gz, .zst)
    Train(Train),
}

#[derive(Debug, Args)]
struct Train {
    /// Files to train on
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// Where the tokenizer.json goes
    #[arg(long)]
    out: PathBuf,
    /// Tokens in the vocabulary, bytes and marks included
    #[arg(long, default_value_t = 4096)]
    vocabulary: usize,
    /// A pair seen less often is not merged
    #[arg(long, default_value_t = 2)]
    min_frequency: u64,
    /// Leave the synthesizer's marks (CON, QUE, ANS, END) ordinary text instead of one token each
    #[arg(long)]
    plain_marks: bool,
}

impl TokenizerCommand {
    pub fn run(self) -> Result<ExitCode> {
        let Command::Train(train) = self.command;
        train.run()
    }
}

impl Train {
    fn run(self) -> Result<ExitCode> {
        let mut reader = DocumentReader::new(0, ReaderOptions::new(self.inputs));
        let mut texts = Vec::new();
        for document in reader.by_ref() {
            texts.push(document?.text);
        }
        ensure!(!texts.is_empty(), "the inputs hold no text");
        for (reason, count) in reader.take_skipped() {
            eprintln!("skipped {count} entries: {reason}");
        }
        let options = TrainOptions {
            vocabulary: self.vocabulary,
            min_frequency: self.min_frequency,
            marks_as_tokens: !self.plain_marks,
        };
        let tokenizer = Tokenizer::train(texts.iter(), options)?;
        tokenizer.save(&self.out).with_context(|| format!("cannot write {}", self.out.display()))?;
        let (mut bytes, mut tokens) = (0, 0);
        for text in texts.iter().take(COUNTED) {
            bytes += text.len();
            tokens += tokenizer.encode_text(text)?.len();
        }
        println!(
            "{}: {} tokens from {} texts, {:.2} bytes a token",
            self.out.display(),
            tokenizer.vocabulary(),
            texts.len(),
            bytes as f64 / tokens.max(1) as f64
        );
        Ok(ExitCode::SUCCESS)
    }
}
