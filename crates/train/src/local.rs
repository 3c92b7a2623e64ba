//! Training in one process, without a cluster: batches in, checkpoints out, resumable at any step.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use lyceum_model::{LlamaConfig, Parameters};
use tch::{Device, Tensor};

use crate::{
    Batch, OwnedRow, StepReport, TrainError, Trainer, TrainerConfig, checkpoint::CheckpointDirectory,
    keep_freed_memory, solo_communicator,
};

/// A training run of one process.
pub struct LocalJob {
    /// How to train, and for how many steps.
    pub config: TrainerConfig,
    /// What to train.
    pub model: LlamaConfig,
    /// Where to compute.
    pub device: Device,
    /// Where checkpoints go, and where an earlier run of the same job left off.
    pub directory: PathBuf,
    /// A `tokenizer.json` to put beside the model.
    pub tokenizer: Option<PathBuf>,
    /// Steps between checkpoints; the last step always has one.
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints stay.
    pub keep: usize,
}

/// What a step of a local run did, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalStep {
    /// The step.
    pub report: StepReport,
    /// Wall-clock time of the step itself, without the making of its batch.
    pub elapsed: Duration,
}

impl LocalStep {
    /// Tokens trained on per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.report.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl LocalJob {
    /// Trains to the configuration's last step, to the end of the batches, or until `observe` breaks off, whichever comes
    /// first; then writes a checkpoint and returns the trainer.
    ///
    /// `parameters` are asked for only where there is no checkpoint to go on from. `batches(position)` gives the rows of
    /// the batches from that position of the batch log on: the same ones in every run, or a resumed run is not the run
    /// that was broken off (L5).
    pub fn run<B: IntoIterator<Item = Vec<OwnedRow>>>(
        &self,
        parameters: impl FnOnce() -> Result<Parameters, TrainError>,
        batches: impl FnOnce(u64) -> B,
        mut observe: impl FnMut(&Trainer, &LocalStep) -> ControlFlow<()>,
    ) -> Result<Trainer, TrainError> {
        keep_freed_memory();
        let directory = CheckpointDirectory::claim_next(&self.directory, self.keep)?;
        let communicator = Box::new(solo_communicator(self.device, directory.epoch()));
        let mut trainer = match directory.newest()? {
            Some(checkpoint) => Trainer::resume(self.config.clone(), &checkpoint, communicator)?,
            None => {
                let parameters = parameters()?;
                let parameter = |name: &str| parameters.get(name).map(Tensor::shallow_clone);
                Trainer::new(self.config.clone(), self.model.clone(), parameter, communicator)?
            }
        };
        let mut saved = trainer.progress().step;
        if saved >= self.config.total_steps {
            return Ok(trainer);
        }
        for rows in batches(trainer.progress().log_position) {
            let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
            let start = Instant::now();
            let report = trainer.step(&Batch::new(trainer.progress().log_position, &rows))?;
            let stop = observe(&trainer, &LocalStep { report, elapsed: start.elapsed() }).is_break();
            let step = trainer.progress().step;
            if step.is_multiple_of(self.checkpoint_every.max(1)) {
                trainer.save_checkpoint(&directory, self.tokenizer.as_deref())?;
                saved = step;
            }
            if stop || step >= self.config.total_steps {
                break;
            }
        }
        if trainer.progress().step > saved {
            trainer.save_checkpoint(&directory, self.tokenizer.as_deref())?;
        }
        Ok(trainer)
    }
}
