//! The Kubernetes launcher: every node is a pod.
//!
//! The program that has it names [`pods`] in its [`UpOptions`]; everything of `up` and
//! `down` that is not about pods is in `lyceum-cluster`, which does not know this crate: it compiles slowly.
//!
//! # Where the head is
//!
//! On the machine of `lyceum up`, as with every launcher, which has to be in the pods' network: they call the head, and it
//! calls them back, by address, over UDP. So `lyceum up` and `lyceum run` are typed **in a pod** (a notebook's, a job's, or
//! that of `cluster/kubernetes.yaml`), or on a machine that routes to pods, as those of many clouds do, or, with
//! `host_network = true`, on one in the network of the hosts. Spark's client mode is the same.
//!
//! A head in a pod of its own was the other way, and would leave a client outside as far from it as before: what leads into
//! a cluster from outside, `kubectl port-forward` and most load balancers, carries TCP. A client in a pod needs none of it.
//! And the keys of the cluster stay where its user is, as they do with SSH and Slurm.
//!
//! No service is made: an agent is told where the head is, and the head where agents are when they join, by addresses that
//! a pod keeps for life.
//!
//! # What is made
//!
//! | object | name | holds |
//! |---|---|---|
//! | ConfigMap | `lyceum-CLUSTER` | the nodes' names; it owns all others, so that deleting it ends the cluster |
//! | Secret, one a node | `lyceum-CLUSTER.NODE` | the order with the agent's credentials, mounted where the agent alone reads it |
//! | Pod, one a node | `lyceum-CLUSTER.NODE` | the agent, as a user that is not root, without any capability, on a read-only image |
//!
//! Pods are made by name and not by a controller: nodes differ, and who starts again what, the head and `lyceum up` decide.
//! A pod is never restarted; another `up` makes a new one for a node whose pod has ended. All have the labels
//! `app.kubernetes.io/managed-by: lyceum`, `lyceum.io/cluster`, and `lyceum.io/origin`, a hash of the machine and folder of the
//! cluster's state: `down` ends what has them, and nobody else's. The cluster of a `lyceum run` in a pod is owned by that pod
//! where the variables `POD_NAME`, `POD_NAMESPACE` and `POD_UID` say which it is: then Kubernetes ends it with the pod,
//! however that ends. Without them, a run that is killed leaves pods whose agents have ended, and their secrets, to the next
//! `up` or `down` of its name.
//!
//! A pod's limits are its requests: the node's processors, GPUs and mapped custom resources, and its memory with what the
//! store and the agent need besides.

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod access;
mod cluster;
mod end;
mod fate;
mod objects;
mod resources;
mod watch;

use lyceum_cluster::ClusterError;
use lyceum_cluster::launch::{Pods, UpOptions, origin};
use lyceum_cluster::manifest::Manifest;

use self::cluster::PodCluster;
use self::objects::Objects;

/// The pods of `manifest`. Nothing is asked yet.
///
/// # Errors
/// None now; it is what [`MakePods`](lyceum_cluster::launch::MakePods) asks for.
pub fn pods(manifest: &Manifest, options: &UpOptions) -> Result<Box<dyn Pods>, ClusterError> {
    Ok(Box::new(PodCluster::new(manifest, origin(&options.state))))
}

/// The objects that `up` would make of `manifest`, as YAML, without asking anybody anything. What is known only then is
/// left out: who owns what, and the secrets' contents.
///
/// # Errors
/// [`ClusterError::Refused`] where an object cannot be written.
pub fn dry_run(manifest: &Manifest, options: &UpOptions) -> Result<String, ClusterError> {
    let namespace = manifest.kubernetes.namespace.as_deref();
    objects::yaml(&Objects::new(manifest, &origin(&options.state), namespace))
}
