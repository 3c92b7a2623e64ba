//! Debian's package descriptions: prepares the corpus, judges the synthesizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lyceum_debian::lists::Archive;
use lyceum_debian::output::{self, Document};
use lyceum_debian::prepare::{self, Options};
use lyceum_debian::report::{Gate, Judgement};
use serde::Deserialize;

/// Debian's package descriptions: the demo's corpus and report.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetches Debian's package index and writes all sets of the corpus.
    Prepare {
        /// The folder that gets the corpus (about 60 MB) and, in apt/, the index.
        #[arg(long)]
        out: PathBuf,
        /// Also writes the demo's sample, with its attribution, into this folder.
        #[arg(long)]
        sample: Option<PathBuf>,
        /// The Debian mirror.
        #[arg(long, default_value_t = Archive::default().mirror)]
        mirror: String,
        /// Fetches the index even if one is there.
        #[arg(long)]
        refresh: bool,
    },
    /// Judges what a synthesizer wrote about texts it never saw; fails below the demo's gate.
    Report {
        /// The texts: JSON lines with `id` and `text`, `.zst` or not (data/contexts.jsonl.zst).
        #[arg(long)]
        contexts: PathBuf,
        /// What was generated: JSON lines with the text's `id` and the `output`.
        #[arg(long)]
        outputs: PathBuf,
        /// Fails also below the wider gate: names, closed categories, free answers.
        #[arg(long)]
        strict: bool,
    },
}

/// What a synthesizer wrote about one text.
#[derive(Deserialize)]
struct Output {
    id: String,
    output: String,
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Prepare { out, sample, mirror, refresh } => {
            let archive = Archive { mirror, ..Archive::default() };
            let lists = prepare::index(&out, &archive, refresh)?;
            print!("{}", prepare::prepare(&Options::demo(out, sample), &lists)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Report { contexts, outputs, strict } => report(&contexts, &outputs, strict),
    }
}

fn report(contexts: &Path, outputs: &Path, strict: bool) -> Result<ExitCode> {
    let outputs: BTreeMap<String, String> =
        output::read(outputs)?.into_iter().map(|row: Output| (row.id, row.output)).collect();
    let mut judgement = Judgement::default();
    for context in output::read::<Document>(contexts)? {
        // A text without an output counts as one that gave nothing.
        judgement.add(&context.text, outputs.get(&context.id).map(String::as_str).unwrap_or_default());
    }
    let report = judgement.report();
    print!("{report}");
    let gate = Gate::default();
    let shortfalls = report.shortfalls(&gate);
    for shortfall in &shortfalls {
        println!("below the gate: {shortfall}");
    }
    let failed = !report.fatal_shortfalls(&gate).is_empty() || strict && !shortfalls.is_empty();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
