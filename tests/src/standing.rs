//! A cluster that `lyceum up` started.

use crate::bed::Bed;
use crate::processes::{Process, TEMPLATE};

/// A standing cluster of a bed's manifest. What is left of it when the bed is dropped fails the test.
#[derive(Debug)]
pub struct Standing<'a> {
    bed: &'a Bed,
}

impl<'a> Standing<'a> {
    pub(crate) fn up(bed: &'a Bed) -> Self {
        bed.lyceum("up");
        Self { bed }
    }

    /// Ends it.
    pub fn down(self) {
        self.bed.lyceum("down");
    }

    /// The processes of its head and agents.
    pub fn daemons(&self) -> Vec<Process> {
        self.bed.all_processes().into_iter().filter(is_daemon).collect()
    }

    /// The processes of all that runs on it.
    pub fn workers(&self) -> Vec<Process> {
        let is_worker = |process: &Process| !is_daemon(process) && process.role != TEMPLATE;
        self.bed.all_processes().into_iter().filter(is_worker).collect()
    }
}

fn is_daemon(process: &Process) -> bool {
    ["head", "agent"].contains(&process.role.as_str())
}
