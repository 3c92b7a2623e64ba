//! The processes of a cluster, as `up` and the agents start them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{agent, head, launch, worker};

#[derive(Debug, Args)]
pub struct Head {
    /// Folder of the cluster's state
    #[arg(long)]
    state: PathBuf,
    /// Number among those that may be the head
    #[arg(long, default_value_t = 0)]
    candidate: u32,
}

#[derive(Debug, Args)]
pub struct Agent {
    /// Folder of the cluster's state
    #[arg(long)]
    state: PathBuf,
    /// Name of the node
    #[arg(long)]
    node: String,
}

#[derive(Debug, Args)]
pub struct Task {
    /// Folder of the cluster's state
    #[arg(long)]
    state: PathBuf,
    /// Number of the task [default: what Slurm says]
    #[arg(long)]
    index: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Pod {
    /// The order for the agent
    #[arg(long)]
    order: PathBuf,
    /// Folder of the cluster's state
    #[arg(long)]
    state: PathBuf,
}

impl Pod {
    pub fn run(self) -> Result<ExitCode> {
        launch::run_pod(&self.order, &StateDir::at(self.state))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Task {
    pub fn run(self) -> Result<ExitCode> {
        launch::run_task(&StateDir::at(self.state), self.index)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Head {
    pub fn run(self) -> Result<ExitCode> {
        head::run(&StateDir::at(self.state), self.candidate)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Agent {
    pub fn run(self) -> Result<ExitCode> {
        agent::run(&StateDir::at(self.state), &self.node)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts and ends agents of this machine, as `up` and `down` on another one order through SSH.
pub fn host() -> Result<ExitCode> {
    launch::serve_orders()?;
    Ok(ExitCode::SUCCESS)
}

/// Hosts an actor that needs no libtorch.
pub fn worker() -> ExitCode {
    worker::run(lyceum_bench::register(lyceum_pretrain::actors::registry()))
}
