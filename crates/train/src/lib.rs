//! Block-by-block backward, flat optimizer, step and checkpoint.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod adamw;
mod batch;
pub mod checkpoint;
mod device;
mod error;
pub mod evaluate;
mod flat;
mod kernel;
mod layout;
pub mod local;
mod memory;
mod schedule;
mod trainer;
mod vote;
mod walk;

pub use batch::{Batch, IGNORED_LABEL, OwnedRow, Row};
pub use error::TrainError;
pub use memory::solo_communicator;
pub use schedule::Schedule;
pub use trainer::{Precision, Progress, StepReport, Trainer, TrainerConfig};
