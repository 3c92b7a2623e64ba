//! Launchers: how a cluster's processes come to be.
//!
//! [`up`] and [`down`] are the same for all of them. A launcher's own is how the hosts of nodes are reached, and how an
//! agent is started, watched and ended there: `hosts` has the list, `local` does it on this machine, `ssh` on others, `slurm` in a job.

mod down;
mod ends;
mod hosts;
mod join;
mod local;
mod machine;
mod order;
mod record;
mod slurm;
mod ssh;
mod start;
mod starter;
mod up;

pub use self::down::{down, status};
pub(crate) use self::join::{JOINED, order_for};
pub use self::join::{JoinOptions, Joined, join};
#[cfg(test)]
pub(crate) use self::record::RunRecord;
pub(crate) use self::record::remove_keys;
pub use self::slurm::run_task;
pub use self::ssh::serve_orders;
pub use self::up::{Up, UpOptions, check, machine_memory, up};
pub use crate::host::ProcessMark;
