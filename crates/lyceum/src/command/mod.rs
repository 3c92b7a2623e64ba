//! The commands, one per file, or those that belong together.

mod bench;
mod cordon;
mod daemons;
mod down;
mod interrupts;
mod progress;
mod run;
mod stack;
mod status;
mod table;
mod tokenizer;
mod up;

use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use lyceum_cluster::launch::UpOptions;
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;

/// What hosts actors that need libtorch; in a bundle the first is a script that finds libtorch for the second.
const TORCH_PROGRAMS: [&str; 2] = ["lyceum-worker", "lyceum-worker-torch"];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train: synthesizers augment, trainers learn, a checkpoint comes out
    Run(run::RunCommand),
    /// Make a tokenizer
    Tokenizer(tokenizer::TokenizerCommand),
    /// Start the cluster that a manifest describes, or find it running
    Up(up::Up),
    /// End a cluster; nothing of it is left running
    Down(down::Down),
    /// Show nodes, resources, jobs and actors of a cluster
    Status(status::Status),
    /// Show what an actor is doing: its message, its mailbox, and the stacks of its process
    Stack(stack::Stack),
    /// Start nothing new on a node; what runs there goes on
    Cordon(cordon::Cordon),
    /// The opposite of cordon and drain
    Uncordon(cordon::Uncordon),
    /// Start nothing new on a node, have it empty in time, and wait until it is
    Drain(cordon::Drain),
    /// Measure this installation on this machine, beside the bare transport and another system
    Bench(bench::Bench),
    /// The other end of a bare echo; `bench` starts it
    #[command(hide = true)]
    BenchEcho(bench::Echo),
    /// The head of a cluster; `up` starts it
    #[command(hide = true)]
    Head(daemons::Head),
    /// The agent of a node; `up` starts it
    #[command(hide = true)]
    Agent(daemons::Agent),
    /// What `up` and `down` call on another machine
    #[command(hide = true)]
    Host,
    /// What a job of Slurm that `up` submits calls on each host
    #[command(hide = true)]
    Task(daemons::Task),
    /// What a pod of Kubernetes that `up` makes runs
    #[command(hide = true)]
    Pod(daemons::Pod),
    /// A process that hosts actors; an agent starts it
    #[command(hide = true)]
    Worker,
}

impl Command {
    /// What is logged where `LYCEUM_LOG` does not say.
    pub fn default_log(&self) -> &'static str {
        match self {
            Command::Head(_) | Command::Agent(_) | Command::Pod(_) | Command::Worker => "info",
            _ => "warn",
        }
    }

    pub fn run(self) -> Result<ExitCode> {
        match self {
            Command::Run(run) => run.run(),
            Command::Tokenizer(tokenizer) => tokenizer.run(),
            Command::Up(up) => up.run(),
            Command::Down(down) => down.run(),
            Command::Status(status) => status.run(),
            Command::Stack(stack) => stack.run(),
            Command::Cordon(cordon) => cordon.run(),
            Command::Uncordon(uncordon) => uncordon.run(),
            Command::Drain(drain) => drain.run(),
            Command::Bench(bench) => bench.run(),
            Command::BenchEcho(echo) => echo.run(),
            Command::Head(head) => head.run(),
            Command::Agent(agent) => agent.run(),
            Command::Host => daemons::host(),
            Command::Task(task) => task.run(),
            Command::Pod(pod) => pod.run(),
            Command::Worker => Ok(daemons::worker()),
        }
    }
}

/// Runs a command's future on this thread.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(future)
}

/// A line for the person at the terminal. Nobody may be there any more, which ends nothing.
pub fn say(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// Refuses a path of the command line where there is no file, by what it should have been.
fn require_file(what: &str, path: &Path) -> Result<()> {
    ensure!(path.exists(), "{}: there is no such {what}", path.display());
    ensure!(path.is_file(), "{}: a {what} is a file", path.display());
    Ok(())
}

/// How a cluster is started by this program: with the programs beside it that its actors may need.
fn up_options(manifest: &Manifest) -> Result<UpOptions> {
    let mut options = UpOptions::standing(manifest)?;
    let beside = TORCH_PROGRAMS.map(|name| options.program.with_file_name(name));
    options.pods = Some(lyceum_kubernetes::pods);
    options.companions = beside.into_iter().filter(|path| path.is_file()).collect();
    Ok(options)
}

/// The cluster that `given` names: a name, a manifest, or, without either, the only one there is.
fn named_cluster(given: Option<&str>) -> Result<(String, StateDir)> {
    let name = match given {
        Some(path) if path.ends_with(".toml") => {
            require_file("cluster manifest", Path::new(path))?;
            Manifest::load(path)?.name
        }
        Some(name) => name.to_owned(),
        None => {
            let mut names = StateDir::clusters()?;
            match names.len() {
                0 => bail!("no cluster runs here: start one with `lyceum up MANIFEST`"),
                1 => names.remove(0),
                _ => bail!("several clusters run here, name one: {}", names.join(", ")),
            }
        }
    };
    let state = StateDir::of(&name)?;
    Ok((name, state))
}
