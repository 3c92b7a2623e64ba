//! A cluster that `lyceum up` started.

use std::process::Command;

use crate::bed::Bed;
use crate::processes::Process;
use crate::programs;

/// A standing cluster of a bed's manifest. What is left of it when the bed is dropped fails the test.
#[derive(Debug)]
pub struct Standing<'a> {
    bed: &'a Bed,
}

impl<'a> Standing<'a> {
    pub(crate) fn up(bed: &'a Bed) -> Self {
        let cluster = Self { bed };
        cluster.command("up");
        cluster
    }

    /// Ends it.
    pub fn down(self) {
        self.command("down");
    }

    /// The processes of its head and agents.
    pub fn daemons(&self) -> Vec<Process> {
        self.bed.all_processes().into_iter().filter(is_daemon).collect()
    }

    /// The processes of all that runs on it.
    pub fn workers(&self) -> Vec<Process> {
        self.bed.all_processes().into_iter().filter(|process| !is_daemon(process)).collect()
    }

    fn command(&self, command: &str) {
        let mut lyceum = Command::new(programs::folder().join("lyceum"));
        lyceum.arg(command).arg(self.bed.path("cluster.toml")).env("LYCEUM_STATE_DIR", self.bed.state());
        let output = lyceum.output().expect("the program under test starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lyceum {command}: {said}");
    }
}

fn is_daemon(process: &Process) -> bool {
    ["head", "agent"].contains(&process.role.as_str())
}
