//! Which processes of a cluster run on this machine, and the lock under which that changes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::starter::all_here;
use crate::error::ClusterError;
use crate::host::ProcessMark;
use crate::state::{StateDir, read_json, remove, write_json};

/// Longest wait for another `up` or `down` of the same cluster.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Longest wait of a daemon that is about to end, for the same.
const KEYS_WAIT: Duration = Duration::from_secs(1);

/// What runs, as `up` wrote it down.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(super) owned: bool,
    /// Those that may be the head, by their numbers; only one where the others need not take over.
    pub(super) heads: BTreeMap<u32, ProcessMark>,
    pub(super) agents: BTreeMap<String, ProcessMark>,
    /// What it was started from: the program, and those beside it.
    #[serde(default)]
    pub(super) programs: Vec<PathBuf>,
}

impl RunRecord {
    pub(super) fn load(state: &StateDir) -> RunRecord {
        // No record, or a damaged one: then nothing is known to run.
        read_json(&Self::file(state)).unwrap_or_default()
    }

    pub(super) fn save(&self, state: &StateDir) -> Result<(), ClusterError> {
        write_json(&Self::file(state), self)
    }

    pub(super) fn file(state: &StateDir) -> PathBuf {
        state.root().join("run.json")
    }

    pub(super) fn head_lives(&self) -> bool {
        self.heads.values().any(ProcessMark::lives)
    }

    /// Is `process` one of those that were written down?
    fn names(&self, process: ProcessMark) -> bool {
        self.heads.values().chain(self.agents.values()).any(|known| *known == process)
    }

    /// Every process that lives, agents first.
    pub(super) fn living(&self) -> Vec<ProcessMark> {
        self.agents.values().chain(self.heads.values()).copied().filter(ProcessMark::lives).collect()
    }

    /// As [`living`](Self::living), with those that were started for `state` and never written down: whoever started
    /// them was killed before that.
    pub(super) fn living_and_strays(&self, state: &StateDir) -> Vec<ProcessMark> {
        let mut living = self.living();
        let daemons = all_here(state);
        living.extend(daemons.into_iter().filter(|daemon| !self.living().contains(daemon)));
        living
    }
}

/// Removes the keys of an owned cluster of which this process is a daemon and whose runner is gone: nobody else will.
/// Whoever holds the lock for longer is an `up` or `down` of the same name, which clears the folder itself.
pub(crate) async fn remove_keys(state: &StateDir) {
    let Ok(Ok(_lock)) = tokio::time::timeout(KEYS_WAIT, Lock::take(state)).await else { return };
    let record = RunRecord::load(state);
    // The folder may be another cluster's by now.
    if record.owned && ProcessMark::of(std::process::id()).is_some_and(|this| record.names(this)) {
        for path in [state.authority(), state.client(), state.nodes(), state.slurm()] {
            if let Err(error) = remove(&path) {
                tracing::warn!(%error, "keys are left");
            }
        }
    }
}

/// Held by `up` and `down` while they change what runs.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Lock {
    pub(super) async fn take(state: &StateDir) -> Result<Lock, ClusterError> {
        let path = state.lock_file();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| ClusterError::file(&path, &error))?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if began.elapsed() < LOCK_WAIT =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let path = path.display();
                    return Err(ClusterError::Refused(format!(
                        "another `up` or `down` holds {path} for more than {} s",
                        LOCK_WAIT.as_secs()
                    )));
                }
                Err(error) => return Err(ClusterError::file(&path, &error.into())),
            }
        }
    }
}
