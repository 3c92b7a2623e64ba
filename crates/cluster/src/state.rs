//! The folder in which a cluster on this machine keeps its keys, state, logs and process numbers.
//!
//! `$LYCEUM_STATE_DIR`, else `$XDG_STATE_HOME/lyceum`, else `~/.local/state/lyceum`; one folder per cluster, readable
//! by its owner alone:
//!
//! | path | holds |
//! |---|---|
//! | `lock` | held by `up` and `down` while they work |
//! | `head/` | configuration, the authority's key, database, address, process number |
//! | `nodes/NAME/` | the agent's configuration and credentials |
//! | `slurm/` | what Slurm's tasks are to start |
//! | `client/` | credentials of command-line clients |
//! | `logs/` | of head, agents and workers |
//! | `logs.old/` | those of the cluster of this name before |
//! | `run.json` | which processes run on this machine |
//!
//! A host that is reached by SSH has such a folder too, with `nodes/NAME/` and `logs/` of its own nodes alone.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ClusterError;

/// The folder of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The folder of the cluster named `cluster` under the default root of this user.
    ///
    /// # Errors
    /// `cluster` cannot be a cluster's name: as a path it might lead anywhere, and `down` clears the folder.
    pub fn of(cluster: &str) -> Result<StateDir, ClusterError> {
        crate::manifest::check_name("cluster name", cluster).map_err(ClusterError::Refused)?;
        Ok(StateDir { root: default_root()?.join(cluster) })
    }

    /// The folder at `root` itself.
    pub fn at(root: impl Into<PathBuf>) -> StateDir {
        StateDir { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that `up` and `down` lock.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The head's folder.
    pub fn head(&self) -> PathBuf {
        self.root.join("head")
    }

    /// Where the authority lives: with the head, and nowhere else.
    pub fn authority(&self) -> PathBuf {
        self.head().join("ca")
    }

    /// Where the head says what it listens on.
    pub fn head_address(&self) -> PathBuf {
        self.head().join("address")
    }

    /// Where candidate number `number` for the head says what it will listen on, where there are several.
    pub fn candidate_address(&self, number: u32) -> PathBuf {
        self.head().join(format!("candidate-{number}"))
    }

    /// The nodes' folders.
    pub fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// A node's folder.
    pub fn node(&self, node: &str) -> PathBuf {
        self.nodes().join(node)
    }

    /// Orders for the agents that Slurm starts.
    pub(crate) fn slurm(&self) -> PathBuf {
        self.root.join("slurm")
    }

    /// Credentials of command-line clients.
    pub fn client(&self) -> PathBuf {
        self.root.join("client")
    }

    /// Logs of head, agents and workers.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Logs of the last cluster of this name.
    pub fn old_logs(&self) -> PathBuf {
        self.root.join("logs.old")
    }

    /// The log of the head.
    pub fn head_log(&self) -> PathBuf {
        self.logs().join("head.log")
    }

    /// The log of candidate number `number` for the head.
    pub fn candidate_log(&self, number: u32) -> PathBuf {
        match number {
            0 => self.head_log(),
            number => self.logs().join(format!("head-{number}.log")),
        }
    }

    /// The log of a node's agent.
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.logs().join(format!("agent-{node}.log"))
    }

    /// The logs of a node's workers.
    pub fn worker_logs(&self, node: &str) -> PathBuf {
        self.logs().join(node)
    }

    /// Makes `path`, a folder inside this one, readable by its owner alone.
    pub fn make(&self, path: &Path) -> Result<(), ClusterError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| ClusterError::file(path, &error))
    }

    /// The names of clusters that have a folder under the default root of this user.
    pub fn clusters() -> Result<Vec<String>, ClusterError> {
        let root = default_root()?;
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ClusterError::file(&root, &error)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().join("head").is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }
}

fn default_root() -> Result<PathBuf, ClusterError> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = named("LYCEUM_STATE_DIR") {
        return Ok(root);
    }
    named("XDG_STATE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("lyceum"))
        .ok_or_else(|| {
            ClusterError::Refused(
                "neither LYCEUM_STATE_DIR nor XDG_STATE_HOME nor HOME is set: set one".into(),
            )
        })
}

/// Writes `value` as JSON; the file is there whole or not at all, readable by its owner alone.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ClusterError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| ClusterError::Refused(format!("{}: cannot be written: {error}", path.display())))?;
    write_whole(path, &text)
}

/// Reads what [`write_json`] wrote.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ClusterError> {
    let text = fs::read(path).map_err(|error| ClusterError::file(path, &error))?;
    from_json(&text).map_err(|error| ClusterError::Refused(format!("{}: {error}", path.display())))
}

pub(crate) fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("is damaged: {error}"))
}

/// Writes `bytes`; the file is there whole or not at all, readable by its owner alone.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ClusterError> {
    let fault = |error: &io::Error| ClusterError::file(path, error);
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|error| fault(&error))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| fault(&error))?;
    fs::rename(&fresh, path).map_err(|error| fault(&error))
}

/// Removes a file, or a folder with all that is in it; that there is none is no fault.
pub(crate) fn remove(path: &Path) -> Result<(), ClusterError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClusterError::file(path, &error)),
        _ => Ok(()),
    }
}

/// The last lines of a log, oldest first: at most `lines`, at most 8 KiB.
pub fn log_tail(path: &Path, lines: usize) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    const MOST: u64 = 8 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all.iter().skip(all.len().saturating_sub(lines)).map(|line| (*line).to_owned()).collect()
}
