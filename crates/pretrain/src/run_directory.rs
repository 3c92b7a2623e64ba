//! The folder of a run: what lies where in `DIR`, and that one run has it at a time.
//!
//! ```text
//! DIR/run.json       the run file as it was checked, paths absolute
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
        let epoch = before + 1;
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
    /// with other data, another model or another batch shape: those would make its log a lie.
    pub fn claim(&self, run: &RunFile) -> Result<RunLock, RunDirectoryError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |error| RunDirectoryError::Io { path, error }
        };
        fs::create_dir_all(&self.root).map_err(io(&self.root))?;
        let path = self.root.join("lock");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RunDirectoryError::InUse(self.root.clone())),
            Err(TryLockError::Error(error)) => return Err(io(&path)(error)),
        }
        let path = self.root.join("run.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let before: Option<RunFile> = serde_json::from_str(&text).ok();
                if let Some(difference) =
                    before.map_or(Some("run.json"), |before| first_difference(&before, run))
                {
                    return Err(RunDirectoryError::Other {
                        directory: self.root.clone(),
                        difference: difference.into(),
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = serde_json::to_string_pretty(run).map_err(|error| io(&path)(error.into()))?;
                let partial = self.root.join("run.json.partial");
                fs::write(&partial, text).map_err(io(&partial))?;
                fs::rename(&partial, &path).map_err(io(&path))?;
            }
            Err(error) => return Err(io(&path)(error)),
        }
        RunLock::take(file, &self.root).map_err(io(&self.root.join("attempt")))
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
