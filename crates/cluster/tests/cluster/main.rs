//! Clusters of real processes on this machine.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod actors;
mod death;
mod etcd;
#[path = "../../testbed/etcd.rs"]
mod etcd_server;
mod gangs;
mod harness;
mod launching;
mod network;
mod networked;
mod placing;
#[path = "../../testbed/probe.rs"]
#[allow(dead_code, reason = "the testbed uses the other half")]
mod probe;
mod silence;
mod slurm;
mod slurmd;
mod ssh;
mod sshd;
mod strangers;
mod templates;
