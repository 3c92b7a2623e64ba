//! A child process of the agent.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use crate::host::pid_of;

/// A child that nobody has waited for, so that its number is its own.
#[derive(Debug)]
pub(crate) struct Child(Pid);

impl Child {
    /// The child that says it has this number, if there is one.
    pub(super) fn claimed(pid: u32) -> io::Result<Child> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let is_child = |pid: &Pid| rustix::process::waitid(WaitId::Pid(*pid), look).is_ok();
        let child = pid_of(pid).filter(is_child).map(Child);
        child.ok_or_else(|| io::Error::other(format!("process {pid} is no child of this agent")))
    }

    pub(super) fn id(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it and its process group.
    pub(super) fn kill(&self) {
        // One that has not yet made its group is killed by its own number.
        let _ = rustix::process::kill_process_group(self.0, Signal::KILL);
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }

    /// Its status, waited for on this thread: call it when it has ended, or is about to.
    pub(super) fn wait(self) -> io::Result<ExitStatus> {
        loop {
            match rustix::process::waitpid(Some(self.0), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) | Ok(None) => {}
                Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the standard library started and has not waited for.
impl TryFrom<std::process::Child> for Child {
    type Error = io::Error;

    fn try_from(child: std::process::Child) -> io::Result<Child> {
        Child::claimed(child.id())
    }
}
