//! Clusters of real processes on this machine.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod actors;
mod certificates;
mod death;
mod etcd;
#[path = "../../testbed/etcd.rs"]
mod etcd_server;
mod gangs;
mod harness;
mod joining;
mod launching;
mod logs;
mod members;
mod network;
mod networked;
mod placing;
mod ports;
#[path = "../../testbed/probe.rs"]
#[allow(dead_code, reason = "the testbed uses the other half")]
mod probe;
mod programs;
mod silence;
mod slurm;
mod slurmd;
mod ssh;
mod sshd;
mod strangers;
mod templates;
