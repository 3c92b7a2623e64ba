//! A cluster for a benchmark: owned by it, in a folder of its own, on this machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lyceum_actor::{ActorRef, Cluster, Registry, System};
use lyceum_cluster::Job;
use lyceum_cluster::launch::{self, Up, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;

use crate::actors::{Caller, Target};
use crate::keepers::Keeper;

/// A head, and nodes that each have their agent and their store. The folder goes with it.
pub struct BenchCluster {
    up: Up,
    job: Job,
    system: System,
    _folder: tempfile::TempDir,
}

/// Nodes `a` and `b`.
pub const TWO_NODES: &str = r#"
name = "bench"
oversubscribe = true
store = { capacity = "1 GiB", segment = "512 MiB" }

[[nodes]]
name = "a"
resources = { cpus = 1, memory = "2 GiB" }

[[nodes]]
name = "b"
resources = { cpus = 1, memory = "2 GiB" }
"#;

impl BenchCluster {
    /// Starts the one of `manifest`; `program` is the one whose `head`, `agent` and `worker` commands are run.
    pub async fn start(program: PathBuf, manifest: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("lyceum-bench-").tempdir().context("a folder")?;
        let manifest = Manifest::parse("the benchmark's manifest", manifest)?;
        let state = StateDir::at(folder.path().join("bench"));
        let options = UpOptions { owned: true, ..UpOptions::at(state, program) };
        let up = launch::up(&manifest, options).await?;
        let job = up.client.begin_job("bench", true).await?;
        let system = up.client.start_system(Registry::new()).await?;
        Ok(Self { up, job, system, _folder: folder })
    }

    /// The cluster, as the benchmark's job sees it.
    pub fn cluster(&self) -> Cluster {
        self.job.cluster(&self.system)
    }

    /// The number of the head's process.
    pub fn head(&self) -> Result<u32> {
        let state = self.up.state.root().as_os_str().as_encoded_bytes();
        let arguments = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_head = |pid: &u32| {
            let arguments = arguments(pid);
            let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
            arguments.next() == Some(b"head") && arguments.any(|argument| argument == state)
        };
        let mut pids = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(is_head).context("the head does not run")
    }

    /// The number of the process of the agent of `node`.
    pub async fn agent(&self, node: &str) -> Result<u32> {
        let status = self.up.client.status().await?;
        let found = status.nodes.iter().find(|found| found.name == node);
        Ok(found.with_context(|| format!("there is no node `{node}`"))?.pid)
    }

    /// A process on `node` that is called.
    pub async fn target(&self, node: &str) -> Result<ActorRef<Target>> {
        Ok(self.cluster().spawn::<Target>(()).cpus(0).node(node).await?)
    }

    /// A process on `node` that calls.
    pub async fn caller(&self, node: &str) -> Result<ActorRef<Caller>> {
        Ok(self.cluster().spawn::<Caller>(()).cpus(0).node(node).await?)
    }

    /// A process on `node` that makes and reads objects.
    pub async fn keeper(&self, node: &str) -> Result<ActorRef<Keeper>> {
        Ok(self.cluster().spawn::<Keeper>(()).cpus(0).node(node).await?)
    }

    /// Ends it; nothing of it is left.
    pub async fn end(self) -> Result<()> {
        Ok(self.up.down().await?)
    }
}
