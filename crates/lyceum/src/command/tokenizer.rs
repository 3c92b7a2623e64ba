//! `lyceum tokenizer train`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use lyceum_corpus::document::{DocumentReader, ReaderOptions};
use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};

use super::require_file;

/// Texts over which bytes a token are counted.
const COUNTED: usize = 2000;

#[derive(Debug, Args)]
pub struct TokenizerCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a byte-level BPE tokenizer.json on .jsonl, .txt or .md files (plain, .gz, .zst)
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
        for input in &self.inputs {
            require_file("input file", input)?;
        }
        let mut reader = DocumentReader::new(0, ReaderOptions::new(self.inputs));
        let options = TrainOptions {
            vocabulary: self.vocabulary,
            min_frequency: self.min_frequency,
            marks_as_tokens: !self.plain_marks,
        };
        // The texts stream through: what is held are counts of words, and a few texts to measure the result on.
        let (mut count, mut sample, mut failure) = (0_usize, Vec::new(), None);
        let texts = reader.by_ref().map_while(|document| match document {
            Ok(document) => {
                count += 1;
                if sample.len() < COUNTED {
                    sample.push(document.text.clone());
                }
                Some(document.text)
            }
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        let tokenizer = Tokenizer::train(texts, options);
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        for (reason, count) in reader.take_skipped() {
            eprintln!("skipped {count} entries: {reason}");
        }
        let tokenizer = tokenizer?;
        ensure!(count > 0, "the inputs hold no text");
        tokenizer.save(&self.out).with_context(|| format!("cannot write {}", self.out.display()))?;
        let (mut bytes, mut tokens) = (0, 0);
        for text in &sample {
            bytes += text.len();
            tokens += tokenizer.encode_text(text)?.len();
        }
        println!(
            "{}: {} tokens from {} texts, {:.2} bytes a token",
            self.out.display(),
            tokenizer.vocabulary(),
            count,
            bytes as f64 / tokens.max(1) as f64
        );
        Ok(ExitCode::SUCCESS)
    }
}
