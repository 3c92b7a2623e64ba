//! A program as a template, from which an agent's workers are forked instead of being loaded anew.

use std::ffi::CString;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::process::exit;

use rustix::net::RecvFlags;
use rustix::process::Signal;

use super::FAILED;
use crate::agent::{AGENT_VARIABLE, STORE_VARIABLE};
use crate::birth::{self, MIN_DESCRIPTORS, Order, TEMPLATE_VARIABLE, Word};
use crate::daemon::TETHER_VARIABLE;
use crate::sibling::{Forked, OneThread, SiblingFork};
use crate::spawn;

/// The name of a template's thread, as `ps` shows it.
const NAME: &str = "lyceum-template";

/// What the `main` of a program that hosts actors does first.
///
/// An agent may have started the program as a template: then this waits for orders, and returns in each worker that is
/// forked, with that worker's environment, log and limits, as if the program had been started anew. In every other process it
/// returns at once. Whatever comes before it is done once for all workers; it must start no thread.
pub fn begin() {
    let Some(orders) = spawn::inherited_fd(TEMPLATE_VARIABLE) else { return };
    match wait_for_orders(orders) {
        Ok((descriptors, alone)) => come_up(descriptors, alone),
        Err(error) => {
            eprintln!("this program cannot be a template: {error}");
            exit(i32::from(FAILED));
        }
    }
}

/// Returns in a process that was forked. The template itself ends with its agent.
fn wait_for_orders(orders: OwnedFd) -> io::Result<(Vec<OwnedFd>, OneThread)> {
    let program = own_name();
    let fork = SiblingFork::new()?;
    name_thread(NAME);
    birth::send(&orders, &Word::Ready, &[])?;
    loop {
        let Some(((), descriptors)) = birth::receive::<()>(&orders, RecvFlags::empty())? else { exit(0) };
        let Some(line) = descriptors.first() else { continue };
        match fork.fork() {
            Ok(Forked::Parent) => {}
            Ok(Forked::Child(alone)) => {
                name_thread(&program);
                return Ok((descriptors, alone));
            }
            // An agent that does not hear it takes the line's end for an answer.
            Err(error) => _ = birth::send(line, &Word::Failed(format!("fork: {error}")), &[]),
        }
    }
}

/// Becomes what the order says, or ends.
fn come_up(descriptors: Vec<OwnedFd>, alone: OneThread) {
    let mut descriptors = descriptors.into_iter();
    let Some(line) = descriptors.next() else { exit(i32::from(FAILED)) };
    let done = become_worker(&line, descriptors.collect(), alone);
    let word = match &done {
        Ok(()) => Word::Ready,
        Err(error) => Word::Failed(error.to_string()),
    };
    // Where the agent does not hear it, it has ended, and this process with it.
    if birth::send(&line, &word, &[]).is_err() || done.is_err() {
        exit(i32::from(FAILED));
    }
}

fn become_worker(line: &OwnedFd, descriptors: Vec<OwnedFd>, alone: OneThread) -> io::Result<()> {
    birth::send(line, &Word::Born(std::process::id()), &[])?;
    let Some((order, _)) = birth::receive::<Order>(line, RecvFlags::empty())? else {
        return Err(io::Error::other("the agent gave no order"));
    };
    let missing = || io::Error::other(format!("expected {MIN_DESCRIPTORS} descriptors or one more"));
    let mut descriptors = descriptors.into_iter();
    let (control, store) = descriptors.next().zip(descriptors.next()).ok_or_else(missing)?;
    let (log, cgroup) = (descriptors.next().ok_or_else(missing)?, descriptors.next());
    rustix::process::setpgid(None, None)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The agent may have ended before the signal was asked for.
    let parent = rustix::process::getppid();
    if parent.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) != Some(order.agent) {
        return Err(io::Error::other(format!("its parent is {parent:?} and not the agent {}", order.agent)));
    }
    if let Some(set) = spawn::core_set(&order.cores) {
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    if let Some(procs) = cgroup {
        rustix::io::write(&procs, b"0")?;
    }
    spawn::say_into(&log)?;
    let mut variables = order.variables;
    // This process's from here on, under the numbers that the variables say.
    variables.push((AGENT_VARIABLE.into(), control.into_raw_fd().to_string()));
    variables.push((STORE_VARIABLE.into(), store.into_raw_fd().to_string()));
    alone.change_environment(&[TEMPLATE_VARIABLE, TETHER_VARIABLE], &variables);
    Ok(())
}

/// The file name of this program.
fn own_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names this thread; the kernel keeps 15 bytes of it.
fn name_thread(name: &str) {
    if let Ok(name) = CString::new(name) {
        // A name is for people.
        let _ = rustix::thread::set_name(&name);
    }
}
