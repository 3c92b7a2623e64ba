//! Block-by-block backward, flat optimizer, step and checkpoint.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod adamw;
mod batch;
mod device;
mod error;
mod flat;
mod kernel;
mod layout;
mod memory;
mod schedule;
mod trainer;
mod vote;
mod walk;
pub mod checkpoint;

pub use batch::{Batch, IGNORED_LABEL, Row};
pub use error::TrainError;
pub use memory::solo_communicator;
pub use schedule::Schedule;
pub use trainer::{Precision, Progress, StepReport, Trainer, TrainerConfig};
