//! What a run's data is made of: fingerprints of the files that decide it, so that an interrupted run is not resumed
//! over files that have changed.
//!
//! The sources, and the model's `config.json` and `tokenizer.json`: chains are numbered by what the sources hold, and
//! recorded as tokens. The first weights are not among them, a resumed run takes its own from the checkpoint; nor is what
//! is only measured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::{io, thread};

use lyceum_corpus::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::run_file::RunFile;

/// Bytes that are read of all files together; a run with more has its largest files read in part.
const BUDGET: u64 = 16 << 30;

/// Of any file at least so many bytes are read.
const LEAST: u64 = 64 << 20;

/// Files that are read at a time.
const AT_ONCE: usize = 4;

/// The fingerprints of a run's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity {
    files: BTreeMap<PathBuf, Fingerprint>,
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// What it was.
    pub before: Fingerprint,
    /// What it is.
    pub now: Fingerprint,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, before, now } = self;
        write!(out, "{} has changed since this run began (it had {before}, and has {now})", path.display())
    }
}

/// A file of the run cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct IdentityError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

impl Identity {
    /// Reads the files of `run`: at the pace of the disk, 16 GiB at most.
    pub fn of(run: &RunFile) -> Result<Self, IdentityError> {
        let model = ["config.json", "tokenizer.json"].map(|name| run.model.directory.join(name));
        let mut paths: Vec<PathBuf> = run.sources.iter().flat_map(|source| source.paths.clone()).collect();
        paths.extend(model);
        paths.sort();
        paths.dedup();
        let budget = (BUDGET / paths.len().max(1) as u64).max(LEAST);
        let share = paths.len().div_ceil(AT_ONCE).max(1);
        let files = thread::scope(|scope| {
            let read = |paths| scope.spawn(move || fingerprints(paths, budget));
            let reading: Vec<_> = paths.chunks(share).map(read).collect();
            // A thread that panics does so for want of memory: so does this one then.
            let joined = reading
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Self { files: files.into_iter().flatten().collect() })
    }

    /// The first file that both know and that is not the same. Which files there are is the run file's to say.
    pub fn first_change(&self, now: &Self) -> Option<Change> {
        self.files.iter().find_map(|(path, before)| {
            let now = now.files.get(path).filter(|&now| now != before)?;
            Some(Change { path: path.clone(), before: before.clone(), now: now.clone() })
        })
    }
}

fn fingerprints(paths: &[PathBuf], budget: u64) -> Result<Vec<(PathBuf, Fingerprint)>, IdentityError> {
    let of = |path: &PathBuf| {
        let read = Fingerprint::of(Path::new(path), budget);
        read.map(|found| (path.clone(), found)).map_err(|error| IdentityError { path: path.clone(), error })
    };
    paths.iter().map(of).collect()
}
