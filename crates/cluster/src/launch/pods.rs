//! Pods, as the hosts of nodes: what the launcher `kubernetes` must be able to do. It lies in a crate of its own, which takes
//! long to compile, and the program brings it ([`UpOptions::pods`](super::UpOptions::pods)).

use std::fmt;
use std::path::Path;

use futures_util::future::BoxFuture;

use super::hosts::{AgentLoss, Fault};
use super::order::AgentOrder;
use super::up::UpOptions;
use crate::agent;
use crate::error::ClusterError;
use crate::manifest::Manifest;
use crate::state::{StateDir, from_json};

/// Largest order that is read, in bytes: Kubernetes has no larger secrets.
const MAX_ORDER: u64 = 1 << 20;

/// Makes the pods of a manifest known; touches nothing.
pub type MakePods = fn(&Manifest, &UpOptions) -> Result<Box<dyn Pods>, ClusterError>;

/// The pods of one cluster.
pub trait Pods: fmt::Debug + Send + Sync {
    /// Looks for the pods of all nodes. Tells of each node, in the manifest's order, whether its agent runs already, or will,
    /// or why it cannot have a pod.
    fn reach(&mut self) -> BoxFuture<'_, Result<Vec<Result<bool, Fault>>, ClusterError>>;

    /// Makes a pod for each order, and tells which could not be made. What is left of an earlier pod of the node is ended
    /// first. Orders for all nodes make a cluster anew; fewer add to the one that is there, at any time.
    fn start(&mut self, orders: Vec<AgentOrder>) -> BoxFuture<'_, Result<Vec<Fault>, ClusterError>>;

    /// Does a pod wait for a host or for its image, and not for too long yet?
    fn are_awaited(&self) -> bool;

    /// How the agent of `node` has ended, or why it will not start; nothing while it may run.
    fn loss(&self, node: &str) -> Option<AgentLoss>;

    /// What the log of the agent of `node` ends with, and where it is.
    fn log<'a>(&'a mut self, node: &'a str) -> BoxFuture<'a, (String, Vec<String>)>;

    /// Ends what this process has made, and with `all` every other pod of the cluster too.
    fn give_up(&mut self, all: bool) -> BoxFuture<'_, ()>;

    /// Ends all pods and removes all that belongs to them. Tells whether there was anything, and which pods do not end.
    fn end(&mut self) -> BoxFuture<'_, Result<(bool, Vec<Fault>), ClusterError>>;
}

/// The pods of `manifest`, where this program has them.
pub(super) fn pods_of(manifest: &Manifest, options: &UpOptions) -> Result<Box<dyn Pods>, ClusterError> {
    let make = options.pods.ok_or_else(|| {
        let name = &manifest.name;
        ClusterError::Refused(format!(
            "cluster `{name}`: this program was made without the launcher `kubernetes`"
        ))
    })?;
    make(manifest, options)
}

/// Carries out the order in file `order` in this very process, with its state in `state`: the body of a pod.
pub fn run_pod(order: &Path, state: &StateDir) -> Result<(), ClusterError> {
    let fault = |error: &std::io::Error| ClusterError::file(order, error);
    let size = std::fs::metadata(order).map_err(|error| fault(&error))?.len();
    if size > MAX_ORDER {
        let text = format!("{}: has {size} bytes, expected at most {MAX_ORDER}", order.display());
        return Err(ClusterError::Refused(text));
    }
    let text = std::fs::read(order).map_err(|error| fault(&error))?;
    let order: AgentOrder =
        from_json(&text).map_err(|error| ClusterError::Refused(format!("{}: {error}", order.display())))?;
    let node = order.prepare(state)?;
    agent::run(state, &node.name)
}

impl AgentOrder {
    /// The order as [`run_pod`] reads it. A private key is in it.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] where it cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>, ClusterError> {
        serde_json::to_vec(self)
            .map_err(|error| ClusterError::Refused(format!("an order cannot be written: {error}")))
    }
}

/// Where the state of a cluster is, in words: which machine, and which folder. Two with the same one are the same cluster,
/// if they have the same name.
pub fn origin(state: &StateDir) -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", name.trim(), state.root().display())
}
