//! The processes of a test's cluster: all that inherited the test's own state folder in their environment.

use std::fs;
use std::path::{Path, PathBuf};

/// A process of a cluster under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// `run`, `head`, `agent`, `template`, or the role of the actor that it hosts.
    pub role: String,
}

impl Process {
    /// Ends it at once; that it has ended already is no fault.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Whether a library of this name is mapped into it.
    pub fn has_loaded(&self, library: &str) -> bool {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid));
        maps.expect("the process runs").lines().any(|line| line.contains(library))
    }

    /// Sends it `signal`.
    pub fn signal(&self, signal: i32) {
        // SAFETY: takes two numbers; the process is this test's own, found by its state folder.
        unsafe { libc::kill(self.pid, signal) };
    }
}

/// All processes that run with `LYCEUM_STATE_DIR=state`. A process that has ended and was not waited for is none.
pub fn of(state: &Path) -> Vec<Process> {
    let marker = format!("LYCEUM_STATE_DIR={}\0", state.display());
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let mut found: Vec<Process> = numbers
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let marked = environment.windows(marker.len()).any(|window| window == marker.as_bytes());
            marked.then(|| Process { pid, role: role(&entry.path()) })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The role of a process that an agent forks workers from.
pub(crate) const TEMPLATE: &str = "template";

/// What a process is: the command's name, or, of a worker, the role that its log is named for (`00000003-packer.log`).
fn role(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let command = line.split(|byte| *byte == 0).nth(1).map(String::from_utf8_lossy).unwrap_or_default();
    if command != "worker" {
        return command.into_owned();
    }
    let log: PathBuf = fs::read_link(process.join("fd/1")).unwrap_or_default();
    let name = log.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    match name.split_once('-') {
        // It writes to its agent's log.
        Some(("agent", _)) => TEMPLATE.to_owned(),
        Some((_, role)) => role.to_owned(),
        None => name.to_owned(),
    }
}
