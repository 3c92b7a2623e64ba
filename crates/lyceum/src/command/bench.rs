//! `lyceum bench SUBJECT`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use lyceum_bench::peer::Peer;
use lyceum_bench::work::{self, Options};
use lyceum_bench::{bare, row};

use super::{block_on, say};

#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure
    subject: Subject,
    /// Measure this system too, in turn with ours: ray (in a checkout, `cargo xtask peers` makes its environment)
    #[arg(long)]
    peer: Option<Peer>,
    /// Write the rows to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds of each work, after one that warms up; the medians count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Milliseconds of a round of calls
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    millis: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Subject {
    /// Calls between processes, and the creation of actors
    Actor,
    /// Objects: made, handed to another process, fetched by another node
    Store,
    /// The head's decisions, written down, over nodes that are simulated, and processes that idle; no other system is
    /// measured beside these
    Control,
}

#[derive(Debug, Args)]
pub struct Echo {
    /// Folder with the credentials
    credentials: PathBuf,
}

impl Bench {
    pub fn run(self) -> Result<ExitCode> {
        let options = Options {
            program: std::env::current_exe().context("cannot find this program")?,
            peer: self.peer,
            rounds: self.rounds,
            time: Duration::from_millis(self.millis),
        };
        let rows = block_on(async {
            match self.subject {
                Subject::Actor => work::actor::measure(&options).await,
                Subject::Store => work::store::measure(&options).await,
                Subject::Control => {
                    if let Some(peer) = self.peer {
                        say(&format!(
                            "{} has nothing like these works: they are measured alone",
                            peer.name()
                        ));
                    }
                    let mut rows = work::control::measure(&options)?;
                    rows.extend(work::idle::measure(&options).await?);
                    Ok(rows)
                }
            }
        })?;
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&rows)? + "\n";
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        print!("{}", row::table(&rows));
        Ok(ExitCode::SUCCESS)
    }
}

impl Echo {
    pub fn run(self) -> Result<ExitCode> {
        block_on(bare::serve(&self.credentials))?;
        Ok(ExitCode::SUCCESS)
    }
}
