//! A fork whose child is a child of this process's parent, as if that had forked it.
//!
//! The C library has no such fork, so the kernel is asked directly, and what the library's own would do for the child is done
//! here. That is little because the process has one thread: no lock is held by another, and there is no other to forget. With
//! [`spawn`](crate::spawn) this is where this crate has `unsafe`.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::ptr;

/// See prctl(2); missing in `libc`.
const PR_GET_TID_ADDRESS: libc::c_int = 40;

/// A process of one thread that may fork siblings.
#[derive(Debug)]
pub(crate) struct SiblingFork {
    /// Where the C library keeps this thread's number.
    number: *mut libc::pid_t,
    /// Its list of locks that outlive their holder, and that list's size.
    robust: (*mut c_void, usize),
}

/// Which of the two one is after a fork.
#[derive(Debug)]
pub(crate) enum Forked {
    Parent,
    Child(OneThread),
}

/// Shows that this process has one thread; made in a process that was just forked, and used up before it starts another.
#[derive(Debug)]
pub(crate) struct OneThread(PhantomData<*mut ()>);

impl SiblingFork {
    /// # Errors
    /// This process has several threads, or a C library whose state is not known here.
    pub(crate) fn new() -> io::Result<SiblingFork> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!("it has {threads} threads before its main began")));
        }
        let mut number: *mut libc::pid_t = ptr::null_mut();
        let mut robust: (*mut c_void, usize) = (ptr::null_mut(), 0);
        // SAFETY: each call writes one value, of the size that its manual states, to the place it is given.
        let asked = unsafe {
            libc::prctl(PR_GET_TID_ADDRESS, &raw mut number) == 0
                && libc::syscall(libc::SYS_get_robust_list, 0, &raw mut robust.0, &raw mut robust.1) == 0
        };
        if !asked {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel writes to this place when the thread ends, so that it is a number of the C library's for as long as
        // the thread lives.
        let known =
            !number.is_null() && unsafe { *number } == rustix::thread::gettid().as_raw_nonzero().get();
        match known {
            true => Ok(SiblingFork { number, robust }),
            false => Err(io::Error::other("the C library keeps the thread's number elsewhere than glibc")),
        }
    }

    /// Returns twice, as fork(2) does. What libraries registered with pthread_atfork(3) is not called.
    pub(crate) fn fork(&self) -> io::Result<Forked> {
        let flags =
            libc::CLONE_PARENT | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        let flags = flags as libc::c_ulong;
        let (none, number) = (0_usize, self.number);
        // SAFETY: without CLONE_VM the child has a copy of this memory, and goes on on its copy of this stack. `number` is where
        // the C library wants the child's thread number, as in its own fork.
        #[cfg(not(target_arch = "aarch64"))]
        let forked = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, number, none) };
        // SAFETY: as above; here the last two are the other way round.
        #[cfg(target_arch = "aarch64")]
        let forked = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, number) };
        match forked {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: the list of the forking thread, whose copy is this thread's; the kernel has forgotten it at the fork.
                unsafe { libc::syscall(libc::SYS_set_robust_list, self.robust.0, self.robust.1) };
                Ok(Forked::Child(OneThread(PhantomData)))
            }
            _ => Ok(Forked::Parent),
        }
    }
}

impl OneThread {
    /// Removes these variables from the environment, and sets those.
    pub(crate) fn change_environment(self, removed: &[&str], set: &[(String, String)]) {
        for name in removed {
            // SAFETY: there is one thread, so that nobody reads the environment meanwhile.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in set {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_several_threads_forks_no_sibling() {
        std::thread::scope(|scope| {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || ended.recv());
            let refused = SiblingFork::new().unwrap_err().to_string();
            assert!(refused.ends_with("threads before its main began"), "{refused}");
            drop(end);
        });
    }
}
