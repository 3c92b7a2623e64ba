//! What ends a step.

use lyceum_collective::CollectiveError;
use lyceum_model::ModelError;
use tch::TchError;

use crate::checkpoint::CheckpointError;

/// Why training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A batch that no rank may train on.
    #[error("batch at log position {log_position}: {reason}")]
    Batch {
        /// Where it lies in the batch log.
        log_position: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting that cannot be.
    #[error("trainer setting {setting} is {value}: {expected}")]
    Setting {
        /// The field of [`TrainerConfig`](crate::TrainerConfig).
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The ranks are not at the same step, batch or model.
    #[error(
        "rank {rank} has {what} {theirs} where rank {own_rank} has {ours}: all ranks must train on the same batch log"
    )]
    Disagreement {
        /// Who differs.
        rank: usize,
        /// From whom.
        own_rank: usize,
        /// In what.
        what: &'static str,
        /// Their value.
        theirs: u64,
        /// Our value.
        ours: u64,
    },
    /// An earlier step failed, and with it the epoch: the trainer's buffers are gone.
    #[error("this trainer failed before; build a new one from the newest checkpoint")]
    Failed,
    /// The collective failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The model refused its input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// The shim refused a call.
    #[error(transparent)]
    Shim(#[from] lyceum_torch_shim::ShimError),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
