//! From a run file to a trainer: what the gang's ranks and a run without a cluster have in common.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lyceum_collective::Communicator;
use lyceum_model::{LlamaConfig, Parameters, Placement, initial_parameters, load_parameters};
use lyceum_pretrain::run_file::{Precision, RunFile, Start};
use lyceum_train::checkpoint::{CheckpointDirectory, CheckpointError};
use lyceum_train::{TrainError, Trainer, TrainerConfig};
use tch::Tensor;

/// The trainer's settings that a run file asks for, of one rank.
pub fn trainer_config(run: &RunFile) -> TrainerConfig {
    let trainer = &run.trainer;
    let rows_of_rank = trainer.batch_rows / trainer.world_size;
    TrainerConfig {
        learning_rate: trainer.learning_rate,
        minimum_learning_rate: trainer.learning_rate * trainer.minimum_rate_share,
        warmup_steps: trainer.warmup_steps,
        total_steps: trainer.steps,
        beta1: trainer.betas[0],
        beta2: trainer.betas[1],
        weight_decay: trainer.weight_decay,
        clip_norm: trainer.clip_norm,
        micro_batch_rows: trainer.micro_batch_rows.unwrap_or(rows_of_rank).min(rows_of_rank) as usize,
        precision: match run.model.precision {
            Precision::Auto => lyceum_train::Precision::Auto,
            Precision::Bf16 => lyceum_train::Precision::Bf16,
            Precision::Fp32 => lyceum_train::Precision::Fp32,
        },
        activation_checkpointing: trainer.activation_checkpointing,
        ..TrainerConfig::default()
    }
}

/// The trainer where the newest checkpoint left off, or at the first step.
pub fn start_trainer(
    run: &RunFile,
    checkpoints: &CheckpointDirectory,
    communicator: Box<dyn Communicator>,
) -> Result<Trainer> {
    let config = trainer_config(run);
    if let Some(checkpoint) = checkpoints.newest().map_err(cannot_resume)? {
        tracing::info!(path = %checkpoint.path().display(), "going on from a checkpoint");
        return Trainer::resume(config, &checkpoint, communicator).map_err(cannot_resume);
    }
    let (directory, start) = (run.model.directory.display(), run.model.start);
    tracing::info!(%directory, ?start, "beginning with the first weights");
    let model = LlamaConfig::load(&run.model.directory)?;
    let parameters = first_parameters(run, &model)?;
    let parameter = |name: &str| parameters.get(name).map(Tensor::shallow_clone);
    Ok(Trainer::new(config, model, parameter, communicator)?)
}

/// Says what helps where the newest checkpoint is damaged: there may be one before it.
fn cannot_resume(error: impl Into<TrainError>) -> anyhow::Error {
    let error = error.into();
    let help = match &error {
        TrainError::Checkpoint(CheckpointError::Damaged { .. }) => {
            "cannot go on from the newest checkpoint; without its folder the same command goes on from the one before"
        }
        _ => "cannot go on from the newest checkpoint",
    };
    anyhow::Error::new(error).context(help)
}

/// The tokenizer that goes with the model.
pub fn tokenizer_path(run: &RunFile) -> PathBuf {
    run.model.directory.join("tokenizer.json")
}

fn first_parameters(run: &RunFile, model: &LlamaConfig) -> Result<Parameters> {
    Ok(match run.model.start {
        Start::Random => initial_parameters(model, run.seed)?,
        Start::Weights => load_parameters(&run.model.directory, model, &Placement::reference())?,
    })
}

/// The folder of checkpoints of rank 0, claimed for `epoch`; of other ranks once rank 0 has claimed it.
pub fn checkpoint_directory(
    run: &RunFile,
    path: &Path,
    epoch: u64,
    rank: usize,
) -> Result<CheckpointDirectory> {
    let keep = run.checkpoint.keep as usize;
    Ok(if rank == 0 {
        CheckpointDirectory::claim(path, epoch, keep)?
    } else {
        CheckpointDirectory::of(path, epoch, keep)
    })
}
