//! The Slurm launcher: agents as the tasks of one job.
//!
//! The cluster's folder is where the job's hosts find it, as home folders on such machines are: orders, with the agents'
//! credentials, and logs lie there, readable by their owner alone, and none is in the job's script, which others may read.

mod further;
mod job;
mod task;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

pub(crate) use self::further::FurtherJobs;
use self::job::Job;
pub use self::task::run_task;
use self::task::{TaskEnd, order_file};
use super::hosts::{AgentLoss, Fault};
use super::order::AgentOrder;
use super::starter::tail_of;
use super::up::UpOptions;
use crate::error::ClusterError;
use crate::manifest::Manifest;
use crate::state::{StateDir, read_json, remove, write_json, write_whole};

/// Slurm is asked this often: its controller serves all users of the machine.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a job to be over after it was cancelled; Slurm gives its processes half a minute by default.
const CANCELLED: Duration = Duration::from_secs(120);

/// One job, as the hosts of all nodes.
#[derive(Debug)]
pub(super) struct Slurm {
    manifest: Manifest,
    state: StateDir,
    program: PathBuf,
    watch: Option<Watch>,
    /// Has this process submitted the job?
    submitted: bool,
}

/// Looks at the job from time to time, until dropped.
#[derive(Debug)]
struct Watch {
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Clone)]
enum Seen {
    There(Job),
    /// The job is over; what Slurm says of it.
    Over(u64, String),
}

impl Slurm {
    pub(super) fn new(manifest: &Manifest, options: &UpOptions) -> Slurm {
        Slurm {
            manifest: manifest.clone(),
            state: options.state.clone(),
            program: options.program.clone(),
            watch: None,
            submitted: false,
        }
    }

    /// An agent whose job waits, or has just begun, counts as one that runs: it will join.
    pub(super) async fn reach(&mut self) -> Result<Vec<Result<bool, Fault>>, ClusterError> {
        let job = self.main_job().await?;
        let names = self.manifest.nodes.iter().map(|node| &node.name);
        let lives = |node: &String| job.is_some() && !TaskEnd::file(&self.state, node).exists();
        let reached = names.map(|node| Ok(lives(node))).collect();
        if let Some(job) = job {
            self.watch(job);
        }
        Ok(reached)
    }

    pub(super) async fn start(&mut self, orders: &[AgentOrder]) -> Result<Vec<Fault>, ClusterError> {
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        let whole = orders.len() == self.manifest.nodes.len();
        if whole {
            // Of an earlier cluster of the name, or one whose agents have all ended.
            self.end().await?;
        }
        self.state.make(&self.state.slurm())?;
        let mut tasks = String::new();
        for order in orders {
            let name = &order.node()?.name;
            let index = self.manifest.nodes.iter().position(|node| node.name == *name).unwrap_or_default();
            remove(&TaskEnd::file(&self.state, name))?;
            write_json(&order_file(&self.state, index), order)?;
            tasks += &format!("{index}\n");
        }
        match self.main_job().await? {
            Some(job) => {
                write_whole(&job::again_file(&self.state), tasks.as_bytes())?;
                job::wake(job.id).await?;
                self.watch(job);
            }
            None => {
                // A job that has just ended takes its hosts with it: all nodes begin anew with the next `up`.
                if !whole {
                    return Err(ClusterError::Refused(format!(
                        "the job of cluster `{}` has just ended: `lyceum up` again submits another",
                        self.manifest.name
                    )));
                }
                let script = job::script(&self.program, &self.state, self.manifest.nodes.len());
                let name = job::name_of(&self.manifest.name, None);
                let id = job::submit(&self.manifest, &self.state, &name, &script).await?;
                self.submitted = true;
                self.watch(Job { id, state: "PENDING".into(), reason: "None".into(), node: None });
            }
        }
        Ok(Vec::new())
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.seen(), Some(Seen::There(job)) if job.is_queued())
    }

    pub(super) fn loss(&self, node: &str) -> Option<AgentLoss> {
        let ended: Option<TaskEnd> = read_json(&TaskEnd::file(&self.state, node)).ok();
        let how = match (ended, self.seen()?) {
            (Some(TaskEnd { how }), _) => how,
            (None, Seen::Over(id, fate)) => {
                format!("has ended with its job {id}, of which Slurm says {fate}")
            }
            (None, Seen::There(_)) => return None,
        };
        let (log_file, mut log) = self.log(node);
        if log.is_empty() {
            // What kept it from being started is in the job's own.
            log = tail_of(&self.state.logs().join("slurm.log"));
        }
        let who = format!("a task of the job `{}`", job::name_of(&self.manifest.name, None));
        Some(AgentLoss { how, who, log_file, log })
    }

    pub(super) fn log(&self, node: &str) -> (String, Vec<String>) {
        let path = self.state.agent_log(node);
        (path.display().to_string(), tail_of(&path))
    }

    pub(super) async fn give_up(&mut self, all: bool) {
        if (self.submitted || all)
            && let Err(error) = self.end().await
        {
            tracing::warn!(%error, "a job may be left");
        }
    }

    /// Ends the job, and those of further nodes, and waits until they are over; tells whether there was one.
    pub(super) async fn end(&mut self) -> Result<bool, ClusterError> {
        self.watch = None;
        let mut jobs = self.jobs(true).await?;
        let there_were = !jobs.is_empty();
        for job in &jobs {
            job::cancel(job.id).await?;
        }
        let began = Instant::now();
        while let Some(Job { id, state, .. }) = jobs.first() {
            if began.elapsed() > CANCELLED {
                let seconds = CANCELLED.as_secs();
                return Err(ClusterError::Refused(format!(
                    "job {id} was cancelled {seconds} s ago, and Slurm still has it as {state}: `squeue` and `lyceum down` again"
                )));
            }
            tokio::time::sleep(LOOK_EVERY / 4).await;
            jobs = self.jobs(true).await?;
        }
        Ok(there_were)
    }

    /// The job of the manifest's nodes.
    async fn main_job(&self) -> Result<Option<Job>, ClusterError> {
        Ok(self.jobs(false).await?.into_iter().find(|job| job.node.is_none()))
    }

    async fn jobs(&self, with_ending: bool) -> Result<Vec<Job>, ClusterError> {
        job::find(&self.manifest.name, &self.state, with_ending).await
    }

    fn seen(&self) -> Option<Seen> {
        let watch = self.watch.as_ref()?;
        Some(watch.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn watch(&mut self, job: Job) {
        let seen = Arc::new(Mutex::new(Seen::There(job.clone())));
        let watching = tokio::spawn(look(job, self.manifest.name.clone(), self.state.clone(), seen.clone()));
        self.watch = Some(Watch { seen, watching });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn look(mut job: Job, cluster: String, state: StateDir, seen: Arc<Mutex<Seen>>) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Who does not answer now may answer later: nothing follows from that.
        let Ok(jobs) = job::find(&cluster, &state, true).await else { continue };
        let now = match jobs.into_iter().find(|found| found.id == job.id) {
            Some(found) => {
                job = found;
                if job.is_queued() && told != job.reason {
                    tracing::warn!(job = job.id, "the job waits for hosts: {}", job.reason);
                    told.clone_from(&job.reason);
                }
                Seen::There(job.clone())
            }
            None => {
                let fate = job::fate(job.id).await.unwrap_or_else(|| "nothing any more".to_owned());
                Seen::Over(job.id, fate)
            }
        };
        let over = matches!(now, Seen::Over(..));
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        if over {
            return;
        }
    }
}
