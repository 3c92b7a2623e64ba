//! Processes of a cluster on this machine: how they are started, and how they are ended.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::ends::Ends;
use crate::daemon::TETHER_VARIABLE;
use crate::error::ClusterError;
use crate::host::{self, ProcessMark};
use crate::spawn::{self, Preparation};
use crate::state::{StateDir, log_tail};

/// Longest wait for processes to end after they were killed.
const KILLED: Duration = Duration::from_secs(5);
/// Lines of a log that go into an error.
const TAIL_LINES: usize = 12;
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Starts head and agents on this machine, and knows how they have ended.
#[derive(Debug, Clone)]
pub(super) struct Starter {
    program: PathBuf,
    state: StateDir,
    /// What tells them of their runner's end, in an owned cluster.
    tether: Option<Arc<OwnedFd>>,
    ends: Ends,
}

impl Starter {
    /// Starts processes of `program` for the cluster in `state`, and notes in `ends` how they end.
    pub(super) fn new(program: PathBuf, state: StateDir, tether: Option<OwnedFd>, ends: Ends) -> Starter {
        Starter { program, state, tether: tether.map(Arc::new), ends }
    }

    pub(super) fn state(&self) -> &StateDir {
        &self.state
    }

    /// Starts a process that does not end with this one, except by the tether.
    pub(super) fn start(&self, arguments: &[&str], log: &Path) -> Result<ProcessMark, ClusterError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(log)
            .map_err(|error| ClusterError::file(log, &error))?;
        let errors = file.try_clone().map_err(ClusterError::system("open a log"))?;
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--state").arg(self.state.root());
        command.stdout(file).stderr(errors).env_remove(TETHER_VARIABLE);
        let mut inherited = Vec::new();
        if let Some(tether) = &self.tether {
            let tether = tether.try_clone().map_err(ClusterError::system("copy the tether"))?;
            command.env(TETHER_VARIABLE, tether.as_raw_fd().to_string());
            inherited.push(tether);
        }
        spawn::prepare(&mut command, Preparation { own_session: true, inherited, ..Preparation::default() });
        let doing = format!("start {} {}", self.program.display(), arguments.join(" "));
        let child = command.spawn().map_err(ClusterError::system(doing))?;
        let mark = ProcessMark::of(child.id()).unwrap_or(ProcessMark { pid: child.id(), started: 0 });
        self.ends.wait_for(child)?;
        Ok(mark)
    }
}

/// That `who`, a process of this machine, has ended, if it has, how, and the last lines of its log.
pub(super) fn loss(who: &str, mark: ProcessMark, ends: &Ends, log: &Path) -> Option<ClusterError> {
    (!mark.lives()).then(|| {
        let what = format!("{who}, process {} of this machine, {}", mark.pid, ends.in_words(mark));
        ClusterError::Process { what, log: tail_of(log) }
    })
}

/// The lines of a log that go into an error.
pub(super) fn tail_of(log: &Path) -> Vec<String> {
    log_tail(log, TAIL_LINES)
}

/// A log's last lines, below a line that says what they are.
pub(super) fn quoted(title: String, lines: Vec<String>) -> Vec<String> {
    std::iter::once(title).chain(lines.into_iter().map(|line| format!("  {line}"))).collect()
}

/// The agents on this machine of the cluster in `state`: of `node`, or of all nodes.
pub(super) fn agents_here(state: &StateDir, node: Option<&str>) -> Vec<ProcessMark> {
    daemons_here(state, &[b"agent"], node)
}

/// Head and agents on this machine of the cluster in `state`, whoever has started them.
pub(super) fn all_here(state: &StateDir) -> Vec<ProcessMark> {
    daemons_here(state, &[b"head", b"agent"], None)
}

fn daemons_here(state: &StateDir, commands: &[&[u8]], node: Option<&str>) -> Vec<ProcessMark> {
    use std::os::unix::ffi::OsStrExt;
    let root = state.root().as_os_str().as_bytes();
    host::processes(|arguments| {
        let has = |name: &[u8], value: &[u8]| arguments.windows(2).any(|pair| pair == [name, value]);
        arguments.get(1).is_some_and(|command| commands.contains(command))
            && has(b"--state", root)
            && node.is_none_or(|node| has(b"--node", node.as_bytes()))
    })
}

/// A pipe whose reading end the daemons hold, and whose writing end nobody but this process does.
pub(super) fn tether() -> Result<(OwnedFd, OwnedFd), ClusterError> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| ClusterError::System { doing: "make a pipe".into(), source: error.into() })
}

/// Returns when the process has ended.
pub(super) async fn ended(process: ProcessMark) {
    while process.lives() {
        tokio::time::sleep(POLL).await;
    }
}

/// Waits `patience` for the processes to end by themselves, then kills them. Their workers end with them.
pub(super) async fn end_processes(mut living: Vec<ProcessMark>, patience: Duration) {
    let began = Instant::now();
    let mut killed = None;
    loop {
        living.retain(ProcessMark::lives);
        match killed {
            _ if living.is_empty() => return,
            None if began.elapsed() >= patience => {
                living.iter().for_each(|mark| mark.signal_group(Signal::KILL));
                killed = Some(Instant::now());
            }
            Some(at) if at.elapsed() >= KILLED => return,
            _ => {}
        }
        tokio::time::sleep(POLL).await;
    }
}
