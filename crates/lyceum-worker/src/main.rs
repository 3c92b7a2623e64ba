//! The process for actors that need libtorch: trainers and synthesizers. An agent starts it; a person only for a run
//! without a cluster.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

mod local;
mod training;

#[derive(Parser)]
#[command(name = "lyceum-worker", version, about = "Actors that need libtorch; started by a node agent")]
enum Command {
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
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Local { run, out, threads } => {
            tch::set_num_threads(threads);
            let run = lyceum_pretrain::run_file::RunFile::load(run)?;
            local::run(&run, &out)
        }
    }
}
