//! Further nodes: each is a job of its own, of one host.

use std::path::PathBuf;

use futures_util::future::{BoxFuture, FutureExt as _};

use super::job;
use super::task::{TaskEnd, order_file};
use crate::error::ClusterError;
use crate::launch::provider::{NodeOrder, NodeProvider, Provided};
use crate::manifest::{MAX_NODES, Manifest};
use crate::state::{StateDir, remove, write_whole};

/// Slurm, as the head of a cluster asks it for more hosts.
#[derive(Debug)]
pub(crate) struct FurtherJobs {
    manifest: Manifest,
    state: StateDir,
    program: PathBuf,
}

impl FurtherJobs {
    /// For the cluster in `state`; agents are run from `program`.
    pub(crate) fn new(manifest: &Manifest, state: &StateDir, program: PathBuf) -> FurtherJobs {
        FurtherJobs { manifest: manifest.clone(), state: state.clone(), program }
    }

    async fn submit(&self, order: NodeOrder) -> Result<(), ClusterError> {
        self.state.make(&self.state.slurm())?;
        remove(&TaskEnd::file(&self.state, &order.node))?;
        // Beyond the numbers of the manifest's nodes.
        let index = MAX_NODES + order.number;
        let file = order_file(&self.state, index);
        write_whole(&file, &order.to_bytes())?;
        let script = job::script_of_one(&self.program, &self.state, index);
        // The job asks for what its one node says.
        let manifest = Manifest { nodes: order.order.manifest.nodes.clone(), ..self.manifest.clone() };
        let name = job::name_of(&self.manifest.name, Some(&order.node));
        let submitted = job::submit(&manifest, &self.state, &name, &script).await;
        if submitted.is_err() {
            remove(&file)?;
        }
        submitted.map(drop)
    }

    async fn jobs(&self) -> Result<Vec<(String, job::Job)>, ClusterError> {
        let jobs = job::find(&self.manifest.name, &self.state, false).await?;
        Ok(jobs.into_iter().filter_map(|job| Some((job.node.clone()?, job))).collect())
    }

    async fn cancel(&self, node: &str) -> Result<(), ClusterError> {
        for (_, job) in self.jobs().await?.into_iter().filter(|(of, _)| of == node) {
            job::cancel(job.id).await?;
        }
        Ok(())
    }
}

impl NodeProvider for FurtherJobs {
    fn name(&self) -> &'static str {
        "Slurm"
    }

    fn ask(&self, order: NodeOrder) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.submit(order).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Provided>, ClusterError>> {
        async {
            let provided = |(node, job): (String, job::Job)| {
                let state = match job.is_queued() {
                    true => format!("job {} is {} ({})", job.id, job.state, job.reason),
                    false => format!("job {} is {}", job.id, job.state),
                };
                Provided { node, state }
            };
            Ok(self.jobs().await?.into_iter().map(provided).collect())
        }
        .boxed()
    }

    fn release<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.cancel(node).boxed()
    }
}
