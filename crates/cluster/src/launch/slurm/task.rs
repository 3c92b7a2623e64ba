//! A task of a cluster's job: one agent on the host that Slurm gave it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::TETHER_VARIABLE;
use crate::error::ClusterError;
use crate::launch::ends::cause_of;
use crate::launch::order::AgentOrder;
use crate::state::{StateDir, read_json, remove, write_json};

/// The order for task `index`, until it has been taken.
pub(super) fn order_file(state: &StateDir, index: usize) -> PathBuf {
    state.slurm().join(format!("order-{index}.json"))
}

/// How the last agent of a node has ended, once it has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TaskEnd {
    /// The rest of a sentence that begins with the agent.
    pub(super) how: String,
}

impl TaskEnd {
    pub(super) fn file(state: &StateDir, node: &str) -> PathBuf {
        state.node(node).join("ended.json")
    }
}

/// Starts the agent of task `index`, by default the number that Slurm gave it, of the cluster in `state`, and waits for its
/// end. The body of `lyceum task`.
pub fn run_task(state: &StateDir, index: Option<usize>) -> Result<(), ClusterError> {
    let number = || std::env::var("SLURM_PROCID").ok()?.parse().ok();
    let index = index.or_else(number).ok_or_else(|| {
        ClusterError::Refused("`task` is what a job of Slurm calls: there is no SLURM_PROCID".into())
    })?;
    let path = order_file(state, index);
    let order: AgentOrder = read_json(&path)?;
    remove(&path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ClusterError::system("start the task's runtime"))?;
    let ended = runtime.block_on(run(state, &order));
    let how = match &ended {
        Ok(how) => how.clone(),
        Err(error) => format!("was not started: {error}"),
    };
    // With the cluster's end its folder may be gone before.
    if let Some(node) = order.manifest.nodes.get(order.index)
        && state.node(&node.name).is_dir()
    {
        write_json(&TaskEnd::file(state, &node.name), &TaskEnd { how })?;
    }
    ended.map(drop)
}

async fn run(state: &StateDir, order: &AgentOrder) -> Result<String, ClusterError> {
    // Slurm tells every process of a task to end, and this one has to see how the agent does.
    let _told = signal(SignalKind::terminate()).map_err(ClusterError::system("wait for signals"))?;
    state.make(&state.node(&order.node()?.name))?;
    let node = order.prepare(state)?;
    let log = state.agent_log(&node.name);
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let file = file.map_err(|error| ClusterError::file(&log, &error))?;
    let errors = file.try_clone().map_err(ClusterError::system("open a log"))?;
    let program = std::env::current_exe().map_err(ClusterError::system("find this program"))?;
    let mut command = Command::new(program);
    command.args(["agent", "--node", &node.name, "--state"]).arg(state.root());
    command.stdin(Stdio::null()).stdout(file).stderr(errors).env_remove(TETHER_VARIABLE);
    let mut agent = command.spawn().map_err(ClusterError::system("start the agent"))?;
    let status = agent.wait().await.map_err(ClusterError::system("wait for the agent"))?;
    Ok(cause_of(status).map_or("has ended".to_owned(), |cause| cause.to_string()))
}
