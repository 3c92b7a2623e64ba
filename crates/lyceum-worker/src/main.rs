//! The process for actors that need libtorch: trainers and synthesizers. An agent starts it; a person only for what
//! needs tensors and no cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lyceum_actor::Registry;

mod heldout;
mod local;
mod outputs;
mod synthesizer;
mod trainer;
mod training;

#[derive(Parser)]
#[command(name = "lyceum-worker", version, about = "Actors that need libtorch; started by a node agent")]
enum Command {
    /// A process that hosts actors; an agent starts it
    #[command(hide = true)]
    Worker,
    /// Train in this process, without a cluster: one rank, sources that need no synthesizer
    Local {
        /// The run file
        run: PathBuf,
        /// Folder of the run; an interrupted run there goes on
        #[arg(long)]
        out: PathBuf,
        /// Threads that compute
        #[arg(long, default_value_t = 1)]
        threads: i32,
    },
    /// Generate instruction-response pairs for contexts, one by one, without a cluster
    Synthesize {
        /// Hugging Face directory of the synthesizer
        #[arg(long)]
        model: PathBuf,
        /// JSON lines with `id` and `context`
        #[arg(long)]
        contexts: PathBuf,
        /// Where the outputs go: JSON lines with `id` and `output`
        #[arg(long)]
        out: PathBuf,
        /// Most new tokens a context
        #[arg(long, default_value_t = 400)]
        max_new_tokens: usize,
        /// Contexts at once
        #[arg(long, default_value_t = 16)]
        rows: usize,
        /// Threads that compute
        #[arg(long, default_value_t = 1)]
        threads: i32,
    },
}

fn main() -> ExitCode {
    lyceum_cluster::worker::begin();
    // SAFETY: nothing before this has started a thread, and NCCL is not loaded.
    unsafe { lyceum_collective::nccl::confine_to_trusted_interface() };
    let filter = tracing_subscriber::EnvFilter::try_from_env("LYCEUM_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Worker => {
            let roles = Registry::new()
                .register::<trainer::TrainerActor>()
                .register::<synthesizer::SynthesizerActor>();
            return Ok(lyceum_cluster::worker::run(lyceum_bench::register(roles)));
        }
        Command::Local { run, out, threads } => {
            tch::set_num_threads(threads);
            local::run(&lyceum_pretrain::run_file::RunFile::load(run)?, &out)?;
        }
        Command::Synthesize { model, contexts, out, max_new_tokens, rows, threads } => {
            tch::set_num_threads(threads);
            outputs::write(&model, &contexts, &out, max_new_tokens, rows)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Threads that an actor may compute with: what its agent allotted.
fn threads() -> i32 {
    std::env::var("OMP_NUM_THREADS").ok().and_then(|count| count.parse().ok()).unwrap_or(1).max(1)
}
