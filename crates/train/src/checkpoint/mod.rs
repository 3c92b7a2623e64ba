//! Checkpoints: a directory per step, whole or not there.
//!
//! ```text
//! checkpoints/
//!   epoch                      the epoch of the gang that may commit here
//!   step-00000120/
//!     manifest                 one header line, then JSON: progress, configuration, every file's length and checksum
//!     optimizer/rank-00000     fp32 masters and moments of that rank's shards
//!     model/                   config.json, model.safetensors, tokenizer.json and its like: what transformers loads
//!   .step-00000160.partial     what a crash left of a checkpoint; swept away by the next gang
//! ```
//!
//! The ranks write into the partial directory; rank 0 adds the model and the manifest, syncs everything and renames it.
//! The rename is a compare-and-set on the gang's epoch: [`CheckpointDirectory::claim`] of a newer gang makes every commit
//! of an older one fail, so that a zombie does no harm. All ranks see the same file system.

mod manifest;
mod shard;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use lyceum_model::{LlamaConfig, ModelError, Parameters, StoredKind, save_directory};
use tch::Kind;

pub use manifest::{FileEntry, Manifest};

use crate::{TrainError, Trainer, TrainerConfig};
use lyceum_collective::Communicator;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what the manifest, or its own header, says.
    #[error("{}: {reason}: it is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer gang has claimed the directory.
    #[error("{}: epoch {newest} has claimed this directory, epoch {own} may no longer commit here", path.display())]
    StaleEpoch {
        /// The checkpoint directory.
        path: PathBuf,
        /// The epoch that claimed it.
        newest: u64,
        /// The epoch that tried.
        own: u64,
    },
    /// The checkpoint is of another model.
    #[error("{}: it is a checkpoint of another model: {reason}", path.display())]
    OtherModel {
        /// The checkpoint.
        path: PathBuf,
        /// In what they differ.
        reason: String,
    },
}

/// Where the checkpoints of one run lie.
#[derive(Debug, Clone)]
pub struct CheckpointDirectory {
    path: PathBuf,
    epoch: u64,
    keep: usize,
}

/// One whole checkpoint, its manifest read and its files' lengths checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
}

impl CheckpointDirectory {
    /// Makes `path` the directory of the gang of `epoch`, and of no older one, and sweeps away what crashes left. The newest
    /// `keep` checkpoints (at least one) are kept. For rank 0, before any rank trains.
    pub fn claim(path: &Path, epoch: u64, keep: usize) -> Result<Self, CheckpointError> {
        fs::create_dir_all(path).map_err(at(path))?;
        let directory = Self { path: path.to_owned(), epoch, keep: keep.max(1) };
        let _lock = directory.lock()?;
        directory.check_epoch()?;
        write_synced(&path.join("epoch.new"), format!("{epoch}\n").as_bytes())?;
        rename_synced(&path.join("epoch.new"), &path.join("epoch"))?;
        for entry in fs::read_dir(path).map_err(at(path))? {
            let entry = entry.map_err(at(path))?.path();
            if name(&entry).starts_with('.') && name(&entry).ends_with(".partial") {
                fs::remove_dir_all(&entry).map_err(at(&entry))?;
            }
        }
        Ok(directory)
    }

    /// [Claims](Self::claim) `path` for the epoch after the one that it belongs to, where no cluster counts epochs.
    pub fn claim_next(path: &Path, keep: usize) -> Result<Self, CheckpointError> {
        let next = claimed(path)?.map_or(0, |epoch| epoch.saturating_add(1));
        Self::claim(path, next, keep)
    }

    /// The same for the other ranks, after rank 0 has [claimed](Self::claim) it.
    pub fn of(path: &Path, epoch: u64, keep: usize) -> Self {
        Self { path: path.to_owned(), epoch, keep: keep.max(1) }
    }

    /// The newest whole checkpoint, if there is any. A damaged one is an error, not passed over: which older one to go back
    /// to is for a person to say.
    pub fn newest(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        self.checkpoints()?.last().map(|path| Checkpoint::open(path)).transpose()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The epoch that it was claimed for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Paths of the committed checkpoints, oldest first.
    fn checkpoints(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let path = entry.map_err(at(&self.path))?.path();
            if let Some(step) = name(&path).strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    fn partial(&self, step: u64) -> PathBuf {
        self.path.join(format!(".step-{step:08}.epoch-{}.partial", self.epoch))
    }

    /// Makes the partial directory of `step` a checkpoint, if this gang is still the newest, and removes the oldest ones.
    fn commit(&self, step: u64) -> Result<PathBuf, CheckpointError> {
        let whole = self.path.join(format!("step-{step:08}"));
        let _lock = self.lock()?;
        self.check_epoch()?;
        if whole.exists() {
            // The same step, trained again after going back: the new one stands.
            self.remove(&whole)?;
        }
        rename_synced(&self.partial(step), &whole)?;
        let checkpoints = self.checkpoints()?;
        for old in &checkpoints[..checkpoints.len().saturating_sub(self.keep)] {
            self.remove(old)?;
        }
        Ok(whole)
    }

    /// Removes a checkpoint. It is renamed first: whole or not there, also for whoever looks, or is killed, meanwhile.
    fn remove(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let doomed = self.path.join(format!(".{}.removed.partial", name(checkpoint)));
        if doomed.exists() {
            fs::remove_dir_all(&doomed).map_err(at(&doomed))?;
        }
        rename_synced(checkpoint, &doomed)?;
        fs::remove_dir_all(&doomed).map_err(at(&doomed))
    }

    fn check_epoch(&self) -> Result<(), CheckpointError> {
        let newest = claimed(&self.path)?.unwrap_or(0);
        if newest > self.epoch {
            return Err(CheckpointError::StaleEpoch { path: self.path.clone(), newest, own: self.epoch });
        }
        Ok(())
    }

    /// An advisory lock, held until it is dropped.
    fn lock(&self) -> Result<File, CheckpointError> {
        let path = self.path.join(".lock");
        let file = File::create(&path).map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(file)
    }
}

impl Checkpoint {
    /// Reads the manifest of the checkpoint at `path` and checks that every file is there in its full length.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let manifest = Manifest::read(&path.join("manifest"))?;
        for file in &manifest.files {
            let path = path.join(&file.path);
            let bytes = fs::metadata(&path).map_err(missing(&path))?.len();
            if bytes != file.bytes {
                let reason = format!("it has {bytes} bytes, the manifest says {}", file.bytes);
                return Err(CheckpointError::Damaged { path, reason });
            }
        }
        Ok(Self { path: path.to_owned(), manifest })
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Hugging Face directory in it.
    pub fn model_directory(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Reads every file and checks its checksum.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        self.manifest.files.iter().try_for_each(|file| file.verify(&self.path))
    }
}

impl Trainer {
    /// Writes a checkpoint of the current step, with `tokenizer` (a `tokenizer.json`) and its configuration copied into its
    /// model, and returns its path. A collective call: every rank returns after the commit.
    pub fn save_checkpoint(
        &mut self,
        directory: &CheckpointDirectory,
        tokenizer: Option<&Path>,
    ) -> Result<PathBuf, TrainError> {
        self.guarded(|trainer| trainer.try_save(directory, tokenizer))
    }

    /// A trainer that goes on where `checkpoint` was written, in a world of any size. Every file is verified. A
    /// collective call.
    pub fn resume(
        config: TrainerConfig,
        checkpoint: &Checkpoint,
        communicator: Box<dyn Communicator>,
    ) -> Result<Self, TrainError> {
        checkpoint.verify()?;
        let model = LlamaConfig::load(&checkpoint.model_directory()).map_err(ModelError::from)?;
        let mut trainer = Self::blank(config, model, communicator)?;
        trainer.guarded(|trainer| trainer.try_restore(checkpoint))?;
        Ok(trainer)
    }

    fn try_save(
        &mut self,
        directory: &CheckpointDirectory,
        tokenizer: Option<&Path>,
    ) -> Result<PathBuf, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let (rank, timeout, step) = (self.communicator.rank(), self.timeout(), self.progress.step);
        let partial = directory.partial(step);
        if rank == 0 {
            if partial.exists() {
                fs::remove_dir_all(&partial).map_err(at(&partial))?;
            }
            let optimizer = partial.join("optimizer");
            fs::create_dir_all(&optimizer).map_err(at(&optimizer))?;
        }
        self.communicator.barrier(timeout)?;
        shard::write(&partial.join(shard::file_name(rank)), rank, &self.groups)?;
        self.communicator.barrier(timeout)?;
        if rank == 0 {
            self.save_model(&partial.join("model"), tokenizer)?;
            let manifest = Manifest {
                epoch: directory.epoch,
                world_size: self.communicator.world_size(),
                progress: self.progress,
                config: self.config.clone(),
                files: manifest::list_files(&partial)?,
            };
            manifest.write(&partial.join("manifest"))?;
            for directory in ["optimizer", "model", ""] {
                let directory = partial.join(directory);
                sync(&directory)?;
            }
            directory.commit(step)?;
        }
        self.communicator.barrier(timeout)?;
        Ok(directory.path.join(format!("step-{step:08}")))
    }

    /// Writes the model alone, as a Hugging Face directory in the precision it computes in.
    pub fn save_model(&self, directory: &Path, tokenizer: Option<&Path>) -> Result<(), TrainError> {
        let parameters: Parameters = self
            .groups
            .iter()
            .flat_map(|group| group.layout.parameters.iter().zip(group.leaves()))
            .map(|(placed, leaf)| (placed.name.clone(), leaf.detach()))
            .collect();
        let kind = match self.llama.kind() {
            Kind::BFloat16 => StoredKind::BFloat16,
            _ => StoredKind::Float,
        };
        Ok(save_directory(directory, self.llama.config(), &parameters, kind, tokenizer)?)
    }

    fn try_restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let specs = self.llama.config().groups();
        shard::read_all(&checkpoint.path, checkpoint.manifest.world_size, &specs, &mut self.groups)?;
        let timeout = self.timeout();
        for group in &mut self.groups {
            group.round_masters()?;
            group.start_gather(&mut *self.communicator)?;
            group.finish_gather(&mut *self.communicator, timeout)?;
        }
        self.progress = checkpoint.manifest.progress;
        Ok(())
    }
}

/// The epoch that a checkpoint directory belongs to, if any ever claimed it.
fn claimed(directory: &Path) -> Result<Option<u64>, CheckpointError> {
    let path = directory.join("epoch");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let damaged = |_| CheckpointError::Damaged {
        reason: format!("it says {:?} where an epoch should be", text.trim()),
        path: path.clone(),
    };
    text.trim().parse().map(Some).map_err(damaged)
}

/// Puts a path to a system's error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, source }
}

/// As [`at`], of a file that belongs to a checkpoint: without it the checkpoint is damaged.
fn missing(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::Damaged { path, reason: "it is missing".into() },
        _ => CheckpointError::Io { path, source },
    }
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut file = File::create(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

fn rename_synced(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    fs::rename(from, to).map_err(at(to))?;
    sync(to.parent().unwrap_or(Path::new(".")))
}

fn sync(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(directory: &CheckpointDirectory, step: u64) {
        fs::create_dir_all(directory.partial(step)).unwrap();
    }

    #[test]
    fn a_gang_of_an_older_epoch_can_neither_commit_nor_claim() {
        let temporary = tempfile::tempdir().unwrap();
        let old = CheckpointDirectory::claim(temporary.path(), 3, 2).unwrap();
        partial(&old, 10);
        old.commit(10).unwrap();
        CheckpointDirectory::claim(temporary.path(), 4, 2).unwrap();
        partial(&old, 20);
        let error = old.commit(20).unwrap_err();
        assert!(matches!(error, CheckpointError::StaleEpoch { newest: 4, own: 3, .. }), "{error}");
        assert!(!temporary.path().join("step-00000020").exists());
        let error = CheckpointDirectory::claim(temporary.path(), 3, 2).unwrap_err();
        assert!(matches!(error, CheckpointError::StaleEpoch { .. }), "{error}");
    }

    #[test]
    fn the_newest_are_kept_and_what_a_crash_left_is_swept_away() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::claim(temporary.path(), 1, 2).unwrap();
        for step in [10, 20, 100] {
            partial(&directory, step);
            directory.commit(step).unwrap();
        }
        partial(&directory, 110);
        let names = || {
            let mut names: Vec<_> = fs::read_dir(temporary.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.contains("step"))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), [".step-00000110.epoch-1.partial", "step-00000020", "step-00000100"]);
        CheckpointDirectory::claim(temporary.path(), 2, 2).unwrap();
        assert_eq!(names(), ["step-00000020", "step-00000100"]);
    }
}
