//! Debian's package descriptions: prepares the corpus, makes the demo's models, runs the demo, judges the synthesizer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use lyceum_debian::demo::Demo;
use lyceum_debian::demo::hardware::Hardware;
use lyceum_debian::installation::Installation;
use lyceum_debian::lists::Archive;
use lyceum_debian::models::{Model, Recipe};
use lyceum_debian::prepare::{self, Options};
use lyceum_debian::report::{Gate, Judgement};

/// Debian's package descriptions: the demo, its corpus, its models, its report.
#[derive(Debug, Parser)]
#[command(name = "lyceum-debian", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains the base model further on a domain, half of it augmented, and shows what that taught.
    Demo {
        /// The folder that gets the runs; an interrupted one there goes on [default: target/demo of this Lyceum].
        #[arg(long)]
        out: Option<PathBuf>,
        /// First judges the synthesizer on texts it never saw; fails below the demo's gate.
        #[arg(long)]
        report: bool,
        /// Also trains otherwise, and puts both results side by side.
        #[arg(long)]
        compare: Option<Compare>,
        /// Another seed than the run files'.
        #[arg(long)]
        seed: Option<u64>,
        /// What the trainers compute on [default: gpu where there is an NVIDIA GPU, else cpu].
        #[arg(long)]
        on: Option<Hardware>,
    },
    /// Makes the demo's tokenizer, base model and synthesizer by the recipe; goes on where it was interrupted.
    Models {
        /// The folder of corpus and runs [default: target/models of this Lyceum].
        #[arg(long)]
        work: Option<PathBuf>,
        /// The folder that gets the models [default: examples/debian/models of this Lyceum].
        #[arg(long)]
        out: Option<PathBuf>,
        /// Makes only this model.
        #[arg(long)]
        only: Option<Model>,
    },
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

/// What the demo is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compare {
    /// As many tokens of the same domain, all raw.
    Vanilla,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo { out, report, compare, seed, on } => {
            let installation = Installation::find()?;
            let out = out.unwrap_or_else(|| installation.products().join("demo"));
            let compare = compare == Some(Compare::Vanilla);
            let hardware = on.unwrap_or_else(Hardware::of_this_machine);
            Demo { out, report, compare, seed, hardware }.run(&installation)?;
        }
        Command::Models { work, out, only } => {
            let installation = Installation::find()?;
            let recipe = Recipe {
                work: work.unwrap_or_else(|| installation.products().join("models")),
                out: out.unwrap_or_else(|| installation.example().join("models")),
                models: only.map_or_else(|| Model::ALL.to_vec(), |model| vec![model]),
            };
            recipe.run(&installation)?;
        }
        Command::Prepare { out, sample, mirror, refresh } => {
            let archive = Archive { mirror, ..Archive::default() };
            let lists = prepare::index(&out, &archive, refresh)?;
            print!("{}", prepare::prepare(&Options::demo(out, sample), &lists)?);
        }
        Command::Report { contexts, outputs, strict } => {
            let report = Judgement::of_files(&contexts, &outputs)?.report();
            print!("{report}");
            let gate = Gate::default();
            let shortfalls = report.shortfalls(&gate);
            for shortfall in &shortfalls {
                println!("below the gate: {shortfall}");
            }
            let failed = !report.fatal_shortfalls(&gate).is_empty() || strict && !shortfalls.is_empty();
            return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let arguments = ["lyceum-debian"].iter().chain(arguments);
        Arguments::try_parse_from(arguments).unwrap_err().to_string()
    }

    #[test]
    fn wrong_arguments_are_named_with_what_was_expected() {
        let error = refused(&["demo", "--compare", "nothing"]);
        assert!(error.contains("nothing") && error.contains("vanilla"), "{error}");
        let error = refused(&["models", "--only", "bass"]);
        assert!(error.contains("bass") && error.contains("base") && error.contains("synthesizer"), "{error}");
        let error = refused(&["demo", "--seed", "-1"]);
        assert!(error.contains("--seed") || error.contains("-1"), "{error}");
        assert!(refused(&["demo", "--reprt"]).contains("--report"));
    }

    #[test]
    fn the_demo_needs_no_arguments() {
        let arguments = Arguments::try_parse_from(["lyceum-debian", "demo"]).unwrap();
        let Command::Demo { out: None, report: false, compare: None, seed: None, on: None } =
            arguments.command
        else {
            panic!("{arguments:?}");
        };
    }
}
