//! What the layer above (the cluster) provides to a process, as a trait, so that arrows point down only.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{ActorAddress, ActorId, DeathReport, ProcessAddress, Stall};

/// The cluster's control plane as seen from one process.
pub trait ControlPlane: Send + Sync + 'static {
    /// Places and starts an actor; ready when its `start` has returned.
    fn spawn(&self, request: SpawnRequest) -> BoxFuture<'static, Result<ActorAddress, ControlError>>;
    /// Places and starts actors as one gang, all or none; ready when all have started. By rank.
    fn spawn_gang(&self, request: GangRequest)
    -> BoxFuture<'static, Result<Vec<ActorAddress>, ControlError>>;
    /// The newest incarnation of the actor with this name, of all members of the gang of that name by rank, or of nobody: of the
    /// own names of `job`, or of a namespace's.
    fn lookup(
        &self,
        job: u64,
        namespace: Option<&str>,
        name: &str,
    ) -> BoxFuture<'static, Result<Vec<ActorAddress>, ControlError>>;
    /// Asks to be told, through [`System::process_died`](crate::System::process_died), when `process` is gone.
    /// Called on first contact with it; must return at once.
    fn watch(&self, process: &ProcessAddress);
    /// Keeps `state` for the next life of the actor that this process was started for; ready when it is written down.
    fn save(&self, state: Vec<u8>) -> BoxFuture<'static, Result<(), ControlError>> {
        let _ = state;
        Box::pin(async { Err(ControlError::Refused("nothing is saved here".to_owned())) })
    }
    /// An actor of this process has passed its [progress deadline](crate::Actor::PROGRESS), or, without `stall`, goes on after it
    /// had. Must return at once.
    fn stalled(&self, actor: &ActorAddress, stall: Option<&Stall>) {
        let _ = (actor, stall);
    }
    /// Ends an actor: what it has accepted is still done, unless `kill`.
    fn stop(&self, actor: ActorId, kill: bool) -> BoxFuture<'static, Result<(), ControlError>>;
}

/// Why the control plane did not do what it was asked for.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[rkyv(derive(Debug))]
#[non_exhaustive]
pub enum ControlError {
    /// The request cannot be fulfilled; why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The process or actor died on the way.
    #[error("{0}")]
    Died(Box<DeathReport>),
    /// The control plane cannot be reached, or did not answer; in words.
    #[error("no answer from the control plane: {0}")]
    Unreachable(String),
}

/// What is asked of the cluster when an actor is spawned.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct SpawnRequest {
    /// The role's name.
    pub role: String,
    /// The role's fingerprint, as the spawner knows it; see [`fingerprint`](crate::fingerprint).
    pub fingerprint: u64,
    /// The archived arguments.
    pub args: Vec<u8>,
    /// The job it belongs to.
    pub job: u64,
    /// What it needs to run.
    pub resources: Resources,
    /// The name it is found by, unique in its namespace.
    pub name: Option<String>,
    /// The namespace of its name, which all jobs share; the job's own names where absent.
    pub namespace: Option<String>,
    /// Is an actor of that name and role that is there already the answer?
    pub or_get: bool,
    /// What it ends with.
    pub lifetime: Lifetime,
    /// The node it must run on.
    pub node: Option<String>,
    /// What the labels of its node must be; all of these hold.
    pub labels: Vec<LabelRule>,
    /// Which of the nodes that fit it is given.
    pub strategy: Strategy,
    /// The program that hosts it: the name of one that lies beside the node's own, or `sha256:` and the hash of one that was
    /// brought to the cluster; the cluster's default where absent.
    pub program: Option<String>,
    /// Environment of the process beyond the cluster's own.
    pub env: BTreeMap<String, String>,
    /// Whether it is started again after a death that nobody ordered.
    pub restarts: Restarts,
}

/// What is asked of the cluster when actors are spawned as one gang.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct GangRequest {
    /// What is asked for each of them; its arguments are not used.
    pub member: SpawnRequest,
    /// The archived arguments of each, by rank.
    pub args: Vec<Vec<u8>>,
}

/// What an actor ends with, at the latest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub enum Lifetime {
    /// Its job.
    #[default]
    Job,
    /// The process that asked for it, or its job, whichever ends first.
    Spawner,
    /// The cluster: it has a job of its own, and is found by its name in a namespace.
    Detached,
}

/// How often an actor that died is started again, and when.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct Restarts {
    /// So many times.
    pub count: u32,
    /// Milliseconds within which they are counted; 0: in all its life.
    pub within_ms: u64,
    /// Milliseconds before the first of them, twice as many before each further one, a minute at most.
    pub pause_ms: u64,
}

/// What a label of a node must be, or must not be.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct LabelRule {
    /// The label.
    pub label: String,
    /// What it must be one of; with `not`, what it must not be any of.
    pub values: Vec<String>,
    /// Are the values excluded? A node without the label satisfies the rule then.
    pub not: bool,
}

impl LabelRule {
    /// Does a node satisfy the rule whose label is `found`, `None` where it has no such label?
    pub fn allows(&self, found: Option<&str>) -> bool {
        found.is_some_and(|found| self.values.iter().any(|value| value == found)) != self.not
    }
}

/// Which of the nodes that fit an actor is given, or the members of a gang are. Of an actor that is alone, the strict ones ask
/// for no more than the others.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub enum Strategy {
    /// The node that is least full, so that load spreads; of a gang, as many nodes as there are.
    #[default]
    Spread,
    /// The fullest node that it fits on, so that large requests find room later; of a gang, as few nodes as can be.
    Pack,
    /// Each member of a gang on a node of its own, or none.
    StrictSpread,
    /// All members of a gang on one node, or none.
    StrictPack,
}

/// What an actor's process needs, in thousandths, so that sums are exact.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpus: u64,
    /// Thousandths of a GPU.
    pub milli_gpus: u64,
    /// Bytes of memory; 0 is "no limit asked for".
    pub memory: u64,
    /// Thousandths of what the manifest names.
    pub custom: BTreeMap<String, u64>,
}

/// An amount of something countable, in thousandths: from `1`, `2u32` or `0.5`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amount(Option<u64>);

impl Amount {
    /// Thousandths, or `None` for what is negative, not finite or too large.
    pub fn milli(self) -> Option<u64> {
        self.0
    }
}

impl From<u32> for Amount {
    fn from(whole: u32) -> Self {
        Amount(Some(u64::from(whole) * 1000))
    }
}

impl From<i32> for Amount {
    fn from(whole: i32) -> Self {
        Amount(u64::try_from(whole).ok().map(|whole| whole * 1000))
    }
}

impl From<f64> for Amount {
    fn from(amount: f64) -> Self {
        let milli = (amount * 1000.0).round();
        Amount((0.0..=1e15).contains(&milli).then_some(milli as u64))
    }
}
