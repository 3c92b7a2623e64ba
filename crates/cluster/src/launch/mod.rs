//! Launchers: how a cluster's processes come to be.
//!
//! [`up`] and [`down`] are the same for all of them. A launcher's own is how the hosts of nodes are reached, and how an
//! agent is started, watched and ended there: `hosts` has the list, `local` does it on this machine, `ssh` on others, `slurm` in a
//! job. Pods of Kubernetes are made by a crate of its own; [`Pods`] is what it does.

mod down;
mod ends;
mod hosts;
mod local;
mod machine;
mod order;
mod pods;
mod record;
mod slurm;
mod ssh;
mod start;
mod starter;
mod up;

pub use self::down::{down, down_with, status};
pub use self::hosts::{AgentLoss, Fault};
pub use self::order::AgentOrder;
pub use self::pods::{MakePods, Pods, origin, run_pod};
#[cfg(test)]
pub(crate) use self::record::RunRecord;
pub(crate) use self::record::remove_keys;
pub use self::slurm::run_task;
pub use self::ssh::serve_orders;
pub use self::up::{Up, UpOptions, check, machine_memory, up, up_unless};
pub use crate::host::ProcessMark;
