//! Debian's package descriptions: prepares the corpus, judges the synthesizer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lyceum_debian::lists::Archive;
use lyceum_debian::prepare::{self, Options};

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
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Prepare { out, sample, mirror, refresh } => {
            let archive = Archive { mirror, ..Archive::default() };
            let lists = prepare::index(&out, &archive, refresh)?;
            print!("{}", prepare::prepare(&Options::demo(out, sample), &lists)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}
