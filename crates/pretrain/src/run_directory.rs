//! The folder of a run: what lies where in `DIR`, and that one run has it at a time.
//!
//! ```text
//! DIR/run.json       the run file as it was checked, paths absolute
//! DIR/files.json     fingerprints of the files that the run reads
//! DIR/lock           held by the run that writes here
//! DIR/attempt        the number of the attempt
//! DIR/records/       recorded texts, and the batch log that says which of them are in which batch
//! DIR/checkpoints/   step-000120/ ...
//! DIR/metrics.jsonl  one line a step
//! DIR/progress.json  what the summary needs beside the steps
//! DIR/summary.json   written at the end
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lyceum_corpus::assembly::{Assembly, AssemblyError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::identity::{Change, Identity, IdentityError};
use crate::run_file::RunFile;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    root: PathBuf,
}

/// Why a folder cannot be used for a run.
#[derive(Debug, thiserror::Error)]
pub enum RunDirectoryError {
    /// Another run writes there.
    #[error("{0} is in use by another run")]
    InUse(PathBuf),
    /// Another run file was used there before.
    #[error(
        "{directory} belongs to a run of other settings ({difference} differs): name another --out, or remove it"
    )]
    Other {
        /// The folder.
        directory: PathBuf,
        /// The first table or key that is not the same.
        difference: String,
    },
    /// A file has changed since the run began.
    #[error("{directory}: {changed}: name another --out for a new run, or bring the file back")]
    Changed {
        /// The folder.
        directory: PathBuf,
        /// What has changed.
        changed: Box<Change>,
    },
    /// A file of the run cannot be read.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// What is recorded cannot be read.
    #[error(transparent)]
    Records(#[from] AssemblyError),
    /// The folder cannot be made, read or written.
    #[error("{path}: {error}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// Holds a run's folder until it is dropped; the operating system frees it when the process dies.
#[derive(Debug)]
pub struct RunLock {
    /// Open for as long as the lock is held.
    _file: File,
    epoch: u64,
}

impl RunLock {
    /// The number of this attempt at the run: it grows with each, and what an older one still writes is refused.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes the next number. It is replaced whole: a kill leaves the old one or the new one.
    fn take(file: File, folder: &Path) -> io::Result<Self> {
        let (path, partial) = (folder.join("attempt"), folder.join("attempt.partial"));
        let before = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u64>().map_err(|_| io::Error::other("attempt: not a number"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let epoch =
            before.checked_add(1).ok_or_else(|| io::Error::other("attempt: no number comes after it"))?;
        let mut next = File::create(&partial)?;
        write!(next, "{epoch}")?;
        next.sync_all()?;
        fs::rename(partial, path)?;
        Ok(Self { _file: file, epoch })
    }
}

impl RunDirectory {
    /// The folder at `root`, which must be absolute.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes the folder or takes it up again. An interrupted run may be resumed with more steps or other hands, but not
    /// with other data, another model or another batch shape: those would make its log a lie. Until something is
    /// recorded, everything may still be changed.
    pub fn claim(&self, run: &RunFile) -> Result<RunLock, RunDirectoryError> {
        fs::create_dir_all(&self.root).map_err(at(&self.root))?;
        let path = self.root.join("lock");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RunDirectoryError::InUse(self.root.clone())),
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        let begun = self.has_begun()?;
        let (run_path, files_path) = (self.root.join("run.json"), self.root.join("files.json"));
        if begun {
            let before: Option<RunFile> = read_json(&run_path)?;
            if let Some(difference) = before.map_or(Some("run.json"), |before| first_difference(&before, run))
            {
                let (directory, difference) = (self.root.clone(), difference.into());
                return Err(RunDirectoryError::Other { directory, difference });
            }
        }
        let files = Identity::of(run)?;
        // A folder of an earlier version has no fingerprints: they are taken now.
        if begun
            && let Some(before) = read_json::<Identity>(&files_path)?
            && let Some(changed) = before.first_change(&files)
        {
            let changed = Box::new(changed);
            return Err(RunDirectoryError::Changed { directory: self.root.clone(), changed });
        }
        if !begun {
            write_json(&run_path, run)?;
        }
        write_json(&files_path, &files)?;
        RunLock::take(file, &self.root).map_err(at(&self.root.join("attempt")))
    }

    /// Whether anything is recorded or trained, so that the run's data cannot be changed any more.
    fn has_begun(&self) -> Result<bool, RunDirectoryError> {
        Ok(self.newest_checkpoint().is_some() || Assembly::holds_records(&self.records())?)
    }

    /// The newest checkpoint's step and folder. Checkpoints are whole or not there: they come into being by a rename.
    pub fn newest_checkpoint(&self) -> Option<(u64, PathBuf)> {
        let entries = fs::read_dir(self.checkpoints()).ok()?;
        let steps = entries.flatten().filter_map(|entry| {
            let path = entry.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        });
        steps.max()
    }

    /// Where an interrupted run goes on, in words.
    pub fn resumption(&self) -> String {
        let step = self.newest_checkpoint().map_or(0, |(step, _)| step);
        format!("the same command goes on from step {step}")
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Recorded texts and the batch log.
    pub fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    /// One folder a checkpoint.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }
}

/// Puts a path to a system's error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> RunDirectoryError {
    let path = path.to_path_buf();
    move |error| RunDirectoryError::Io { path, error }
}

/// Reads a file of JSON; `None` where there is none, or it is of another version.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RunDirectoryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Writes a file of JSON, whole or not at all.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RunDirectoryError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| at(path)(error.into()))?;
    let partial = path.with_extension("json.partial");
    fs::write(&partial, text).map_err(at(&partial))?;
    fs::rename(&partial, path).map_err(at(path))
}

/// Window and rounds of a run that has no synthesizer.
const UNSYNTHESIZED: (u32, u32) = (4096, 1);

/// The first setting that decides what is trained and is not the same.
fn first_difference(before: &RunFile, now: &RunFile) -> Option<&'static str> {
    let shape = |run: &RunFile| (run.trainer.sequence_length, run.trainer.batch_rows);
    // Window and rounds decide which documents a chain's number means.
    let chains = |run: &RunFile| {
        run.synthesizer.as_ref().map_or(UNSYNTHESIZED, |synthesizer| (synthesizer.window, synthesizer.rounds))
    };
    let differences = [
        ("synthesizer.window or synthesizer.rounds", chains(before) != chains(now)),
        ("seed", before.seed != now.seed),
        ("model", before.model != now.model),
        ("source", before.sources != now.sources),
        ("trainer.sequence_length or trainer.batch_rows", shape(before) != shape(now)),
    ];
    differences.into_iter().find_map(|(name, differs)| differs.then_some(name))
}
