//! With [`sibling`](crate::sibling), the one place of this crate with `unsafe`: what happens between fork and exec, descriptors named by number in the
//! environment, and descriptors that tokio waits on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::io::FdFlags;
use rustix::process::Signal;
use rustix::thread::CpuSet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a new process is given beyond its arguments and environment.
#[derive(Debug, Default)]
pub(crate) struct Preparation {
    /// Killed when the forking *thread* ends.
    pub(crate) dies_with_parent: bool,
    /// Leads a session of its own, away from any terminal; else only a process group.
    pub(crate) own_session: bool,
    /// The cores it may use; empty: as this process.
    pub(crate) cores: Vec<u32>,
    /// Descriptors that stay open across exec, under their own numbers.
    pub(crate) inherited: Vec<OwnedFd>,
    /// `cgroup.procs` of the group it joins, open for writing.
    pub(crate) cgroup: Option<OwnedFd>,
}

/// Makes `command` start as `preparation` says. The descriptors are closed here when `command` is dropped.
pub(crate) fn prepare(command: &mut Command, preparation: Preparation) {
    let Preparation { dies_with_parent, own_session, cores, inherited, cgroup } = preparation;
    let set = core_set(&cores);
    let parent = rustix::process::getpid();
    command.stdin(Stdio::null());
    if !own_session {
        command.process_group(0);
    }
    let setup = move || -> io::Result<()> {
        if own_session {
            rustix::process::setsid()?;
        }
        if dies_with_parent {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the signal was asked for.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::NotConnected.into());
            }
        }
        if let Some(set) = &set {
            rustix::thread::sched_setaffinity(None, set)?;
        }
        for fd in &inherited {
            rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
        }
        if let Some(procs) = &cgroup {
            rustix::io::write(procs, b"0")?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe things may happen. The closure makes plain system calls on
    // values that were made before the fork, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(setup);
    }
}

/// The cores that a process is bound to; `None` where that is none of our affair.
pub(crate) fn core_set(cores: &[u32]) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for core in cores.iter().filter(|core| (**core as usize) < CpuSet::MAX_CPU) {
        set.set(*core as usize);
    }
    (!cores.is_empty()).then_some(set)
}

/// What this process says from now on, on its stdout and stderr, goes into `log`.
pub(crate) fn say_into(log: &OwnedFd) -> io::Result<()> {
    for standard in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes two numbers. The standard descriptors are open, and nobody owns them.
        if unsafe { libc::dup2(log.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `fd` as the tokio runtime waits on it until it can be read. Call it within a runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, is always the same descriptor, and is closed only when it is dropped, which the
    // `AsyncFd` does after its registration has ended.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// The descriptor whose number the environment variable `variable` holds; this process's from now on. `None` when the
/// variable is absent or names no open descriptor. Call it once per variable: the number is not removed from the
/// environment, since other threads may read that.
pub(crate) fn inherited_fd(variable: &str) -> Option<OwnedFd> {
    let number: RawFd = std::env::var(variable).ok()?.parse().ok().filter(|fd| *fd > 2)?;
    // SAFETY: the parent passed this number as one that stays open for this process and that nobody else owns; that it
    // is open at all is checked before it is used.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Some(fd),
        Err(_) => {
            // Not open: so it must not be closed either.
            std::mem::forget(fd);
            None
        }
    }
}
