//! Head, node agents, placement and launchers: from a manifest to processes that host actors.
//!
//! A cluster is described by a [`manifest`], started by a [launcher](launch), and consists of one
//! [head](head::run), one [agent](agent::run) per node, and one [worker](worker::run) process per spawned actor. What
//! head and agents decide is [pure](control); what they do with it, I/O, is the rest of this crate.
//!
//! A program takes part in one of two ways:
//!
//! - As a **worker**: its `worker` command calls [`worker::run`] with the roles that it implements. Its `main` begins with
//!   [`worker::begin`], so that agents may load the program once and fork it.
//! - As a **client**: [`launch::up`] starts or finds a cluster, [`Client::begin_job`] begins a job in it, and
//!   [`Client::start_system`] lets this process call actors.
//!
//! ```no_run
//! # use lyceum_cluster::{launch, manifest::Manifest};
//! # use lyceum_actor::Registry;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let manifest = Manifest::load("cluster/laptop.toml")?;
//! let up = launch::up(&manifest, launch::UpOptions::standing(&manifest)?).await?;
//! let job = up.client.begin_job("greeting", true).await?;
//! let system = up.client.start_system(Registry::new()).await?;
//! let cluster = job.cluster(&system); // cluster.spawn::<Greeter>(..).cpus(1).await?
//! # let _ = cluster;
//! job.end("the example").await?;
//! # Ok(()) }
//! ```

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

pub mod agent;
mod ask;
mod birth;
mod client;
#[cfg(test)]
mod committed;
pub mod control;
mod daemon;
mod error;
#[cfg(test)]
mod fuzz;
pub mod head;
mod host;
mod host_memory;
mod kinds;
pub mod launch;
mod logs;
pub mod manifest;
mod message;
#[cfg(test)]
mod newer;
#[cfg(test)]
mod samples;
mod sibling;
mod spawn;
pub mod state;
pub mod strict;
pub mod units;
pub mod worker;

pub use client::{Client, Job};
pub use control::vocabulary::{ActorStatus, JobEvent, JobStatus, NodeStatus, Status};
pub use error::ClusterError;
