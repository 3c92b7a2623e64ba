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

/// Nodes `a` and `b`, each with its agent and its store. The folder goes with it.
pub struct BenchCluster {
    up: Up,
    job: Job,
    system: System,
    _folder: tempfile::TempDir,
}

const MANIFEST: &str = r#"
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
    /// Starts it; `program` is the one whose `head`, `agent` and `worker` commands are run.
    pub async fn start(program: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("lyceum-bench-").tempdir().context("a folder")?;
        let manifest = Manifest::parse("the benchmark's manifest", MANIFEST)?;
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
